#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hostile::smux_frames::run(input));
