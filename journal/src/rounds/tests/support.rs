//! A journal that fails on demand, and a reader that checks what is in the log.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::Value;
use anabranch_core::document::Mutation;
use anabranch_core::ids::{ActorId, AppId, DocumentKey, RoundId, TxnId};
use anabranch_core::keyspace::SliceCount;
use anabranch_core::query::OnConflict;
use anabranch_schemas::decode;
use anabranch_schemas::records::{Commit, DocumentMutation, RoundPart, part_checksum};
use anabranch_schemas::topics::ClusterName;
use parking_lot::{Condvar, Mutex};
use tempfile::TempDir;
use uuid::Uuid;

use crate::embedded::{EmbeddedConfig, EmbeddedJournal};
use crate::error::Error;
use crate::log::{
    Bounds, Journal, NewRecord, Offset, ReadFrom, Reader, Record, TopicPartition, TopicSpec,
    TransactionalId, Writer,
};
use crate::rounds::{HlcClock, Round, RoundAppender, RoundWriter, RoundWriterConfig};
use crate::topics::cluster_topics;

/// How long a test waits for what has to happen.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// What goes wrong in one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Nothing,
    AppendFails,
    FlushFails,
    /// The commit is refused: nothing happened.
    CommitFails,
    /// The commit is lost and so is its answer.
    CommitLost,
    /// Only the answer of the commit is lost.
    AnswerLost,
    Fenced,
    DiskFull,
    /// All goes well, but the writer is not to be used again.
    Spent,
}

#[derive(Default)]
struct Script {
    faults: VecDeque<Fault>,
    always: Option<Fault>,
    down: bool,
    held: bool,
    begun: usize,
    opened: usize,
}

/// The embedded log, with faults.
#[derive(Clone)]
pub(super) struct FaultyJournal {
    pub(super) log: Arc<EmbeddedJournal>,
    script: Arc<(Mutex<Script>, Condvar)>,
}

impl FaultyJournal {
    /// Faults of the next transactions, in order; after those, none.
    pub(super) fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        self.script.0.lock().faults.extend(faults);
    }

    /// The fault of all transactions.
    pub(super) fn always_fail(&self, fault: Option<Fault>) {
        self.script.0.lock().always = fault;
    }

    /// Whether the journal cannot be reached.
    pub(super) fn set_down(&self, down: bool) {
        self.script.0.lock().down = down;
    }

    /// Holds transactions at their beginning, or lets them go on.
    pub(super) fn hold(&self, held: bool) {
        self.script.0.lock().held = held;
        self.script.1.notify_all();
    }

    /// Waits until so many transactions were begun.
    pub(super) fn wait_begun(&self, count: usize) {
        let mut script = self.script.0.lock();
        while script.begun < count {
            let timeout = self.script.1.wait_for(&mut script, PATIENCE);
            assert!(!timeout.timed_out(), "no lane began a transaction");
        }
    }

    pub(super) fn begun(&self) -> usize {
        self.script.0.lock().begun
    }

    pub(super) fn opened(&self) -> usize {
        self.script.0.lock().opened
    }

    fn check(&self) -> Result<(), Error> {
        if self.script.0.lock().down {
            return Err(Error::Unavailable("nobody answers".to_owned()));
        }
        Ok(())
    }

    fn begin(&self) -> Fault {
        let mut script = self.script.0.lock();
        script.begun += 1;
        self.script.1.notify_all();
        while script.held {
            self.script.1.wait(&mut script);
        }
        script.always.or_else(|| script.faults.pop_front()).unwrap_or(Fault::Nothing)
    }
}

impl Journal for FaultyJournal {
    fn ensure_topics(&self, topics: &[TopicSpec]) -> Result<(), Error> {
        self.log.ensure_topics(topics)
    }

    fn writer(&self, id: &TransactionalId) -> Result<Box<dyn Writer>, Error> {
        self.check()?;
        self.script.0.lock().opened += 1;
        Ok(Box::new(FaultyWriter {
            journal: self.clone(),
            inner: self.log.writer(id)?,
            id: id.clone(),
            fault: Fault::Nothing,
        }))
    }

    fn reader(&self, from: &[(TopicPartition, ReadFrom)]) -> Result<Box<dyn Reader>, Error> {
        self.log.reader(from)
    }

    fn bounds(&self, at: &TopicPartition) -> Result<Bounds, Error> {
        self.log.bounds(at)
    }

    fn trim(&self, at: &TopicPartition, before: Offset) -> Result<(), Error> {
        self.log.trim(at, before)
    }

    fn rest_after_commit(&self) -> Duration {
        Duration::ZERO
    }
}

struct FaultyWriter {
    journal: FaultyJournal,
    inner: Box<dyn Writer>,
    id: TransactionalId,
    fault: Fault,
}

impl Writer for FaultyWriter {
    fn begin(&mut self) -> Result<(), Error> {
        self.fault = self.journal.begin();
        self.journal.check()?;
        self.inner.begin()
    }

    fn append(&mut self, record: NewRecord) -> Result<(), Error> {
        match self.fault {
            Fault::AppendFails => Err(Error::Unavailable("append failed".to_owned())),
            Fault::Fenced => Err(Error::Fenced(self.id.clone())),
            _ => self.inner.append(record),
        }
    }

    fn flush(&mut self) -> Result<Vec<Offset>, Error> {
        match self.fault {
            Fault::FlushFails => Err(Error::Aborted("flush failed".to_owned())),
            _ => self.inner.flush(),
        }
    }

