//! Keys of values are ordered as the values are; what it checks is said at the function.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cloudlet_docdb::testing::fuzz_keycode(data));
