#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| countersign_fuzz::signature::try_on(data));
