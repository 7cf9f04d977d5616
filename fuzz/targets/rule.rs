//! Whatever bytes come as a rule.
#![no_main]

use anabranch_fuzz::{Input, check_rule};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| check_rule(&Input::new(bytes)));
