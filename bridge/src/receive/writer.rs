//! Writes what was received: rounds, dead letters and the cursor in one transaction.
//!
//! The order that makes it exactly once: open the writer, which fences whatever an older link or
//! another process had under way; then read the cursor; then subscribe from there. When the process
//! dies between any two steps, the log has a prefix of what was sent, with the cursor of exactly
//! that prefix. After any error the link ends and all of this is done again.
//!
//! Within a snapshot the remote waits, range after range, to be told what is held here. That is
//! looked up once all that came before is written, and what is sent on account of it comes with the
//! position behind it: a listing that was lost is made again from the position. While the store
//! node does not answer, it is asked again: the link stays, for what goes the other way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use anabranch_core::ErrorKind;
use anabranch_core::hlc::Hlc;
use anabranch_core::ids::{ActorId, TxnId};
use anabranch_journal::rounds::{EncodedRound, RoundAppender};
use anabranch_journal::{
    Journal, NewRecord, RotatingWriter, TopicPartition, TransactionalId, Writer, cursors,
};
use anabranch_runtime::clock::now_millis;
use anabranch_runtime::planted;
use anabranch_runtime::retry::Backoff;
use anabranch_runtime::threads;
use anabranch_schemas::encode;
use anabranch_schemas::link::{self, message::Kind};
use anabranch_schemas::records::{DeadLetter, RemoteCursor};
use anabranch_schemas::topics::ClusterName;

use super::handed::Handed;
use super::listing::{List, Told};
use crate::error::Error;
use crate::link::Arrivals;
use crate::metrics::Meters;
use crate::queries::Queries;
use crate::status::{Progress, Reporter};

/// A transaction is not extended past this: an open one hides what comes after it from readers.
const MAX_DOCUMENTS: usize = 2_000;
const MAX_BYTES: usize = 2 * 1024 * 1024;
/// How long to wait before what is held is looked up again.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(2);

/// A batch, ready to be written.
pub(crate) struct Encoded {
    pub(crate) number: u64,
    pub(crate) rounds: Vec<EncodedRound>,
    pub(crate) dead_letters: Vec<DeadLetter>,
    pub(crate) cursor: RemoteCursor,
    pub(crate) documents: usize,
    pub(crate) bytes: usize,
    pub(crate) sent_ms: u64,
}

/// Writes for one link.
pub(crate) struct LinkWriter {
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) cluster: ClusterName,
    pub(crate) actor: ActorId,
    pub(crate) remote: ActorId,
    pub(crate) appender: RoundAppender,
    pub(crate) transactional_id: TransactionalId,
    /// Names the cursor.
    pub(crate) cursor_key: String,
    pub(crate) queries: Arc<Queries>,
    pub(crate) list: List,
    pub(crate) handed: Arc<Handed>,
    pub(crate) arrivals: Arc<Arrivals>,
    pub(crate) outgoing: mpsc::Sender<Kind>,
    /// Set once something was written.
    pub(crate) progressed: Arc<AtomicBool>,
    pub(crate) meters: Meters,
    pub(crate) reporter: Reporter,
}

impl LinkWriter {
    /// Subscribes, and writes until there is nothing more to come.
    pub(crate) fn run(self, batches: mpsc::Receiver<Encoded>) -> Result<(), Error> {
        // Whoever waits for something to be written is not to wait for ever, whatever happens.
        struct End(Arc<Handed>);
        impl Drop for End {
            fn drop(&mut self) {
                self.0.end();
            }
        }
        let _end = End(self.handed.clone());
        self.write_all(batches)
    }

    fn write_all(&self, mut batches: mpsc::Receiver<Encoded>) -> Result<(), Error> {
        let mut writer = RotatingWriter::open(&self.journal, &self.transactional_id)?;
        let journal = self.journal.as_ref();
        let cursor: Option<RemoteCursor> =
            cursors::read_fenced(journal, &mut writer, &self.cluster, &self.cursor_key)?;
        let digest = self.queries.digest();
        let held = cursor.filter(|cursor| cursor.remote == self.remote && cursor.queries == digest);
        let mut hlc = held.as_ref().map_or(Hlc(0), |cursor| cursor.hlc);
        let position = held.as_ref().and_then(|cursor| cursor.snapshot_after.clone());
        self.say(Kind::Subscribe(self.subscribe(held)))?;
        let mut told = Told::new(position.as_deref());
        self.tell_holdings(&mut told, position.as_deref())?;
        while let Some(first) = threads::receive(&mut batches) {
            let mut together = vec![first];
            let (mut documents, mut bytes) = (together[0].documents, together[0].bytes);
            while documents < MAX_DOCUMENTS
                && bytes < MAX_BYTES
                && let Ok(next) = batches.try_recv()
            {
                documents += next.documents;
                bytes += next.bytes;
                together.push(next);
            }
            self.meters.queue.set(batches.len() as f64);
            self.write(&mut writer, &together, &mut hlc)?;
            let last = together.last().and_then(|batch| batch.cursor.snapshot_after.as_deref());
            self.tell_holdings(&mut told, last)?;
        }
        Ok(())
    }

