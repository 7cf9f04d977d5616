//! Reading the log when one slice is delivered far ahead of the others.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tempfile::TempDir;
use tokio::sync::mpsc;
use uuid::Uuid;

use anabranch_core::Value;
use anabranch_core::document::{Commit as At, Document, Mutation};
use anabranch_core::hlc::Hlc;
use anabranch_core::ids::{ActorId, AppId, DocumentId, DocumentKey, RoundId, TxnId};
use anabranch_core::keyspace::{Slice, SliceCount};
use anabranch_core::query::OnConflict;
use anabranch_journal::{Journal, NewRecord, TopicPartition, TransactionalId};
use anabranch_schemas::records::{Change, Commit, Lost, Operation, PartLocation, Resolved};
use anabranch_schemas::topics::ClusterName;
use anabranch_schemas::{encode, state};

use crate::doubles::{Delivered, embedded_log, unfair};
use crate::queries::Queries;
use crate::send::rounds::Source;
use crate::send::select::Selector;
use crate::send::tail::{Ended, Tail, TailLimits};

const SLICES: u16 = 2;
const APP: AppId = AppId(Uuid::from_u128(1));
const HERE: ActorId = ActorId(Uuid::from_u128(10));
/// Every round touches slice 0, and the first touches slice 1 too.
const ROUNDS: u64 = 200;

struct Log {
    journal: Arc<dyn Journal>,
    delivered: Delivered,
    cluster: ClusterName,
    _dir: TempDir,
}

