//! The node that lacks something: what it fetches, and what it then is. Runs on the applying
//! thread, so nothing is applied meanwhile.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::ErrorKind;
use anabranch_core::cluster::{Epoch, NodeId};
use anabranch_core::hlc::Hlc;
use anabranch_core::ids::TxnId;
use anabranch_journal::Error as JournalError;
use anabranch_journal::metadata::Agreed;
use anabranch_runtime::planted;
use tokio::time::Instant;

use super::choice::{Choice, choose};
use super::lost::{Agreement, passed_over};
use super::replicas::{Fetched, Fill, Replicas, Wanted};
use super::told::{waits_for, will_be_lost};
use crate::error::Error;
use crate::log::Log;
use crate::metrics;
use crate::persistence::Persistence;
use crate::status::{Backfilling, Status};
use crate::storage::{Batch, Entry, Head, Progress, Sample, Storage, Table, Timeline, Unfinished};

/// How long until replicas that could not give are asked again.
pub(crate) const ASK_AGAIN: Duration = Duration::from_millis(500);
/// How often they are asked before the log is taken instead, if it has everything.
const TRIES: u32 = 120;
/// With so few transactions an empty node reads the log: that keeps its feed complete.
const FEW: u64 = 1_000;
/// How many entries are removed at once.
pub(crate) const REMOVED_AT_ONCE: usize = 10_000;

/// Takes from other replicas what the log does not have.
pub(crate) struct Backfill {
    pub(crate) log: Arc<Log>,
    pub(crate) storage: Arc<Storage>,
    pub(crate) status: Arc<Status>,
    pub(crate) persistence: Persistence,
    pub(crate) replicas: Box<dyn Replicas>,
    pub(crate) agreement: Box<dyn Agreement>,
    /// Whether the log has all that comes after this.
    pub(crate) log_has: Box<dyn Fn(&Progress) -> bool + Send>,
    /// How long to wait before replicas that could not give are asked again ([`ASK_AGAIN`]).
    pub(crate) ask_again: Duration,
    /// How long all of them have to lack something before it is declared lost.
    pub(crate) lost_after: Duration,
    /// How many entries are removed at once ([`REMOVED_AT_ONCE`]).
    pub(crate) removed_at_once: usize,
}

/// Why something is to be taken from other replicas.
pub(crate) enum Reason {
    /// The node has nothing at all: what the others have may be far less than what the log has.
    Empty,
    /// It was begun before.
    Interrupted(Unfinished),
    /// The log no longer has it.
    Trimmed(JournalError),
}

/// What was found for a node that lacks something.
enum Found {
    /// A backfill from a replica that has more.
    Begun(Box<Unfinished>),
    /// What nobody has.
    Lost(Box<Agreed>),
    /// Nobody who answers has more, and that is enough to know.
    Nobody,
}

/// How the fetching of a table ended.
enum End {
    /// All of it is here.
    All,
    /// Nobody who answers can go on.
    Failed,
    /// The same, and of those who answer some have come past it and no longer have it.
    Passed,
    /// Nobody has it any more.
    Gone,
}

/// How far fetching has come.
enum Copied {
    /// All is here.
    All(Unfinished),
    /// Nobody has that snapshot any more.
    Gone(Unfinished),
}

