//! A log that fails when it is told to.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anabranch_core::ids::TxnId;
use anabranch_core::keyspace::{Slice, SliceCount};
use anabranch_journal as journal;
use anabranch_journal::rounds::Round;
use anabranch_journal::{
    Cleanup, Journal, NewRecord, TopicPartition, TopicSpec, Writer, cluster_topics,
};
use anabranch_schemas::encode;
use anabranch_schemas::records::{Commit, PartLocation, RoundPart, part_checksum};
use anabranch_schemas::topics::ClusterName;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

use super::Shared;
use crate::rounds::RoundSink;

/// What is to happen to the next round.
pub(crate) enum Fault {
    /// None at all.
    Pass,
    /// It is refused; nothing is written.
    Refuse(journal::Error),
    /// It is written, but nobody is told.
    Forget,
    /// It is not written, and nobody is told.
    Lose,
    /// No answer comes.
    Hang,
}

/// A log in which rounds are written one after the other, all into slice 0.
pub(crate) struct FakeLog {
    writer: Mutex<Box<dyn Writer>>,
    shared: Arc<Shared>,
    faults: Mutex<VecDeque<Fault>>,
    is_down: AtomicBool,
    lags: AtomicBool,
}

impl FakeLog {
    pub(super) fn new(journal: &Arc<dyn Journal>, shared: Arc<Shared>) -> Self {
        let topics = [("east.txns", 1), ("east.rounds", 4)].map(|(name, partitions)| TopicSpec {
            name: name.into(),
            partitions,
            cleanup: Cleanup::Delete { retention_ms: None },
            max_record_bytes: 64 << 20,
        });
        journal.ensure_topics(&topics).expect("topics are made");
        let name: ClusterName = "east".parse().expect("a name");
        let others = cluster_topics(&name, SliceCount::default(), None).into_iter();
        let meta: Vec<_> = others.filter(|topic| topic.name.as_str() == name.meta()).collect();
        journal.ensure_topics(&meta).expect("the topic is made");
        let writer = journal.writer(&"rounds".into()).expect("a writer");
        FakeLog {
            writer: Mutex::new(writer),
            shared,
            faults: Mutex::default(),
            is_down: AtomicBool::new(false),
            lags: AtomicBool::new(false),
        }
    }

    /// What is to happen to the next rounds, one each.
    pub(crate) fn inject(&self, faults: impl IntoIterator<Item = Fault>) {
        self.faults.lock().extend(faults);
    }

    /// Whether every round is refused.
    pub(crate) fn set_down(&self, is_down: bool) {
        self.is_down.store(is_down, Ordering::SeqCst);
    }

    /// Whether rounds are only committed, and applied later.
    pub(crate) fn set_lagging(&self, lags: bool) {
        self.lags.store(lags, Ordering::SeqCst);
        if !lags {
            self.shared.apply();
        }
    }

    /// Commits a round of somebody else.
    pub(crate) fn commit_now(&self, round: &Round) {
        self.commit(round).expect("the log takes it");
    }

    fn commit(&self, round: &Round) -> Result<TxnId, journal::Error> {
        let mut writer = self.writer.lock();
        let part = RoundPart {
            round: round.id,
            app: round.app,
            index: 0,
            count: 1,
            mutations: round.mutations.clone(),
            restrictions: round.restrictions.clone(),
        };
        let value = encode(&part);
        let checksum = part_checksum(&value);
        let offset = append(writer.as_mut(), "east.rounds", value)?;
        let commit = Commit {
            round: round.id,
            app: round.app,
            origin: super::EAST,
            origin_txn: None,
            hlc: anabranch_core::hlc::Hlc::from_millis(1),
            digest: round.digest.to_vec(),
            atomic: false,
            mutations: i32::try_from(round.mutations.len()).expect("not that many"),
            parts: vec![PartLocation { slice: Slice(0), offset, checksum }],
        };
        let value = encode(&commit);
        let txn = append(writer.as_mut(), "east.txns", value)?;
        self.shared.world.lock().committed.push((txn, round.clone()));
        drop(writer);
        if !self.lags.load(Ordering::SeqCst) {
            self.shared.apply();
        }
        Ok(TxnId(txn))
    }
}

fn append(writer: &mut dyn Writer, topic: &str, value: Bytes) -> Result<u64, journal::Error> {
    writer.begin()?;
    let at = TopicPartition::new(topic, 0);
    writer.append(NewRecord { at, key: Bytes::new(), value: Some(value) })?;
    let offsets = writer.flush()?;
    writer.commit()?;
    Ok(offsets[0].0)
}

impl RoundSink for FakeLog {
    fn write<'a>(
        &'a self,
        round: &'a Round,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<TxnId, journal::Error>> {
        async move {
            if self.is_down.load(Ordering::SeqCst) {
                return Err(journal::Error::Unavailable("it is down".to_owned()));
            }
            let fault = self.faults.lock().pop_front();
            let unknown = || journal::Error::Unknown("no answer".to_owned());
            match fault {
                None | Some(Fault::Pass) => self.commit(round),
                Some(Fault::Refuse(error)) => Err(error),
                Some(Fault::Forget) => self.commit(round).and_then(|_| Err(unknown())),
                Some(Fault::Lose) => Err(unknown()),
                Some(Fault::Hang) => {
                    sleep_until(deadline).await;
                    Err(unknown())
                }
            }
        }
        .boxed()
    }
}
