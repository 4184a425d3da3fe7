//! A projection of any bytes is refused or gives a valid document; what it checks is said at the function.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cloudlet_docdb::testing::fuzz_projection(data));