impl Backfill {
    /// Takes what is missing at `head`. Returns where to apply the log from. Blocks.
    pub(crate) fn run(&self, head: Head, reason: Reason) -> Result<Head, Error> {
        let next = head.progress.next;
        self.forget_taken_back(&head)?;
        let (mut found, trimmed) = match reason {
            Reason::Empty => (self.find_now(next, TxnId(FEW)), None),
            Reason::Interrupted(unfinished) => (Found::Begun(Box::new(unfinished)), None),
            Reason::Trimmed(trimmed) => {
                self.take_back_expiry(&head)?;
                (self.find(&head, &trimmed)?, Some(trimmed))
            }
        };
        loop {
            let unfinished = match found {
                Found::Begun(unfinished) => *unfinished,
                Found::Lost(agreed) => return self.pass_over(head, &agreed),
                Found::Nobody => {
                    self.status.set_backfilling(None);
                    return Ok(head);
                }
            };
            match self.copy(&head, unfinished)? {
                Copied::All(unfinished) => return self.finish(head, unfinished),
                Copied::Gone(unfinished) => self.abandon(&head, unfinished)?,
            }
            found = match &trimmed {
                Some(trimmed) => self.find(&head, trimmed)?,
                // The log may have it as well.
                None => self.find_now(next, next),
            };
        }
    }

    /// A backfill from a replica that answers and has come past `at_least`, if there is one.
    fn find_now(&self, since: TxnId, at_least: TxnId) -> Found {
        match choose(at_least, self.replicas.positions()) {
            Choice::From(node, to) => self.begin(since, &node, to),
            Choice::Nobody | Choice::Unknown(_) => Found::Nobody,
        }
    }

    fn begin(&self, since: TxnId, node: &NodeId, mut to: Progress) -> Found {
        tracing::info!(%since, until = %to.next, %node, "a backfill begins");
        // Whoever goes on with it has to own the same.
        to.observed.splice_in(self.log.owned(), &(TxnId(0)..to.next));
        Found::Begun(Box::new(Unfinished::new(since, to)))
    }

    /// A backfill, or what is lost, once one of them is known.
    fn find(&self, head: &Head, trimmed: &JournalError) -> Result<Found, Error> {
        let next = head.progress.next;
        let mut nobody_since = None;
        loop {
            // Before they are asked: whoever joins later has to be asked, too.
            let epoch = self.replicas.epoch();
            let text = match choose(next, self.replicas.positions()) {
                Choice::From(node, to) => return Ok(self.begin(next, &node, to)),
                Choice::Nobody => {
                    let waited = nobody_since.get_or_insert_with(Instant::now).elapsed();
                    match self.lost_after.checked_sub(waited).filter(|left| !left.is_zero()) {
                        Some(left) => will_be_lost(left, next, trimmed),
                        None => match self.agree(&head.progress, epoch)? {
                            Some(agreed) => return Ok(Found::Lost(Box::new(agreed))),
                            None => will_be_lost(Duration::ZERO, next, trimmed),
                        },
                    }
                }
                Choice::Unknown(silent) => {
                    nobody_since = None;
                    waits_for(&silent, next, trimmed)
                }
            };
            if self.status.set_backfilling(Some(Backfilling { until: next, entries: 0, text })) {
                tracing::warn!(%next, %trimmed, "no replica that answers has what is missing");
            }
            self.persistence.pause(self.ask_again)?;
        }
    }

    /// What is lost, as the replicas agree; `None` if they cannot at the moment, or others are to
    /// be asked by now.
    fn agree(&self, progress: &Progress, epoch: Epoch) -> Result<Option<Agreed>, Error> {
        let next = progress.next;
        let followed = progress.losses.iter().find(|loss| loss.from == next);
        match self.agreement.lost_from(next, followed.map(|loss| loss.number), epoch) {
            Err(error) if matches!(error.kind(), ErrorKind::Retry | ErrorKind::Unknown) => {
                tracing::warn!(%error, "it cannot be agreed on what is lost; trying again");
                Ok(None)
            }
            agreed => agreed,
        }
    }

