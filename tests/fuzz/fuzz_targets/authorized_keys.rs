#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| countersign_fuzz::authorized_keys::try_on(data));
