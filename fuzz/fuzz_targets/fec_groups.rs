#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hostile::fec_groups::run(input));
