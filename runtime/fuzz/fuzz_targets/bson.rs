//! Any bytes are refused or read as a document; what it checks is said at the function.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cloudlet_docdb::testing::fuzz_bson(data));