    fn commit(&mut self) -> Result<(), Error> {
        match self.fault {
            Fault::CommitFails => Err(Error::Aborted("commit refused".to_owned())),
            Fault::CommitLost => Err(Error::Unknown("commit lost".to_owned())),
            Fault::AnswerLost => {
                self.inner.commit()?;
                Err(Error::Unknown("answer lost".to_owned()))
            }
            Fault::DiskFull => Err(Error::DiskFull("there".to_owned())),
            _ => self.inner.commit(),
        }
    }

    fn abort(&mut self) -> Result<(), Error> {
        self.inner.abort()
    }

    fn is_spent(&self) -> bool {
        self.fault == Fault::Spent
    }
}

/// A cluster's log and what writes it.
pub(super) struct Bench {
    pub(super) journal: FaultyJournal,
    pub(super) cluster: ClusterName,
    pub(super) appender: RoundAppender,
    slices: SliceCount,
    _dir: TempDir,
}

pub(super) const ACTOR: ActorId = ActorId(Uuid::from_u128(99));
pub(super) const APP: AppId = AppId(Uuid::from_u128(7));

impl Bench {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = EmbeddedConfig { sync: false, ..EmbeddedConfig::new(dir.path()) };
        let log = EmbeddedJournal::open(config).unwrap();
        let cluster: ClusterName = "east".parse().unwrap();
        let slices = SliceCount::try_from(4).unwrap();
        log.ensure_topics(&cluster_topics(&cluster, slices, None)).unwrap();
        let clock = Arc::new(HlcClock::system());
        let appender = RoundAppender::new(&cluster, ACTOR, slices, clock);
        let journal = FaultyJournal { log, script: Arc::default() };
        Bench { journal, cluster, appender, slices, _dir: dir }
    }

    /// A round writer, after a change of its settings.
    pub(super) fn writer(&self, change: impl FnOnce(&mut RoundWriterConfig)) -> RoundWriter {
        let mut config = RoundWriterConfig { lanes: Some(2), ..RoundWriterConfig::new("s1") };
        change(&mut config);
        let journal = Arc::new(self.journal.clone());
        RoundWriter::open(journal, &self.cluster, self.appender.clone(), config).unwrap()
    }

    fn read(&self, topic: &str, partition: u16) -> Vec<Record> {
        let at = TopicPartition::new(topic, partition);
        let end = self.journal.bounds(&at).unwrap().end;
        let mut reader = self.journal.reader(&[(at.clone(), ReadFrom::Start)]).unwrap();
        let mut records = Vec::new();
        while reader.position(&at).unwrap() < end {
            records.extend(reader.poll(PATIENCE).unwrap());
        }
        records
    }

    /// All rounds in the log in their order. Each is checked to be whole, and no part to be
    /// without its commit record (IN-2).
    pub(super) fn rounds(&self) -> Vec<(TxnId, Commit, Vec<DocumentMutation>)> {
        let mut parts: BTreeMap<(u16, u64), Record> = BTreeMap::new();
        for slice in self.slices.all() {
            let records = self.read(&self.cluster.rounds(), slice.0);
            let records = records.into_iter().map(|record| ((slice.0, record.offset.0), record));
            parts.extend(records);
        }
        let mut rounds = Vec::new();
        for record in self.read(&self.cluster.txns(), 0) {
            let commit: Commit = decode(record.value.as_deref().unwrap()).unwrap();
            assert_eq!(record.key, commit.round.0.as_bytes()[..]);
            let mut mutations = Vec::new();
            for (index, location) in commit.parts.iter().enumerate() {
                let place = (location.slice.0, location.offset);
                let record = parts.remove(&place).expect("a part is where its commit says");
                let value = record.value.unwrap();
                assert_eq!(part_checksum(&value), location.checksum);
                let part: RoundPart = decode(&value).unwrap();
                assert_eq!((part.round, part.app), (commit.round, commit.app));
                let numbers =
                    [part.index, part.count].map(|number| usize::try_from(number).unwrap());
                assert_eq!(numbers, [index, commit.parts.len()]);
                for mutation in &part.mutations {
                    let position = mutation.id(commit.app).position();
                    assert_eq!(self.slices.slice_of(position), location.slice);
                }
                mutations.extend(part.mutations);
            }
            assert_eq!(Ok(mutations.len()), usize::try_from(commit.mutations));
            rounds.push((TxnId(record.offset.0), commit, mutations));
        }
        assert!(parts.is_empty(), "parts without a commit record: {parts:?}");
        rounds
    }

    /// How often each round is in the log, and where it is first.
    pub(super) fn counts(&self) -> BTreeMap<RoundId, (usize, TxnId)> {
        let mut counts = BTreeMap::new();
        for (txn, commit, _) in self.rounds() {
            counts.entry(commit.round).or_insert((0, txn)).0 += 1;
        }
        counts
    }
}

/// An insert of the document with this number.
pub(super) fn insert(number: u128, padding: usize) -> DocumentMutation {
    let fields = format!("{{\"text\":\"{}\"}}", "x".repeat(padding));
    DocumentMutation {
        collection: "cars".parse().unwrap(),
        key: DocumentKey::from_canonical(&number.to_string()).unwrap(),
        mutation: Mutation::Insert {
            fields: Value::from_json(fields.as_bytes()).unwrap(),
            on_conflict: OnConflict::DoUpdate,
        },
    }
}

/// A round of so many documents.
pub(super) fn round(number: u128, documents: u128) -> Round {
    Round {
        id: RoundId(Uuid::from_u128(number)),
        app: APP,
        origin: None,
        digest: Vec::new(),
        mutations: (0..documents).map(|document| insert(number * 1_000 + document, 20)).collect(),
    }
}
