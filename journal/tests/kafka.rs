//! The conformance suite on Kafka, and what Kafka alone can do wrong.

use std::sync::Arc;

use anabranch_journal::Journal;
use anabranch_journal::conformance::Harness;
use anabranch_journal::kafka::{KafkaConfig, KafkaJournal};
use anabranch_tests::support::Broker;

struct KafkaHarness {
    bootstrap: String,
}

impl Harness for KafkaHarness {
    fn create() -> Self {
        KafkaHarness { bootstrap: Broker::shared().address().to_owned() }
    }

    fn attach(address: &str) -> Self {
        KafkaHarness { bootstrap: address.to_owned() }
    }

    fn address(&self) -> String {
        self.bootstrap.clone()
    }

    fn open(&self) -> Arc<dyn Journal> {
        let config = KafkaConfig::new(&self.bootstrap, "conformance");
        Arc::new(KafkaJournal::connect(config).expect("the settings are right"))
    }
}

anabranch_journal::conformance_tests!(KafkaHarness);