    fn tell_holdings(&self, told: &mut Told, position: Option<&[u8]>) -> Result<(), Error> {
        let Some(after) = told.due(position) else { return Ok(()) };
        let holdings = self.look_up(&after)?;
        told.tell(&holdings);
        self.meters.listed_documents.increment(holdings.documents.len() as u64);
        self.say(Kind::Holdings(holdings))
    }

    /// Lists what is held from behind `after` on, again until that succeeds or the link has ended.
    fn look_up(&self, after: &Bytes) -> Result<link::Holdings, Error> {
        let is_linked = || !self.outgoing.is_closed();
        let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
        let mut has_failed = false;
        while is_linked() {
            match (self.list)(after.clone(), &is_linked) {
                Err(error) if error.kind() == ErrorKind::Retry && is_linked() => {
                    tracing::warn!(%error, "what is held cannot be listed; trying again");
                    self.reporter.update(|status| status.last_error = Some(error.to_string()));
                    has_failed = true;
                    threads::sleep(backoff.next_delay());
                }
                listed => {
                    if has_failed && listed.is_ok() {
                        self.reporter.update(|status| status.last_error = None);
                    }
                    return listed;
                }
            }
        }
        Err(Error::Closed)
    }

    fn subscribe(&self, held: Option<RemoteCursor>) -> link::Subscribe {
        let position = held.map(|cursor| link::Position {
            next: cursor.next.0,
            snapshot: cursor
                .snapshot_after
                .map(|after| link::SnapshotPosition { after: after.into() }),
            queries: cursor.queries,
        });
        link::Subscribe {
            queries: self.queries.to_wire(),
            position,
            origins: vec![Bytes::copy_from_slice(self.actor.0.as_bytes())],
        }
    }

    fn write(
        &self,
        writer: &mut RotatingWriter,
        batches: &[Encoded],
        hlc: &mut Hlc,
    ) -> Result<(), Error> {
        let Some(last) = batches.last() else { return Ok(()) };
        let begun = Instant::now();
        *hlc = batches.iter().map(|batch| batch.cursor.hlc).fold(*hlc, Hlc::max);
        let cursor = RemoteCursor { hlc: *hlc, ..last.cursor.clone() };
        let rounds: Vec<_> = batches.iter().flat_map(|batch| &batch.rounds).collect();
        let letters: Vec<_> = batches.iter().flat_map(|batch| &batch.dead_letters).collect();
        if planted!(ReceivesApart) {
            writer.transaction(|writer| {
                cursors::append(writer, &self.cluster, &self.cursor_key, &cursor)
            })?;
        }
        let txns = writer.transaction(|writer| {
            letters.iter().try_for_each(|letter| self.bury(writer, letter))?;
            cursors::append(writer, &self.cluster, &self.cursor_key, &cursor)?;
            if rounds.is_empty() {
                return Ok(Vec::<TxnId>::new());
            }
            self.appender.append_encoded(writer, &rounds)
        })?;
        self.progressed.store(true, Ordering::Relaxed);
        self.handed.wrote(last.number, txns.last().copied());
        // Before the other side hears of it and sends more.
        self.arrivals.confirm(last.number);
        self.say(Kind::Received(link::Received { number: last.number }))?;
        for letter in &letters {
            let DeadLetter { code, reason, .. } = letter;
            tracing::error!(
                app = %letter.app, replication = letter.replication, code, reason,
                "a document cannot be applied; it is in the dead letters"
            );
        }
        self.account(batches, &cursor, begun.elapsed());
        Ok(())
    }

    fn bury(
        &self,
        writer: &mut dyn Writer,
        letter: &DeadLetter,
    ) -> Result<(), anabranch_journal::Error> {
        writer.append(NewRecord {
            at: TopicPartition::new(self.cluster.dead_letters(), 0),
            key: Bytes::copy_from_slice(&letter.document_id),
            value: Some(encode(letter)),
        })
    }

    fn account(&self, batches: &[Encoded], cursor: &RemoteCursor, took: Duration) {
        let now_ms = now_millis();
        let count = |of: fn(&Encoded) -> usize| batches.iter().map(of).sum::<usize>() as u64;
        let documents = count(|batch| batch.documents);
        let letters = count(|batch| batch.dead_letters.len());
        let rounds = count(|batch| batch.rounds.len());
        self.meters.received_documents.increment(documents.saturating_sub(letters));
        self.meters.received_rounds.increment(rounds);
        self.meters.dead_letters.increment(letters);
        self.meters.commit.record(took);
        let seconds = |ms: u64| Duration::from_millis(ms);
        for batch in batches {
            self.meters.lag.record(seconds(now_ms.saturating_sub(batch.sent_ms)));
        }
        if rounds > 0 {
            self.meters.round_lag.record(seconds(now_ms.saturating_sub(cursor.hlc.millis())));
        }
        let sent_ms = batches.first().map_or(now_ms, |batch| batch.sent_ms);
        self.reporter.update(|status| {
            status.documents_received += documents;
            status.dead_letters += letters;
            status.received = Some(Progress {
                next: cursor.next.0,
                snapshot: cursor.snapshot_after.is_some(),
                at_ms: now_ms,
                lag_ms: now_ms.saturating_sub(sent_ms),
            });
        });
    }

    fn say(&self, kind: Kind) -> Result<(), Error> {
        threads::send(&self.outgoing, kind).map_err(|_| Error::Closed)
    }
}
