#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rbuild_frontend::fuzzing::words(data));
