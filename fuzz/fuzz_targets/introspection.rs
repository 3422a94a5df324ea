#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| envoy_auth_tokens::fuzzing::introspection::run(data));
