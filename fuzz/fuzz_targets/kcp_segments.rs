#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hostile::kcp_segments::run(input));
