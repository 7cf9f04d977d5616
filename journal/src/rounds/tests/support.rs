//! A journal that fails on demand, and a reader that checks what is in the log.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch_core::Value;
use anabranch_core::document::Mutation;
use anabranch_core::ids::{ActorId, AppId, DocumentKey, RoundId, TxnId};
use anabranch_core::keyspace::SliceCount;
use anabranch_core::query::OnConflict;
use anabranch_schemas::decode;
use anabranch_schemas::records::{
    Commit, DocumentMutation, Expiry, RoundPart, TxnsRecord, part_checksum,
};
use anabranch_schemas::topics::ClusterName;
use parking_lot::{Condvar, Mutex};
use tempfile::TempDir;
use uuid::Uuid;

use crate::doubles::{Fate, FaultyJournal, Step};
use crate::embedded::{EmbeddedConfig, EmbeddedJournal};
use crate::error::Error;
use crate::log::{Journal, ReadFrom, Record, TopicPartition, TransactionalId};
use crate::rounds::{HlcClock, Round, RoundAppender, RoundWriter, RoundWriterConfig};
use crate::topics::cluster_topics;

/// How long a test waits for what has to happen.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// How long lanes may take to end once nobody has the writer any more, unless the log holds them up.
const LANES_END: Duration = Duration::from_secs(5);

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
    /// Of each writer's transaction.
    current: HashMap<TransactionalId, Fault>,
    down: bool,
    held: bool,
    begun: usize,
    opened: usize,
}

/// The embedded log, and what goes wrong in it.
#[derive(Clone)]
pub(super) struct ScriptedLog {
    pub(super) log: Arc<EmbeddedJournal>,
    script: Arc<(Mutex<Script>, Condvar)>,
}

impl ScriptedLog {
    /// The log as those see it who use it.
    pub(super) fn faulty(&self) -> Arc<dyn Journal> {
        let script = self.clone();
        Arc::new(FaultyJournal::new(self.log.clone(), move |step| script.decide(step)))
    }

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

    fn decide(&self, step: Step<'_>) -> Fate {
        let mut script = self.script.0.lock();
        let unavailable = || Fate::Fails(Error::Unavailable("nobody answers".to_owned()));
        match step {
            Step::Writer(_) if script.down => unavailable(),
            Step::Writer(_) => {
                script.opened += 1;
                Fate::Done
            }
            Step::Begin(id) => {
                script.begun += 1;
                self.script.1.notify_all();
                while script.held {
                    self.script.1.wait(&mut script);
                }
                let fault = script.always.or_else(|| script.faults.pop_front());
                script.current.insert(id.clone(), fault.unwrap_or(Fault::Nothing));
                if script.down { unavailable() } else { Fate::Done }
            }
            Step::Append(id) | Step::Flush(id) | Step::Commit(id) => {
                fate(script.current[id], step, id)
            }
            Step::Abort(_) | Step::Bounds(_) | Step::Written(_) => Fate::Done,
        }
    }
}

fn fate(fault: Fault, step: Step<'_>, id: &TransactionalId) -> Fate {
    let text = |text: &str| text.to_owned();
    match (fault, step) {
        (Fault::AppendFails, Step::Append(_)) => Fate::Fails(Error::Unavailable(text("append"))),
        (Fault::Fenced, Step::Append(_)) => Fate::Fails(Error::Fenced(id.clone())),
        (Fault::FlushFails, Step::Flush(_)) => Fate::Fails(Error::Aborted(text("flush"))),
        (Fault::CommitFails, Step::Commit(_)) => Fate::Fails(Error::Aborted(text("commit"))),
        (Fault::CommitLost, Step::Commit(_)) => Fate::Fails(Error::Unknown(text("it is lost"))),
        (Fault::AnswerLost, Step::Commit(_)) => Fate::DoneBut(Error::Unknown(text("no answer"))),
        (Fault::DiskFull, Step::Commit(_)) => Fate::Fails(Error::DiskFull(text("there"))),
        (Fault::Spent, Step::Commit(_)) => Fate::DoneAndSpent,
        _ => Fate::Done,
    }
}

/// A cluster's log and what writes it.
pub(super) struct Bench {
    pub(super) journal: ScriptedLog,
    pub(super) cluster: ClusterName,
    pub(super) appender: RoundAppender,
    slices: SliceCount,
    _dir: TempDir,
}

pub(super) const ACTOR: ActorId = ActorId(Uuid::from_u128(99));
pub(super) const APP: AppId = AppId(Uuid::from_u128(7));

/// RocksDB must not be in use any more when the process ends, and nobody waits for a lane.
impl Drop for Bench {
    fn drop(&mut self) {
        let until = Instant::now() + LANES_END;
        while Arc::strong_count(&self.journal.log) > 1
            && Instant::now() < until
            && !std::thread::panicking()
        {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

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
        let journal = ScriptedLog { log, script: Arc::default() };
        Bench { journal, cluster, appender, slices, _dir: dir }
    }

    /// A round writer, after a change of its settings.
    pub(super) fn writer(&self, change: impl FnOnce(&mut RoundWriterConfig)) -> RoundWriter {
        let mut config = RoundWriterConfig { lanes: Some(2), ..RoundWriterConfig::new("s1") };
        change(&mut config);
        RoundWriter::open(self.journal.faulty(), &self.cluster, self.appender.clone(), config)
            .unwrap()
    }

    fn read(&self, topic: &str, partition: u16) -> Vec<Record> {
        let at = TopicPartition::new(topic, partition);
        let end = self.journal.log.bounds(&at).unwrap().end;
        let mut reader = self.journal.log.reader(&[(at.clone(), ReadFrom::Start)]).unwrap();
        let mut records = Vec::new();
        while reader.position(&at).unwrap() < end {
            records.extend(reader.poll(PATIENCE).unwrap());
        }
        records
    }

    fn txns(&self) -> impl Iterator<Item = (Record, TxnsRecord)> {
        self.read(&self.cluster.txns(), 0).into_iter().map(|record| {
            let read = TxnsRecord::decode(record.value.as_deref().unwrap()).unwrap();
            (record, read)
        })
    }

    /// All expiries in the log in their order.
    pub(super) fn expiries(&self) -> Vec<(TxnId, Expiry)> {
        let expiry = |(record, read): (Record, TxnsRecord)| match read {
            TxnsRecord::Expiry(expiry) => Some((TxnId(record.offset.0), expiry)),
            TxnsRecord::Commit(_) => None,
        };
        self.txns().filter_map(expiry).collect()
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
        for (record, read) in self.txns() {
            let TxnsRecord::Commit(commit) = read else { continue };
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
    let key = DocumentKey::from_canonical(&number.to_string()).unwrap();
    let fields = Value::from_json(fields.as_bytes()).unwrap();
    let insert = Mutation::Insert { fields, on_conflict: OnConflict::DoUpdate };
    DocumentMutation::new("cars".parse().unwrap(), key, insert)
}

/// A round of so many documents.
pub(super) fn round(number: u128, documents: u128) -> Round {
    Round {
        id: RoundId(Uuid::from_u128(number)),
        app: APP,
        origin: None,
        digest: Vec::new(),
        atomic: false,
        restrictions: Vec::new(),
        mutations: (0..documents).map(|document| insert(number * 1_000 + document, 20)).collect(),
    }
}
