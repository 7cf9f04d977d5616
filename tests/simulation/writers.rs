//! Clients that write: rounds through a server of their own, which may die with its transaction
//! open, and whose answers get lost.

use std::sync::Arc;
use std::time::Duration;

use anabranch_core::Value;
use anabranch_core::document::Mutation;
use anabranch_core::ids::{AppId, DocumentId, DocumentKey, RoundId, TxnId};
use anabranch_core::query::{FieldPath, OnConflict, parse_filter};
use anabranch_journal::rounds::{HlcClock, Round, RoundAppender};
use anabranch_journal::{Error, Journal, NewRecord, Offset, TransactionalId, Writer};
use anabranch_schemas::records::{DocumentMutation, Restriction};
use uuid::Uuid;

use crate::cluster::{Cluster, pause};
use crate::dice::Dice;
use crate::mix::Fault;

pub(crate) const APP: AppId = AppId(Uuid::from_u128(7));
pub(crate) const COLLECTION: &str = "things";
/// How many documents there are.
pub(crate) const DOCUMENTS: u64 = 12;

/// The id of a document.
pub(crate) fn document(number: u64) -> DocumentId {
    let number = i64::try_from(number).expect("a small one");
    let key = DocumentKey::from_value(&Value::Int(number)).expect("a number is a key");
    DocumentId { app: APP, collection: COLLECTION.parse().expect("a name"), key }
}

/// A client that writes.
pub(crate) struct WriterClient {
    cluster: Arc<Cluster>,
    dice: Dice,
    /// For what it may do.
    of_permits: Dice,
    id: TransactionalId,
    appender: RoundAppender,
    writer: Option<Box<dyn Writer>>,
    rounds: u64,
    number: u64,
    /// Rounds that were acknowledged.
    pub(crate) acknowledged: Vec<(RoundId, TxnId)>,
}

impl WriterClient {
    pub(crate) fn new(cluster: Arc<Cluster>, number: u64) -> Self {
        let world = cluster.world.clone();
        let seed = world.number();
        let (dice, of_permits) = (Dice::new(seed), Dice::new(!seed));
        let clock = Arc::new(HlcClock::following(move || world.now_millis()));
        let identity = &cluster.identity;
        let appender = RoundAppender::new(&identity.name, identity.actor, identity.slices, clock);
        let id = TransactionalId::from(format!("{}-writer-{number}", cluster.identity.name));
        let acknowledged = Vec::new();
        let (rounds, writer) = (0, None);
        WriterClient {
            cluster,
            dice,
            of_permits,
            id,
            appender,
            writer,
            rounds,
            number,
            acknowledged,
        }
    }

    /// Writes for some time, in milliseconds.
    pub(crate) async fn run(mut self, until_ms: u64) -> Self {
        while self.cluster.world.elapsed_ms() < until_ms && self.cluster.violation().is_none() {
            pause(1 + self.dice.below(150)).await;
            let count = 1 + self.dice.below(2);
            let rounds: Vec<_> = (0..count).map(|_| self.round()).collect();
            self.write_until_acknowledged(&rounds).await;
            // An answer that got lost: it is written again.
            if self.dice.once_in(4) {
                self.write_until_acknowledged(&rounds[..1]).await;
            }
        }
        self
    }

    /// Writes once.
    pub(crate) async fn run_once(mut self) -> Self {
        let round = self.round();
        self.write_until_acknowledged(&[round]).await;
        self
    }

    fn round(&mut self) -> Round {
        self.rounds += 1;
        let id =
            RoundId(Uuid::from_u128((u128::from(self.number) << 64) | u128::from(self.rounds)));
        let count = 1 + self.dice.below(4);
        let mut mutations: Vec<_> = (0..count).map(|_| self.mutation()).collect();
        let atomic = self.dice.once_in(3);
        if atomic {
            let slices = self.cluster.identity.slices;
            let slice = |mutation: &DocumentMutation| slices.slice_of(mutation.id(APP).position());
            let first = slice(&mutations[0]);
            mutations.retain(|mutation| slice(mutation) == first);
        }
        let is_restricted = self.of_permits.once_in(4);
        let restrictions = is_restricted.then(|| self.restriction()).into_iter().collect();
        Round { id, app: APP, origin: None, digest: Vec::new(), atomic, mutations, restrictions }
    }

    /// What somebody may do who may not do everything.
    fn restriction(&mut self) -> Restriction {
        let mut below = |field: &str| {
            let most = 200 + self.of_permits.below(800);
            let condition = format!("{field} IS MISSING OR {field} < {most}");
            parse_filter(&condition).expect("a condition")
        };
        let collection = document(0).collection;
        Restriction { collection, readable: below("a"), writable: below("b") }
    }