fn change(txn: u64) -> Change {
    let mut document = Document::default();
    let fields = Value::from_json(br#"{"w":1}"#).unwrap();
    let insert = Mutation::Insert { fields, on_conflict: OnConflict::DoUpdate };
    document.apply(&insert, At { hlc: Hlc(1), actor: HERE, sequence: txn });
    Change {
        txn: TxnId(txn),
        app: APP,
        collection: "c".parse().unwrap(),
        key: DocumentKey::from_value(&Value::Int(i64::try_from(txn).unwrap())).unwrap(),
        origin: HERE,
        origin_txn: TxnId(txn),
        hlc: Hlc(1),
        operation: Operation::Insert,
        existed: false,
        before: Value::from_iter([]),
        added: Vec::new(),
        state: state::encode(&document).to_vec(),
    }
}

impl Log {
    fn new() -> Self {
        Self::without(None)
    }

    /// In which the changes of some transactions are lost.
    fn without(lost: Option<&RangeInclusive<u64>>) -> Self {
        let cluster: ClusterName = "east".parse().unwrap();
        let (journal, dir) = embedded_log(&cluster, SliceCount::try_from(SLICES).unwrap());
        let mut writer = journal.writer(&TransactionalId::from("writer")).unwrap();
        writer.begin().unwrap();
        let mut append = |topic: String, slice, key: Vec<u8>, value: Bytes| {
            let at = TopicPartition::new(topic, slice);
            writer.append(NewRecord { at, key: key.into(), value: Some(value) }).unwrap();
        };
        for txn in 0..ROUNDS {
            let touched: &[u16] = if txn == 0 { &[0, 1] } else { &[0] };
            let part = |slice: &u16| PartLocation { slice: Slice(*slice), offset: 0, checksum: 0 };
            let commit = Commit {
                round: RoundId(Uuid::nil()),
                app: APP,
                origin: HERE,
                origin_txn: None,
                hlc: Hlc(7),
                digest: Vec::new(),
                atomic: false,
                mutations: 1,
                parts: touched.iter().map(part).collect(),
            };
            append(cluster.txns(), 0, Vec::new(), encode(&commit));
            if let Some(lost) = lost.filter(|lost| lost.contains(&txn)) {
                let (from, to) = (TxnId(*lost.start()), TxnId(*lost.end()));
                let told = [
                    encode(&Lost { slice: Slice(0), from, to }),
                    encode(&Resolved { slice: Slice(0), txn: to }),
                ];
                for value in told.into_iter().filter(|_| TxnId(txn) == to) {
                    append(cluster.changes(), 0, Vec::new(), value);
                }
                continue;
            }
            let change = change(txn);
            let id =
                DocumentId { app: APP, collection: "c".parse().unwrap(), key: change.key.clone() };
            append(cluster.changes(), 0, id.to_bytes(), encode(&change));
            for slice in touched {
                let mark = Resolved { slice: Slice(*slice), txn: TxnId(txn) };
                append(cluster.changes(), *slice, Vec::new(), encode(&mark));
            }
        }
        writer.flush().unwrap();
        writer.commit().unwrap();
        let (journal, delivered) = unfair(journal);
        Log { journal, delivered, cluster, _dir: dir }
    }

    /// Reads to the end, and gives the transactions that came out.
    fn read(&self, limits: TailLimits) -> Vec<u64> {
        let (found, ended) = self.read_from(TxnId(0), ROUNDS, limits);
        assert_eq!(ended, Ended::Stopped);
        found
    }

    /// Reads from a transaction on until it ends or has come to another one, and gives those that
    /// came out.
    fn read_from(&self, from: TxnId, until: u64, limits: TailLimits) -> (Vec<u64>, Ended) {
        let texts = BTreeMap::from([("c".parse().unwrap(), vec!["w = 1".to_owned()])]);
        let queries = Queries::parse(&texts).unwrap();
        let receiver = ActorId(Uuid::from_u128(20));
        let source = Source {
            app: APP,
            slices: SliceCount::try_from(SLICES).unwrap(),
            actor: HERE,
            selector: Arc::new(Selector::new(APP, queries, receiver)),
            replays_until: TxnId(0),
        };
        let (batches, mut ready) = mpsc::channel(2);
        let stop = Arc::new(AtomicBool::new(false));
        let tail = Tail {
            limits,
            journal: self.journal.clone(),
            cluster: self.cluster.clone(),
            source,
            from,
            batches,
            stop: stop.clone(),
        };
        let thread = std::thread::spawn(move || tail.run());
        let mut found = Vec::new();
        while let Some(batch) = ready.blocking_recv() {
            found.extend(batch.rounds.iter().map(|round| round.origin_txn));
            if batch.next == TxnId(until) {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
        drop(ready);
        (found, thread.join().unwrap().unwrap())
    }
}

#[test]
fn who_needs_changes_that_are_lost_needs_a_snapshot() {
    let log = Log::without(Some(&(150..=160)));
    for from in [0, 150, 160] {
        let (found, ended) = log.read_from(TxnId(from), ROUNDS, TailLimits::default());
        assert_eq!(ended, Ended::Gone, "from {from}");
        assert!(found.iter().all(|txn| *txn < 150), "{found:?}");
    }
    let (found, ended) = log.read_from(TxnId(161), ROUNDS, TailLimits::default());
    assert_eq!((found, ended), ((161..ROUNDS).collect(), Ended::Stopped));
}

#[test]
fn a_slice_far_ahead_does_not_keep_the_others_from_being_read() {
    let log = Log::new();
    let limits = TailLimits { max_pending: 10, ..TailLimits::default() };
    assert_eq!(log.read(limits), (0..ROUNDS).collect::<Vec<_>>());
}

#[test]
fn what_waits_is_bounded_and_still_gets_on() {
    let log = Log::new();
    let limits = TailLimits { max_pending: 10, max_held_bytes: 1_000 };
    assert_eq!(log.read(limits), (0..ROUNDS).collect::<Vec<_>>());
    let delivered = log.delivered.of(&log.cluster.changes());
    let ahead = delivered.iter().position(|slice| *slice == 1).unwrap();
    assert!(ahead < 40, "{ahead} records of slice 0 came before the first of slice 1");
    let of_slice_0 = delivered.iter().filter(|slice| **slice == 0).count();
    assert_eq!(of_slice_0 as u64, 2 * ROUNDS, "a change and a mark of each round, once");
}
