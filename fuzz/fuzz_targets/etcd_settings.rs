#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| twill::fuzz::etcd_settings(bytes));
