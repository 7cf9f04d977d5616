//! Whatever bytes come as a statement.
#![no_main]

use anabranch_fuzz::{Input, check_statement};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| check_statement(&Input::new(bytes)));
