//! What is built on the journal, on a real Kafka: rounds, metadata, cursors.

use std::collections::BTreeMap;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use anabranch_core::ids::{ActorId, AppId, DocumentKey, RoundId, TxnId};
use anabranch_core::keyspace::SliceCount;
use anabranch_core::{Value, document::Mutation};
use anabranch_journal::kafka::{KafkaConfig, KafkaJournal};
use anabranch_journal::metadata::{ClusterIdentity, MetadataError, MetadataStore};
use anabranch_journal::rounds::{
    Abandoned, HlcClock, Round, RoundAppender, RoundWriter, RoundWriterConfig,
};
use anabranch_journal::{
    Journal, NewRecord, OpenTransaction, ReadFrom, RotatingWriter, Signature, TopicPartition,
    TransactionalId, cluster_topics, cursors,
};
use anabranch_runtime::tasks::Shutdown;
use anabranch_schemas::decode;
use anabranch_schemas::records::{ChangesCursor, Commit, DocumentMutation};
use anabranch_schemas::topics::ClusterName;
use anabranch_tests::support::Broker;
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(60);

/// The shared broker, as a process sees it.
fn connect() -> Arc<dyn Journal> {
    let config = KafkaConfig::new(Broker::shared().address(), "rounds");
    Arc::new(KafkaJournal::connect(config).expect("the settings are right"))
}

fn slices() -> SliceCount {
    SliceCount::try_from(4).expect("a power of two")
}

/// The topics of a new cluster.
fn topics(journal: &dyn Journal) -> ClusterName {
    let name: ClusterName = format!("r{}", Uuid::new_v4().simple()).parse().expect("a name");
    journal.ensure_topics(&cluster_topics(&name, slices(), None)).expect("topics");
    name
}

/// Which cluster it is: a new one, unless another came first.
fn identity(journal: Arc<dyn Journal>, name: &ClusterName) -> ClusterIdentity {
    let store = MetadataStore::open(journal, name).expect("the metadata store");
    let (name, actor) = (name.clone(), ActorId(Uuid::new_v4()));
    let create = || ClusterIdentity { name, actor, slices: slices(), created_ms: 1 };
    store.cluster_identity(create).expect("an identity")
}

/// A new cluster's log on the shared broker.
fn log() -> (Arc<dyn Journal>, ClusterName, ClusterIdentity) {
    let journal = connect();
    let name = topics(journal.as_ref());
    let identity = identity(journal.clone(), &name);
    (journal, name, identity)
}

fn round(number: u128) -> Round {
    let delete = |document: u128| {
        let number = Value::Int(i64::try_from(document).expect("small"));
        let key = DocumentKey::from_value(&number).expect("an id");
        DocumentMutation::new("cars".parse().expect("a name"), key, Mutation::Delete)
    };
    Round {
        id: RoundId(Uuid::from_u128(number)),
        app: AppId(Uuid::from_u128(7)),
        origin: None,
        digest: Vec::new(),
        atomic: false,
        restrictions: Vec::new(),
        mutations: (0..number % 4).map(|document| delete(number * 10 + document)).collect(),
    }
}

