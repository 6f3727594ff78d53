#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| countersign_fuzz::replay::try_on(data));
