//! Geometries of any bytes are refused or hold to the laws of places; what it checks is said at the function.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cloudlet_docdb::testing::fuzz_geo(data));
