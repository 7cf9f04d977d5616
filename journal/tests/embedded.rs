//! The embedded log keeps what every journal promises.

use std::path::PathBuf;
use std::sync::Arc;

use anabranch_journal::Journal;
use anabranch_journal::conformance::Harness;
use anabranch_journal::conformance_tests;
use anabranch_journal::embedded::{EmbeddedConfig, EmbeddedJournal};
use tempfile::TempDir;

/// A log in a directory of its own; the one that made it removes it.
struct EmbeddedHarness {
    path: PathBuf,
    _made: Option<TempDir>,
}

impl Harness for EmbeddedHarness {
    fn create() -> Self {
        let made = TempDir::new().expect("a temporary directory can be made");
        EmbeddedHarness { path: made.path().join("log"), _made: Some(made) }
    }

    fn attach(address: &str) -> Self {
        EmbeddedHarness { path: address.into(), _made: None }
    }

    fn address(&self) -> String {
        self.path.to_str().expect("a temporary directory has a name in UTF-8").to_owned()
    }

    fn open(&self) -> Arc<dyn Journal> {
        EmbeddedJournal::open(EmbeddedConfig::new(&self.path)).expect("the log opens")
    }
}

conformance_tests!(EmbeddedHarness);
