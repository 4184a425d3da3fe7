//! The engine: wasmtime's settings, chosen by measurement, and the epoch ticker. Not here: what runs in it.
//!
//! A fresh instance of the hello fixture, `bench/micro/engine.rs` in a release build, two virtual cores of an AMD EPYC,
//! Linux 6.18. Five runs, lowest to highest (median): the machine's own speed changes by 1.8 between runs, so only
//! differences larger than that mean anything, and one run proves nothing.
//!
//! | settings                           | p50 of one invocation, us | two threads against one |
//! |------------------------------------|---------------------------|-------------------------|
//! | pool, defaults                     | 33-60 (49)                | 0.63-0.73 x (0.64)      |
//! | **pagemap scan, 4 MiB resident**   | 22-40 (39)                | 1.44-1.81 x (1.72)      |
//! | the same, no signals and no guards | 22-37 (32)                | 1.59-1.91 x (1.77)      |
//!
//! - The scan finds the pages that an instance has written and copies just these back, so they are neither given
//!   back to the kernel nor faulted in again: that is what lets two threads of one process scale. 1 and 64 MiB
//!   resident measure the same as 4.
//! - Traps by signals stay on, and not for speed: without them an invocation of hello is no slower and may be
//!   faster. But then wasmtime has to turn its mitigations of Spectre off, between apps of different owners, and
//!   checks every access to memory in code. What these checks cost a function that computes is not measured yet.
//! - Neither this guest nor one with the linker's usual 1.1 MiB grows its memory (no mprotect call per invocation in
//!   either), so what growing costs is not in these numbers.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, WasmBacktraceDetails,
};

use crate::error::LoadError;
use crate::host::HostConfig;
use crate::turns::Computing;

/// One tick of the epoch: how long a guest may compute before its thread's other connections get a turn. 500
/// wake-ups a second are an estimated 0.1% of one core on an idle node; not measured.
pub(crate) const EPOCH_TICK: Duration = Duration::from_millis(2);

/// One while there are guests that compute for longer than that: the length of their slices, which is what everybody else
/// on their threads waits for.
const EPOCH_TICK_SHORT: Duration = Duration::from_micros(250);

/// How long the epoch stays what it is.
pub(crate) fn epoch_tick(computing: &Computing) -> Duration {
    match computing.any() {
        true => EPOCH_TICK_SHORT,
        false => EPOCH_TICK,
    }
}

/// Core instances per component instance: the guest's own module, its adapter and the shims that
/// wit-component makes between them, with room for a composition of two.
const CORE_INSTANCES_PER_COMPONENT: u32 = 20;

/// Tables per instance: the guest's own and those of the shims.
const TABLES_PER_INSTANCE: u32 = 4;

/// Elements of one table. An interpreter compiled to wasm has some ten thousand functions in its table.
const TABLE_ELEMENTS_MAX: usize = 100_000;

/// Bytes of a used memory that its slot keeps mapped for the next instance, reset by copying instead of being given
/// back to the kernel and faulted in again.
const MEMORY_KEEP_RESIDENT_BYTES: usize = 4 << 20;

/// The same for tables.
const TABLE_KEEP_RESIDENT_BYTES: usize = 160 << 10;

/// Starts the engine.
pub(crate) fn engine(config: &HostConfig) -> Result<Engine, LoadError> {
    let pagemap = PoolingAllocationConfig::is_pagemap_scan_available();
    if !pagemap {
        tracing::warn!(
            "this kernel has no PAGEMAP_SCAN (Linux 6.7 and later): resetting an instance costs about twice as much"
        );
    }
    Engine::new(&settings(config, pagemap))
        .map_err(|error| LoadError::Internal(format!("start the engine: {error:#}")))
}

fn settings(config: &HostConfig, pagemap: bool) -> Config {
    let instances = config.instances_max;
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(CORE_INSTANCES_PER_COMPONENT))
        .total_memories(instances)
        .total_tables(instances.saturating_mul(TABLES_PER_INSTANCE))
        .total_stacks(instances)
        .table_elements(TABLE_ELEMENTS_MAX)
        .max_memory_size(config.memory_bytes_max)
        .table_keep_resident(TABLE_KEEP_RESIDENT_BYTES)
        // Without the scan, keeping memory resident means to copy the whole range each time, which costs more than
        // page faults do.
        .linear_memory_keep_resident(if pagemap { MEMORY_KEEP_RESIDENT_BYTES } else { 0 })
        .pagemap_scan(if pagemap { Enabled::Yes } else { Enabled::No });
    let mut engine = Config::new();
    engine
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .memory_init_cow(true)
        .epoch_interruption(true)
        // One invocation runs one guest call at a time; nothing here uses the machinery for more.
        .concurrency_support(false)
        .signals_based_traps(true)
        // A crash is told with files and lines where the component has DWARF. That stays in the artifact's file, which
        // is mapped, not read: its pages come into memory when something crashes, and nothing is spent on it before.
        .wasm_backtrace_details(WasmBacktraceDetails::Enable);
    engine
}

