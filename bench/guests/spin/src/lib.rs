//! Computes for a while, as a bad neighbour does.

/// Steps of a generator of numbers, some half a second of one core.
const STEPS: u32 = 300_000_000;

/// The handler. Counts by steps and not by a clock, for it shall compute as much when others take turns.
#[cloudlet::http]
fn main() -> &'static str {
    let mut state = 1_u32;
    for _ in 0..STEPS {
        state = std::hint::black_box(state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    }
    if state == 0 { "none\n" } else { "done\n" }
}
