#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| countersign_fuzz::notes::try_on(data));
