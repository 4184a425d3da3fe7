//! An expression of any bytes is refused or evaluated on a document; what it checks is said at the function.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cloudlet_docdb::testing::fuzz_expression(data));
