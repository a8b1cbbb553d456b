#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hostile::handshake_sequences::run(input));
