#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hostile::tcp_frame::run(input));