/// All commit records, once that of `last` is there.
fn commits(journal: &dyn Journal, name: &ClusterName, last: TxnId) -> BTreeMap<TxnId, RoundId> {
    let at = TopicPartition::new(name.txns(), 0);
    let mut reader = journal.reader(&[(at, ReadFrom::Start)]).expect("a reader");
    let mut found = BTreeMap::new();
    let deadline = Instant::now() + PATIENCE;
    while found.last_key_value().is_none_or(|(txn, _)| *txn < last) {
        assert!(Instant::now() < deadline, "{last} did not become visible");
        for record in reader.poll(Duration::from_millis(50)).expect("records") {
            let value = record.value.expect("a commit record has a value");
            let commit: Commit = decode(&value).expect("a commit record");
            found.insert(TxnId(record.offset.0), commit.round);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn rounds_are_in_the_log_where_their_callers_were_told() {
    let (journal, name, identity) = log();
    let clock = Arc::new(HlcClock::system());
    let appender = RoundAppender::new(&name, identity.actor, identity.slices, clock);
    let mut told = BTreeMap::new();
    // The second writer has the same ids as the first, as after a restart.
    for start in [0, 100] {
        let config = RoundWriterConfig::new("s1");
        let writer = RoundWriter::open(journal.clone(), &name, appender.clone(), config);
        let writer = Arc::new(writer.expect("a round writer"));
        let writes: Vec<_> = (start..start + 100)
            .map(|number| {
                let writer = Arc::clone(&writer);
                tokio::spawn(async move { (number, writer.write(round(number)).await) })
            })
            .collect();
        for write in writes {
            let (number, txn) = write.await.expect("no panic");
            told.insert(txn.expect("it is written"), round(number).id);
        }
    }
    assert_eq!(told.len(), 200);
    let last = *told.last_key_value().expect("there are some").0;
    let found = tokio::task::spawn_blocking(move || commits(journal.as_ref(), &name, last));
    assert_eq!(found.await.expect("no panic"), told);
}

/// Until the brokers look for transactions that have timed out, readers would see nothing of what
/// others write.
#[test]
fn what_a_server_leaves_open_is_ended_by_another_one() {
    let (journal, name, identity) = log();
    let gone = TransactionalId::from(format!("{name}-round-gone-3"));
    let mut writer = journal.writer(&gone).expect("a writer");
    let at = [2, 1].map(|slice| TopicPartition::new(name.rounds(), slice));
    writer.begin().expect("begin");
    for at in [&at[0], &at[0], &at[1]] {
        let (key, value) = ("key".into(), Some("never".into()));
        writer.append(NewRecord { at: at.clone(), key, value }).expect("append");
    }
    let offsets = writer.flush().expect("flush");
    let open = || journal.open_transactions(&at).expect("what is open");
    for ((open, at), first) in open().into_iter().zip(&at).zip([offsets[0], offsets[2]]) {
        let OpenTransaction { at: found, first: begins, end } = open.clone();
        assert_eq!((&found, begins), (at, first));
        assert!(end > first);
        let signature = Some(Signature { writer: gone.clone(), fenced: 0 });
        assert_eq!(journal.writer_of(&open).expect("an answer"), signature);
    }
    assert_eq!(open().len(), 2);

    let shutdown = Shutdown::new();
    let abandoned = Abandoned::new(journal.clone(), &name, identity.slices, "s1");
    std::thread::scope(|scope| {
        scope.spawn(|| abandoned.run(&shutdown));
        let deadline = Instant::now() + PATIENCE;
        while !open().is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        shutdown.begin();
    });
    assert!(open().is_empty());
    assert!(writer.commit().is_err(), "it was aborted");
}

#[test]
fn of_those_who_change_an_entry_one_wins() {
    const CHANGES: u64 = 5;
    let (journal, name, identity) = log();
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let store = MetadataStore::open(journal.clone(), &name).expect("the metadata store");
            std::thread::spawn(move || {
                for _ in 0..CHANGES {
                    loop {
                        let entry = store.get("n").expect("an answer");
                        let sum: u64 =
                            entry.as_ref().map_or(0, |e| e.value.parse().expect("a number"));
                        let expected = entry.map(|entry| entry.version);
                        match store.compare_and_set("n", expected, Some(format!("{}", sum + 1))) {
                            Ok(version) => break assert_eq!(version.0, sum + 1),
                            Err(MetadataError::Conflict { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no panic");
    }
    let store = MetadataStore::open(journal, &name).expect("the metadata store");
    let sum = store.get("n").expect("an answer").expect("an entry").value;
    assert_eq!(sum, (2 * CHANGES).to_string());
    assert_eq!(store.cluster_identity(|| panic!("there is one")).expect("it"), identity);
}

#[test]
fn a_new_holder_goes_on_where_the_older_came_to() {
    let (journal, name, _) = log();
    let id = TransactionalId::from(name.changes());
    let mut next = TxnId(0);
    for _ in 0..3 {
        let mut writer = RotatingWriter::open(&journal, &id).expect("a writer");
        let cursor: Option<ChangesCursor> =
            cursors::read(journal.as_ref(), &name, "changes").expect("an answer");
        assert_eq!(cursor.map_or(TxnId(0), |cursor| cursor.next), next);
        for _ in 0..7 {
            next = next.next();
            let cursor = ChangesCursor { next };
            writer
                .transaction(|writer| cursors::append(writer, &name, "changes", &cursor))
                .expect("a transaction");
        }
    }
}

/// Which a broker tells those who fence each other in more ways than the embedded log does.
#[test]
fn processes_that_start_at_once_agree_on_their_cluster() {
    const PROCESSES: usize = 6;
    let name = topics(connect().as_ref());
    let start = Barrier::new(PROCESSES);
    let identities: Vec<_> = std::thread::scope(|scope| {
        let process = || {
            let journal = connect();
            start.wait();
            identity(journal, &name)
        };
        let processes: Vec<_> = (0..PROCESSES).map(|_| scope.spawn(process)).collect();
        let identities = processes.into_iter().map(|process| process.join().expect("it ends"));
        identities.collect()
    });
    assert!(identities.iter().all(|identity| *identity == identities[0]), "{identities:?}");
}