    /// Passes over what is lost.
    fn pass_over(&self, head: Head, agreed: &Agreed) -> Result<Head, Error> {
        let Head { progress: before, timeline } = head;
        let progress = passed_over(&before, agreed, &self.log);
        let mut batch = Batch::new(&self.storage, 1024);
        let last = progress.last.filter(|_| progress.next > before.next);
        if let Some(last) = last {
            tracing::error!(
                from = %before.next, to = %progress.next, declared_by = agreed.range.declared_by,
                "neither the log nor any replica has these transactions: they are lost"
            );
            self.tell_lost(&mut batch, before.next, last);
        } else {
            // If a commit record names one of these parts, that it is lost is told then. None may: a
            // transaction that was torn has left parts behind, and is nothing that anybody misses.
            tracing::warn!(
                from = %before.next, declared_by = agreed.range.declared_by,
                "neither the log nor any replica has some parts of transactions to come"
            );
        }
        self.storage.history().begin_at(progress.oldest_readable);
        self.persistence.write(batch, &progress)?;
        self.make_durable();
        if last.is_some() {
            self.status.add_lost_range();
        }
        self.status.set_applied(progress.next, progress.last, progress.time);
        self.status.set_backfilling(None);
        Ok(Head { progress, timeline })
    }

    /// Removes what an expiry has written that was not applied to the end. The log cannot finish it any
    /// more: either it is passed over, or what it did is copied.
    fn take_back_expiry(&self, head: &Head) -> Result<(), Error> {
        let mut last = None;
        loop {
            self.persistence.check()?;
            let most = self.removed_at_once;
            let listed = self.storage.tombstones(Hlc(u64::MAX), last.as_ref(), most)?;
            let mut batch = Batch::new(&self.storage, 1024);
            let mut newest = self.storage.newest_versions();
            let mut removed = 0;
            for (_, id) in &listed {
                let written = newest.get(id)?.map(|(txn, _)| txn);
                if let Some(txn) = written.filter(|txn| *txn >= head.progress.next) {
                    batch.remove_entry(Table::Versions, id, txn)?;
                    removed += 1;
                }
            }
            if removed > 0 {
                self.persistence.write(batch, &head.progress)?;
            }
            if listed.len() < most {
                return self.forget_taken_back(head);
            }
            last = listed.into_iter().next_back();
        }
    }

    /// Has no version left on disk that was taken back. Until then a compaction may come upon one in a
    /// file without the deletion, which stands in another: it would count as newer than the version
    /// below, and that be dropped as soon as no snapshot before it can be read.
    fn forget_taken_back(&self, head: &Head) -> Result<(), Error> {
        if !self.storage.has_taken_back()? {
            return Ok(());
        }
        let text = "removing what was copied or expired, and is not what the cluster agrees on";
        let (until, text) = (head.progress.next, text.to_owned());
        self.status.set_backfilling(Some(Backfilling { until, entries: 0, text }));
        loop {
            match self.storage.settle_versions() {
                Ok(true) => break,
                Ok(false) => tracing::warn!("what was taken back is still on disk; trying again"),
                Err(error) => tracing::warn!(%error, "what was taken back cannot be removed yet"),
            }
            self.persistence.pause(self.ask_again)?;
        }
        let mut batch = Batch::new(&self.storage, 1024);
        batch.end_taking_back();
        self.persistence.write(batch, &head.progress)
    }

    /// Records that transactions are lost, also in the feed: there it is what the last of them did.
    fn tell_lost(&self, batch: &mut Batch<'_>, from: TxnId, last: TxnId) {
        batch.put_lost_range(&(from..last.next()));
        if planted!(KeepsLossesQuiet) {
            return;
        }
        batch.begin_changes(last, self.log.read());
        for slice in self.log.read() {
            batch.put_lost_changes(*slice, from);
        }
        batch.end_changes();
    }

    /// After a crash all of it is done again, until this succeeds.
    fn make_durable(&self) {
        if let Err(error) = self.storage.flush() {
            tracing::warn!(%error, "what was backfilled is not durable yet");
        }
    }

