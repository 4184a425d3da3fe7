//! A file of any bytes is read as BSON or refused; what it checks is said at the function.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cloudlet_data::formats::fuzz::import_bson(data));