    fn mutation(&mut self) -> DocumentMutation {
        let DocumentId { collection, key, .. } = document(self.dice.below(DOCUMENTS));
        let path = |name: &str| FieldPath::new(vec![name.to_owned()]).expect("a path");
        let value = i64::try_from(self.dice.below(1_000)).expect("a small one");
        let update = |set, increment| Mutation::Update { set, unset: vec![], increment };
        let mutation = match self.dice.below(10) {
            0..4 => Mutation::Insert {
                fields: Value::Object([("a".to_owned(), Value::Int(value))].into()),
                on_conflict: *self.dice.one_of(&[
                    OnConflict::DoUpdate,
                    OnConflict::DoUpdate,
                    OnConflict::Fail,
                ]),
            },
            4..6 => update(vec![(path("b"), Value::Int(value))], vec![]),
            6..9 => update(vec![], vec![(path("n"), value % 5 + 1)]),
            // What one of several clusters forgets is not the same in all any more.
            _ if self.cluster.mix.clusters == 1 && self.dice.once_in(2) => Mutation::Forget,
            _ => Mutation::Delete,
        };
        let unchanged_since = self.dice.once_in(4).then(|| self.since()).flatten();
        DocumentMutation { collection, key, unchanged_since, mutation }
    }

    /// A transaction of not long ago, or one to come.
    fn since(&mut self) -> Option<TxnId> {
        let last = self.cluster.model.lock().last()?;
        Some(TxnId((last.0 + 5).saturating_sub(self.dice.below(40))))
    }

    async fn write_until_acknowledged(&mut self, rounds: &[Round]) {
        loop {
            match self.write(rounds).await {
                Ok(txns) => {
                    let ids = rounds.iter().map(|round| round.id);
                    self.acknowledged.extend(ids.zip(txns));
                    return;
                }
                Err(error) => {
                    self.cluster.tell(&format!("{} does not write: {error}", self.id));
                    self.writer = None;
                    pause(self.dice.below(200)).await;
                }
            }
        }
    }

    /// Writes rounds in one transaction, with other things going on between its steps.
    async fn write(&mut self, rounds: &[Round]) -> Result<Vec<TxnId>, Error> {
        self.begin().await?;
        let mut written = Vec::new();
        self.cluster.follow();
        let is_half = self.dies(25);
        let mut writer = HalfWriter { writer: self.writer.take().ok_or_else(died)?, is_half };
        if !is_half && self.dice.once_in(12) {
            // Of the log's time, which passes fast: much of what is deleted is due soon.
            let time_to_live = Duration::from_millis(self.dice.below(20_000));
            self.appender.append_expiry(&mut writer, time_to_live)?;
        }
        let appended = self.appender.append(&mut writer, rounds);
        self.writer = Some(writer.writer);
        if is_half {
            return Err(self.die().await?);
        }
        written.extend(appended?);
        pause(self.dice.below(8)).await;
        self.may_die(30).await?;
        self.writer.as_mut().ok_or_else(died)?.commit()?;
        self.cluster.follow();
        self.cluster.tell(&format!("{} wrote {written:?}", self.id));
        // It was done, but nobody is told.
        self.may_die(60).await?;
        Ok(written)
    }

    async fn begin(&mut self) -> Result<(), Error> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => self.writer.insert(self.cluster.log.writer(&self.id)?),
        };
        writer.begin()?;
        pause(self.dice.below(3)).await;
        Ok(())
    }

    /// Dies once in so many times, if that is to happen: nothing aborts what it has open until it
    /// is started again.
    async fn may_die(&mut self, once_in: u64) -> Result<(), Error> {
        if self.dies(once_in) { Err(self.die().await?) } else { Ok(()) }
    }

    fn dies(&mut self, once_in: u64) -> bool {
        self.cluster.mix.faults.contains(&Fault::CrashWriter) && self.dice.once_in(once_in)
    }

    /// Dies, and is started again; what became of the transaction is not known.
    async fn die(&mut self) -> Result<Error, Error> {
        std::mem::forget(self.writer.take());
        self.cluster.tell(&format!("{} dies", self.id));
        pause(50 + self.dice.below(1_000)).await;
        self.writer = Some(self.cluster.log.writer(&self.id)?);
        Ok(died())
    }
}

/// A writer that may die between the parts of rounds and their commit records.
struct HalfWriter {
    writer: Box<dyn Writer>,
    is_half: bool,
}

impl Writer for HalfWriter {
    fn begin(&mut self) -> Result<(), Error> {
        self.writer.begin()
    }

    fn append(&mut self, record: NewRecord) -> Result<(), Error> {
        if self.is_half && record.at.topic.as_str().ends_with(".txns") {
            return Err(died());
        }
        self.writer.append(record)
    }

    fn flush(&mut self) -> Result<Vec<Offset>, Error> {
        self.writer.flush()
    }

    fn commit(&mut self) -> Result<(), Error> {
        self.writer.commit()
    }

    fn abort(&mut self) -> Result<(), Error> {
        self.writer.abort()
    }

    fn is_spent(&self) -> bool {
        self.writer.is_spent()
    }
}

fn died() -> Error {
    Error::Unknown("the server died".to_owned())
}
