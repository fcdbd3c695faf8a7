#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hamal_fault_injection::fuzz::log(data));