/// Moves the engine's epoch on until dropped.
pub(crate) struct Ticker {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    /// Starts the thread.
    pub(crate) fn start(engine: &Engine, computing: Computing) -> Result<Self, LoadError> {
        let (stop, stopped) = channel::<()>();
        let engine = engine.weak();
        let thread = std::thread::Builder::new()
            .name("epoch-ticker".into())
            .spawn(move || {
                while stopped.recv_timeout(epoch_tick(&computing)) == Err(RecvTimeoutError::Timeout) {
                    match engine.upgrade() {
                        Some(engine) => engine.increment_epoch(),
                        None => return,
                    }
                }
            })
            .map_err(|error| LoadError::Internal(format!("start the epoch ticker: {error}")))?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the ticker has been reported by the panic hook; there is nothing left to do about it.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use wasmtime::{Instance, Module, Store};

    use super::*;

    /// A memory, a table and a global that are filled by one instance; what the next one finds in the same slots.
    const MODULE: &str = r#"(module
        (memory 1 64)
        (table $t 1000 2000 funcref)
        (global $g (mut i64) (i64.const 0))
        (func $f)
        (elem declare func $f)
        (func (export "stain")
            (drop (memory.grow (i32.const 31)))
            (memory.fill (i32.const 0) (i32.const 0xaa) (i32.const 0x200000))
            (drop (table.grow $t (ref.func $f) (i32.const 1000)))
            (table.fill $t (i32.const 0) (ref.func $f) (i32.const 2000))
            (global.set $g (i64.const -1)))
        (func (export "scan") (result i32) (local $at i32) (local $found i32)
            (drop (memory.grow (i32.sub (i32.const 64) (memory.size))))
            (local.set $found (i32.ne (i32.wrap_i64 (global.get $g)) (i32.const 0)))
            (loop $words
                (local.set $found (i32.add (local.get $found) (i64.ne (i64.load (local.get $at)) (i64.const 0))))
                (br_if $words (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 8))) (i32.const 0x400000))))
            (local.set $at (i32.const 0))
            (loop $entries
                (local.set $found (i32.add (local.get $found) (i32.eqz (ref.is_null (table.get $t (local.get $at))))))
                (br_if $entries (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 1))) (table.size $t))))
            (local.get $found)))"#;

    #[test]
    fn a_recycled_slot_holds_nothing_of_who_had_it() {
        let mut config = HostConfig::new(std::path::PathBuf::new());
        config.instances_max = 1;
        for pagemap in [PoolingAllocationConfig::is_pagemap_scan_available(), false] {
            let engine = Engine::new(&settings(&config, pagemap)).unwrap();
            let module = Module::new(&engine, wat::parse_str(MODULE).unwrap()).unwrap();
            // The same module again, whose image in the slot is taken for another's.
            let other =
                Module::new(&engine, wat::parse_str(MODULE.replace("1 64", "1 65")).unwrap()).unwrap();
            let run = |module: &Module, stain: bool| {
                let mut store = Store::new(&engine, ());
                store.set_epoch_deadline(1);
                let instance = Instance::new(&mut store, module, &[]).unwrap();
                if stain {
                    let stain = instance.get_typed_func::<(), ()>(&mut store, "stain").unwrap();
                    stain.call(&mut store, ()).unwrap();
                }
                let scan = instance.get_typed_func::<(), i32>(&mut store, "scan").unwrap();
                scan.call(&mut store, ()).unwrap()
            };
            for next in [&module, &other, &module] {
                // The scan finds what there is.
                assert_eq!(run(&module, true), 0x20_0000 / 8 + 2000 + 1);
                assert_eq!(run(next, false), 0, "pagemap scan: {pagemap}");
            }
        }
    }
}
