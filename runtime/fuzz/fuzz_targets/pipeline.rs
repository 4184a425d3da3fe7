//! A pipeline of any bytes is refused or run on a document; what it checks is said at the function.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cloudlet_docdb::testing::fuzz_pipeline(data));
