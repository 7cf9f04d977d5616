//! Kafka behind TLS and SASL, set up through librdkafka's own properties and nothing else.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anabranch_journal::conformance::PATIENCE;
use anabranch_journal::kafka::{KafkaConfig, KafkaJournal};
use anabranch_journal::{
    Cleanup, Error, Journal, NewRecord, ReadFrom, TopicPartition, TopicSpec, TransactionalId,
};
use anabranch_tests::support::{BrokerProcess, BrokerSettings, TlsFiles, free_port, wait_until};
use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

fn journal(address: &str, properties: &[(&str, &str)]) -> KafkaJournal {
    with_timeout(address, properties, Duration::from_secs(10))
}

/// For connections that fail whatever the time.
fn refused(address: &str, properties: &[(&str, &str)]) -> KafkaJournal {
    with_timeout(address, properties, Duration::from_secs(2))
}

fn with_timeout(
    address: &str,
    properties: &[(&str, &str)],
    request_timeout: Duration,
) -> KafkaJournal {
    let properties: BTreeMap<_, _> =
        properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let config =
        KafkaConfig { properties, request_timeout, ..KafkaConfig::new(address, "security") };
    KafkaJournal::connect(config).expect("the settings are well-formed")
}

/// Makes a topic, writes a transaction and reads it back: each kind of client connects.
fn use_all(journal: &KafkaJournal, topic: &str) {
    journal
        .ensure_topics(&[TopicSpec {
            name: topic.into(),
            partitions: 1,
            cleanup: Cleanup::Delete { retention_ms: Some(86_400_000) },
            max_record_bytes: 64 * 1024,
        }])
        .expect("a topic");
    let at = TopicPartition::new(topic, 0);
    let mut writer = journal.writer(&TransactionalId::from(topic)).expect("a writer");
    writer.begin().expect("begin");
    let (key, value) = (Bytes::from_static(b"key"), Some(Bytes::from_static(b"value")));
    writer.append(NewRecord { at: at.clone(), key, value }).expect("append");
    writer.commit().expect("commit");
    let mut reader = journal.reader(&[(at.clone(), ReadFrom::Start)]).expect("a reader");
    let mut records = Vec::new();
    wait_until("the record is read", PATIENCE, || {
        records = reader.poll(Duration::from_millis(50)).expect("poll");
        Ok(!records.is_empty())
    })
    .expect("it is there in time");
    assert_eq!(records[0].value.as_deref(), Some(b"value".as_slice()));
    journal.trim(&at, records[0].offset).expect("trim");
}

fn assert_unavailable(journal: &KafkaJournal, reason: &str) {
    let error = journal.bounds(&TopicPartition::new("any", 0)).expect_err("no connection");
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
    let error = error.to_string().to_lowercase();
    assert!(error.contains(reason), "the error does not say '{reason}': {error}");
}

/// A CA and what it signed, as PEM files.
struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(dir: &Path, name: &str) -> Self {
        let dir = dir.join(name);
        fs::create_dir(&dir).expect("a folder");
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key).expect("a certificate");
        fs::write(dir.join("ca.pem"), certificate.pem()).expect("a file");
        Authority { dir, issuer: Issuer::new(params, key) }
    }

    fn sign(&self, name: &str) {
        let key = KeyPair::generate().expect("a key");
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let mut params = CertificateParams::new(names).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        fs::write(self.dir.join(format!("{name}.pem")), certificate.pem()).expect("a file");
        fs::write(self.dir.join(format!("{name}.key")), key.serialize_pem()).expect("a file");
    }

    fn path(&self, file: &str) -> String {
        self.dir.join(file).display().to_string()
    }
}

/// Mutual TLS with PEM files; a client that trusts another CA, or has no certificate, is told so.
#[test]
fn mutual_tls() {
    let dir = TempDir::new().expect("a folder");
    let (ours, other) = (Authority::new(dir.path(), "ours"), Authority::new(dir.path(), "other"));
    ours.sign("broker");
    ours.sign("client");
    let files = TlsFiles {
        ca: ours.path("ca.pem").into(),
        certificate: ours.path("broker.pem").into(),
        key: ours.path("broker.key").into(),
    };
    let (port, tls_port) = (free_port(), free_port());
    let settings = BrokerSettings::default().tls(tls_port, files, true);
    let _broker =
        BrokerProcess::start_with(&dir.path().join("kafka"), port, settings).expect("a broker");
    let address = format!("127.0.0.1:{tls_port}");
    let (ca, other_ca) = (ours.path("ca.pem"), other.path("ca.pem"));
    let (certificate, key) = (ours.path("client.pem"), ours.path("client.key"));
    let tls = ("security.protocol", "ssl");
    let identity = [("ssl.certificate.location", certificate.as_str()), ("ssl.key.location", &key)];

    let trusted = [&[tls, ("ssl.ca.location", ca.as_str())][..], &identity].concat();
    use_all(&journal(&address, &trusted), "tls");

    let untrusted = [&[tls, ("ssl.ca.location", other_ca.as_str())][..], &identity].concat();
    assert_unavailable(&refused(&address, &untrusted), "certificate verify failed");
    let anonymous = [tls, ("ssl.ca.location", ca.as_str())];
    assert_unavailable(&refused(&address, &anonymous), "certificate");
    let missing = BTreeMap::from([
        ("security.protocol".to_owned(), "ssl".to_owned()),
        ("ssl.ca.location".to_owned(), "/no/such/file.pem".to_owned()),
    ]);
    let config = KafkaConfig { properties: missing, ..KafkaConfig::new(&address, "security") };
    let error = KafkaJournal::connect(config).err().expect("refused");
    assert!(matches!(error, Error::Invalid(_)), "{error:?}");
    assert!(error.to_string().contains("/no/such/file.pem"), "{error}");
}

/// SASL PLAIN and SCRAM; a wrong password is told.
#[test]
fn sasl() {
    let dir = TempDir::new().expect("a folder");
    let (port, sasl_port) = (free_port(), free_port());
    let settings = BrokerSettings::default().sasl(sasl_port, "ana", "branch");
    let _broker = BrokerProcess::start_with(dir.path(), port, settings).expect("a broker");
    let address = format!("127.0.0.1:{sasl_port}");
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let login = |password: &'static str| {
            [
                ("security.protocol", "sasl_plaintext"),
                ("sasl.mechanism", mechanism),
                ("sasl.username", "ana"),
                ("sasl.password", password),
            ]
        };
        use_all(&journal(&address, &login("branch")), &format!("sasl-{mechanism}"));
        assert_unavailable(&refused(&address, &login("wrong")), "authentication fail");
    }
}
