//! It keeps what every journal promises, but for crashes, which it does not survive.

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_runtime::clock::now_millis;
use parking_lot::Mutex;
use uuid::Uuid;

use super::MemoryJournal;
use crate::conformance::Harness;
use crate::conformance_tests;
use crate::log::Journal;

static LOGS: Mutex<BTreeMap<String, MemoryJournal>> = Mutex::new(BTreeMap::new());

struct MemoryHarness(String);

impl Harness for MemoryHarness {
    fn create() -> Self {
        let address = Uuid::new_v4().to_string();
        let log = MemoryJournal::new();
        log.set_time(now_millis());
        LOGS.lock().insert(address.clone(), log);
        MemoryHarness(address)
    }

    fn attach(address: &str) -> Self {
        MemoryHarness(address.to_owned())
    }

    fn address(&self) -> String {
        self.0.clone()
    }

    fn open(&self) -> Arc<dyn Journal> {
        Arc::new(LOGS.lock()[&self.0].clone())
    }
}

conformance_tests!(without_crashes: MemoryHarness);
