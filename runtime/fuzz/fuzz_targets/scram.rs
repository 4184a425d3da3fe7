//! Any bytes are refused as a login; what it checks is said at the function.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cloudlet_wire::testing::fuzz_scram(data));
