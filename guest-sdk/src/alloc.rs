//! The allocator of a fresh instance: the first [`ARENA_BYTES`] come from zeroed static memory by moving a mark.
//!
//! Why: an instance usually serves one request and is thrown away. A simple request never grows linear memory, whose
//! growth and reset cost system calls in a host that guards memory by page protection, and no books are kept that
//! nobody will read. The arena is part of the initial memory (`.bss`: nothing in the file, no page until it is touched).
//! On a host that checks bounds in code the difference is too small to see; 13 KB of code is what it costs there.
//!
//! Only the newest block is given back or grown in place. Blocks over [`BLOCK_BYTES_MAX`], and everything once the
//! arena is full, go to the system's allocator, so that a long-running or data-heavy function loses at most the
//! arena. A function that wants another `#[global_allocator]` turns the feature `arena` off.

#![allow(unsafe_code, reason = "a global allocator is unsafe by its nature")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;

/// Size of the arena.
pub(crate) const ARENA_BYTES: usize = 512 << 10;

/// Larger blocks are the system's from the start.
const BLOCK_BYTES_MAX: usize = ARENA_BYTES / 4;

#[repr(align(4096))]
struct Memory(UnsafeCell<[u8; ARENA_BYTES]>);

/// The allocator. Its state is not synchronised: a guest has one thread.
pub(crate) struct Arena {
    memory: Memory,
    /// Offset of the first free byte.
    free: UnsafeCell<usize>,
    /// Offset from which memory was never handed out, and so is zero still.
    untouched: UnsafeCell<usize>,
}

// SAFETY: the allocator is only installed on wasm32 without atomics, where there is one thread. The tests below use
// an arena of their own on one thread each.
unsafe impl Sync for Arena {}

impl Arena {
    pub(crate) const fn new() -> Self {
        Self {
            memory: Memory(UnsafeCell::new([0; ARENA_BYTES])),
            free: UnsafeCell::new(0),
            untouched: UnsafeCell::new(0),
        }
    }

    fn base(&self) -> *mut u8 {
        self.memory.0.get().cast()
    }

    /// The offset of a block of ours; none for the system's.
    fn offset(&self, block: *mut u8) -> Option<usize> {
        let offset = (block as usize).wrapping_sub(self.base() as usize);
        (offset < ARENA_BYTES).then_some(offset)
    }

    /// Moves the mark over a new block. Returns its offset and whether it is zero still.
    fn take(&self, layout: Layout) -> Option<(usize, bool)> {
        if layout.size() > BLOCK_BYTES_MAX || layout.align() > 4096 {
            return None;
        }
        // SAFETY: one thread, and no reference outlives this function.
        let (free, untouched) = unsafe { (&mut *self.free.get(), &mut *self.untouched.get()) };
        let start = free.checked_add(layout.align() - 1)? & !(layout.align() - 1);
        let end = start.checked_add(layout.size())?;
        if end > ARENA_BYTES {
            return None;
        }
        let zero = start >= *untouched;
        *free = end;
        *untouched = end.max(*untouched);
        Some((start, zero))
    }
}

// SAFETY: blocks are disjoint ranges of the arena, aligned as asked because the arena is aligned to 4096, or blocks
// of the system's allocator, told apart by their address.
unsafe impl GlobalAlloc for Arena {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match self.take(layout) {
            // SAFETY: `take` answers offsets within the arena.
            Some((offset, _)) => unsafe { self.base().add(offset) },
            // SAFETY: the caller keeps GlobalAlloc's contract.
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match self.take(layout) {
            Some((offset, zero)) => {
                // SAFETY: `take` answers offsets within the arena, of `layout.size()` bytes that are ours.
                let block = unsafe { self.base().add(offset) };
                if !zero {
                    // SAFETY: as above.
                    unsafe { block.write_bytes(0, layout.size()) };
                }
                block
            }
            // SAFETY: the caller keeps GlobalAlloc's contract.
            None => unsafe { System.alloc_zeroed(layout) },
        }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match self.offset(block) {
            Some(offset) => {
                // SAFETY: one thread, and the reference ends here.
                let free = unsafe { &mut *self.free.get() };
                if offset + layout.size() == *free {
                    *free = offset;
                }
            }
            // SAFETY: not ours, so it came from the system's allocator with this layout.
            None => unsafe { System.dealloc(block, layout) },
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Some(offset) = self.offset(block) else {
            // SAFETY: not ours, so it came from the system's allocator with this layout.
            return unsafe { System.realloc(block, layout, size) };
        };
        // SAFETY: one thread, and the references end in this block.
        unsafe {
            let free = &mut *self.free.get();
            let newest = offset + layout.size() == *free;
            if newest && size <= BLOCK_BYTES_MAX && offset + size <= ARENA_BYTES {
                *free = offset + size;
                let untouched = &mut *self.untouched.get();
                *untouched = (*untouched).max(*free);
                return block;
            }
        }
        if size <= layout.size() {
            return block;
        }
        // SAFETY: the caller promises that `size` with this alignment is a valid layout; the blocks are disjoint.
        unsafe {
            let moved = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !moved.is_null() {
                moved.copy_from_nonoverlapping(block, layout.size());
                self.dealloc(block, layout);
            }
            moved
        }
    }
}

#[cfg(target_arch = "wasm32")]
#[global_allocator]
static ARENA: Arena = Arena::new();

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).expect("a valid layout")
    }

    #[test]
    fn blocks_are_aligned_disjoint_and_grow_in_place_when_newest() {
        static ARENA: Arena = Arena::new();
        let arena = &ARENA;
        unsafe {
            let a = arena.alloc(layout(3, 1));
            let b = arena.alloc(layout(8, 8));
            assert_eq!(b as usize % 8, 0);
            assert!(b as usize >= a as usize + 3);
            b.write_bytes(7, 8);
            let grown = arena.realloc(b, layout(8, 8), 100);
            assert_eq!(grown, b);
            let moved = arena.realloc(a, layout(3, 1), 50);
            assert_ne!(moved, a);
            assert_eq!(*b, 7);
            arena.dealloc(moved, layout(50, 1));
            assert_eq!(arena.alloc(layout(50, 1)), moved);
        }
    }

    #[test]
    fn zeroed_blocks_are_zero_after_reuse() {
        static ARENA: Arena = Arena::new();
        let arena = &ARENA;
        unsafe {
            let a = arena.alloc(layout(64, 1));
            a.write_bytes(9, 64);
            arena.dealloc(a, layout(64, 1));
            let b = arena.alloc_zeroed(layout(64, 1));
            assert_eq!(a, b);
            assert!(std::slice::from_raw_parts(b, 64).iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn a_full_arena_and_large_blocks_fall_back_to_the_system() {
        static ARENA: Arena = Arena::new();
        let arena = &ARENA;
        unsafe {
            let large = arena.alloc(layout(BLOCK_BYTES_MAX + 1, 8));
            assert_eq!(arena.offset(large), None);
            for _ in 0..4 {
                assert!(arena.offset(arena.alloc(layout(BLOCK_BYTES_MAX, 8))).is_some());
            }
            let over = arena.alloc(layout(16, 8));
            assert_eq!(arena.offset(over), None);
            let over = arena.realloc(over, layout(16, 8), 1 << 20);
            arena.dealloc(over, layout(1 << 20, 8));
            arena.dealloc(large, layout(BLOCK_BYTES_MAX + 1, 8));
        }
    }
}