    /// Removes what was fetched of a backfill that nobody can finish: the node is what it was.
    /// Another one could be as of an older snapshot, and newer entries would stay among its own.
    fn abandon(&self, head: &Head, unfinished: Unfinished) -> Result<(), Error> {
        let Unfinished { since, to, .. } = unfinished;
        tracing::warn!(%since, until = %to.next, "a backfill is abandoned");
        let until = to.next;
        // From here on it would have to be fetched from the first entry.
        let mut batch = Batch::new(&self.storage, 1024);
        batch.put_unfinished(&Unfinished::new(since, to));
        self.persistence.write(batch, &head.progress)?;
        for table in [Table::Versions, Table::Rounds] {
            self.remove(head, table, since..until)?;
        }
        self.forget_taken_back(head)?;
        let mut batch = Batch::new(&self.storage, 1024);
        batch.end_unfinished();
        self.persistence.write(batch, &head.progress)
    }

    fn remove(&self, head: &Head, table: Table, txns: Range<TxnId>) -> Result<(), Error> {
        let mut after = Vec::new();
        loop {
            self.persistence.check()?;
            let (mut batch, mut removed) = (Batch::new(&self.storage, 1 << 20), 0);
            let mut failed = Ok(());
            self.storage.entries(table, txns.end, &after.clone(), |key, entry| {
                if let Some((txn, _)) = entry.filter(|(txn, _)| *txn >= txns.start) {
                    failed = batch.remove_entry(table, key, txn);
                    after = key.to_vec();
                    removed += 1;
                }
                match failed.is_ok() && removed < self.removed_at_once {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            })?;
            failed?;
            self.persistence.write(batch, &head.progress)?;
            if removed < self.removed_at_once {
                return Ok(());
            }
        }
    }

    /// Fetches all that is not here yet.
    fn copy(&self, head: &Head, mut unfinished: Unfinished) -> Result<Copied, Error> {
        self.forget_indexes(head)?;
        let mut tries = 0;
        loop {
            self.tell(&unfinished);
            let before = unfinished.after.clone();
            match self.copy_table(head, &mut unfinished)? {
                End::All if unfinished.table == Table::Rounds => {
                    unfinished.table = Table::Versions;
                    unfinished.after.clear();
                    continue;
                }
                End::All => return Ok(Copied::All(unfinished)),
                End::Gone => return Ok(Copied::Gone(unfinished)),
                ended @ (End::Failed | End::Passed) => {
                    tries = if unfinished.after == before { tries + 1 } else { 0 };
                    let is_passed = matches!(ended, End::Passed);
                    if tries >= TRIES && (is_passed || self.need_not_wait(head, &unfinished)) {
                        return Ok(Copied::Gone(unfinished));
                    }
                    self.persistence.pause(self.ask_again)?;
                }
            }
        }
    }

    /// Whether nothing is lost by giving up what is being copied. What the log has need not be waited
    /// for, nor what all others answer that they do not have either, and wait for themselves; what
    /// somebody may have who does not answer may come back.
    fn need_not_wait(&self, head: &Head, unfinished: &Unfinished) -> bool {
        let before = TxnId(unfinished.to.next.0.saturating_sub(1));
        (self.log_has)(&head.progress)
            || matches!(choose(before, self.replicas.positions()), Choice::Nobody)
    }

    /// What is copied goes into no index: they are made anew when the log is applied again.
    fn forget_indexes(&self, head: &Head) -> Result<(), Error> {
        let indexes = self.storage.indexes();
        if indexes.all().next().is_none() || planted!(KeepsIndexesThatLack) {
            return Ok(());
        }
        let none = indexes.emptied();
        metrics::set_indexes(&none);
        self.storage.set_indexes(none);
        let mut batch = Batch::new(&self.storage, 1024);
        indexes.all().for_each(|index| batch.drop_index(index.number));
        self.persistence.write(batch, &head.progress)
    }

    /// Fetches what is not here yet of the table that is being fetched.
    fn copy_table(&self, head: &Head, unfinished: &mut Unfinished) -> Result<End, Error> {
        let is_left_out = planted!(BackfillsWithoutRounds) && unfinished.table == Table::Rounds;
        if unfinished.is_complete || is_left_out {
            return Ok(End::All);
        }
        let txns = unfinished.since..unfinished.to.next;
        let wanted = Wanted {
            losses: unfinished.to.losses_in(&txns),
            since: txns.start,
            until: txns.end,
            table: unfinished.table,
            after: unfinished.after.clone(),
        };
        for fetched in self.replicas.fetch(wanted) {
            self.persistence.check()?;
            match fetched {
                Fetched::Entries(Fill { entries, after, is_last }) => {
                    unfinished.after = after;
                    // Whoever gave it may be gone before it is asked whether there is more.
                    unfinished.is_complete = is_last && unfinished.table == Table::Versions;
                    self.write(head, unfinished, &entries)?;
                    if unfinished.is_complete {
                        return Ok(End::All);
                    }
                }
                Fetched::All => return Ok(End::All),
                Fetched::Failed => return Ok(End::Failed),
                Fetched::Passed => return Ok(End::Passed),
                Fetched::Gone => return Ok(End::Gone),
            }
        }
        self.persistence.check()?;
        Ok(End::Failed)
    }

    /// Writes entries and how far they go, in one batch.
    fn write(
        &self,
        head: &Head,
        unfinished: &mut Unfinished,
        entries: &[Entry],
    ) -> Result<(), Error> {
        let began = Instant::now();
        let bytes: usize = entries.iter().map(|entry| entry.key.len() + entry.value.len()).sum();
        let mut batch = Batch::new(&self.storage, bytes + 64 * entries.len() + 1024);
        for entry in entries {
            batch.put_entry(unfinished.table, entry)?;
        }
        unfinished.entries += entries.len() as u64;
        batch.put_unfinished(unfinished);
        self.persistence.write(batch, &head.progress)?;
        metrics::record_backfilled(entries.len() as u64, bytes as u64, began.elapsed());
        self.tell(unfinished);
        Ok(())
    }

    fn tell(&self, unfinished: &Unfinished) {
        let Unfinished { to, entries, .. } = unfinished;
        let text = format!(
            "copying what it lacks from other replicas, up to transaction {}: {entries} rounds and \
             documents so far",
            to.next
        );
        let backfilling = Backfilling { until: to.next, entries: *entries, text };
        self.status.set_backfilling(Some(backfilling));
    }

    /// All is here: the node is where the other replica was.
    fn finish(&self, head: Head, unfinished: Unfinished) -> Result<Head, Error> {
        let Head { progress: before, mut timeline } = head;
        let Unfinished { to, entries, since, .. } = unfinished;
        let next = to.next;
        let mut progress = Progress { next: since, observed: before.observed, ..to };
        progress.observe(self.log.owned(), next);
        // Of what lies between there is but the newest, and no changes.
        let last = progress.last.unwrap_or_default();
        progress.oldest_readable = last;
        if !planted!(FeedClaimsTooMuch) {
            progress.feed_start = progress.next;
        }
        // What the other one passed over before that this one had come to by itself.
        progress.losses.retain(|loss| loss.from >= since);
        let own = before.losses.into_iter().filter(|loss| loss.from < since);
        progress.losses = own.chain(progress.losses).collect();
        let sample = Sample { time: progress.time, txn: last };
        let mut batch = Batch::new(&self.storage, 1024);
        batch.delete_samples(&timeline.forget());
        batch.put_sample(sample);
        batch.drop_changes(before.feed_start..progress.next);
        batch.end_unfinished();
        self.storage.history().begin_at(last);
        self.persistence.write(batch, &progress)?;
        self.make_durable();
        self.status.set_applied(progress.next, progress.last, progress.time);
        self.status.set_backfilling(None);
        tracing::info!(%since, next = %progress.next, entries, "the backfill is finished");
        Ok(Head { progress, timeline: Timeline::of(sample) })
    }
}
