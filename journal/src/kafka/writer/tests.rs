//! What the answers to a commit say, with librdkafka's own mock of a broker.

use anabranch_core::ErrorKind;
use bytes::Bytes;
use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr as Answer};

use super::super::TopicFacts;
use crate::kafka::{KafkaConfig, KafkaJournal};
use crate::log::{Journal, NewRecord, TopicPartition, TransactionalId};

#[test]
fn an_answer_to_a_commit_says_whether_it_may_have_happened() {
    let cases = [
        (Answer::RD_KAFKA_RESP_ERR_UNKNOWN, ErrorKind::Unknown),
        (Answer::RD_KAFKA_RESP_ERR_INVALID_TXN_STATE, ErrorKind::Unknown),
        (Answer::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_ID_MAPPING, ErrorKind::Retry),
        (Answer::RD_KAFKA_RESP_ERR_PRODUCER_FENCED, ErrorKind::Fenced),
    ];
    let broker = MockCluster::new(1).expect("a mock of a broker");
    let topic = "commits";
    broker.create_topic(topic, 1, 1).expect("a topic");
    let config = KafkaConfig::new(broker.bootstrap_servers(), "writer");
    let journal = KafkaJournal::connect(config).expect("the settings are right");
    // The mock does not tell the settings of topics.
    let facts = TopicFacts { partitions: 1, max_record_bytes: Some(1024) };
    journal.shared.topics.write().insert(topic.into(), facts);
    for (answer, kind) in cases {
        let mut writer = journal.writer(&TransactionalId::from("id")).expect("a writer");
        writer.begin().expect("begin");
        let (at, key) = (TopicPartition::new(topic, 0), Bytes::from_static(b"key"));
        writer.append(NewRecord { at, key, value: None }).expect("append");
        writer.flush().expect("flush");
        broker.request_errors(RDKafkaApiKey::EndTxn, &[answer]);
        let error = writer.commit().expect_err("the broker says so");
        assert_eq!(error.kind(), kind, "{answer:?} gave {error:?}");
        assert!(writer.is_spent(), "{answer:?}");
        drop(writer);
        broker.clear_request_errors(RDKafkaApiKey::EndTxn);
    }
}
