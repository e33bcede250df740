//! See the law.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    rhizomq_stomp::fuzzing::selector(bytes);
});
