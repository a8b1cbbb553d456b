#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hostile::proxy_request::run(input));
