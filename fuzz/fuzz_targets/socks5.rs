#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hostile::socks5::run(input));
