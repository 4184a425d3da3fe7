//! Any bytes are refused or read as a message; what it checks is said at the function.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cloudlet_wire::testing::fuzz_frame(data));
