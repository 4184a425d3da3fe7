//! An update of any bytes is refused or changes a document to a valid one; what it checks is said at the function.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cloudlet_docdb::testing::fuzz_update(data));
