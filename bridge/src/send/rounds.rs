//! Rebuilds rounds from `c.txns` and `c.changes`, in transaction order.
//!
//! A commit record names the slices its round touched. The round is whole once each of them is
//! resolved up to it; rounds are handed out strictly in the order of the log (BR-2), each once,
//! whole. What a receiver is not sent takes no place but moves its position on.
//!
//! Pure: records go in, in any interleaving of the partitions; batches come out.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use anabranch_core::ids::{ActorId, AppId, TxnId};
use anabranch_core::keyspace::{Slice, SliceCount};
use anabranch_schemas::link;
use anabranch_schemas::records::Commit;

use super::batch::{BatchLimits, actor_bytes, change_bytes};
use super::select::{Selected, Selector};
use crate::error::Error;

/// What rounds are rebuilt for whom.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// The app whose rounds are wanted.
    pub(crate) app: AppId,
    /// The slices of this cluster.
    pub(crate) slices: SliceCount,
    /// The actor of this cluster's log.
    pub(crate) actor: ActorId,
    /// What the receiver is sent.
    pub(crate) selector: Arc<Selector>,
    /// What is below this may be older than what it has.
    pub(crate) replays_until: TxnId,
}

/// Rounds being rebuilt.
#[derive(Debug)]
pub(crate) struct Rounds {
    source: Source,
    /// Every transaction below was handed out, or holds nothing for the receiver.
    next: TxnId,
    /// Commit records that were read and not handed out, in order.
    pending: VecDeque<Pending>,
    /// How far each slice is resolved.
    resolved: Vec<Option<TxnId>>,
    /// What is to be sent of transactions that are not whole yet.
    changes: HashMap<TxnId, Vec<link::Change>>,
    /// What those weigh.
    held_bytes: usize,
    /// Whole rounds, in order.
    ready: VecDeque<Ready>,
    /// The last commit record that was read, and the last change that was taken.
    last_commit: Option<TxnId>,
    last_change: Option<TxnId>,
    limits: BatchLimits,
}

#[derive(Debug)]
struct Pending {
    txn: TxnId,
    round: link::Round,
    slices: Vec<Slice>,
}

#[derive(Debug)]
struct Ready {
    txn: TxnId,
    round: link::Round,
    bytes: usize,
}

/// Rounds to send, and the position that the receiver then has.
#[derive(Debug, PartialEq)]
pub(crate) struct Outgoing {
    pub(crate) rounds: Vec<link::Round>,
    pub(crate) next: TxnId,
}

impl Rounds {
    /// From transaction `from` on.
    pub(crate) fn new(source: Source, from: TxnId, limits: BatchLimits) -> Self {
        Rounds {
            next: from,
            pending: VecDeque::new(),
            resolved: vec![None; usize::from(source.slices.get())],
            source,
            changes: HashMap::new(),
            held_bytes: 0,
            ready: VecDeque::new(),
            last_commit: None,
            last_change: None,
            limits,
        }
    }

    /// A commit record was read.
    pub(crate) fn commit(&mut self, txn: TxnId, commit: &Commit) -> Result<(), Error> {
        if !self.is_news(txn)? {
            return Ok(());
        }
        let mut slices = Vec::new();
        // Other apps' rounds only move the position on.
        if commit.app == self.source.app {
            for part in &commit.parts {
                if usize::from(part.slice.0) >= self.resolved.len() {
                    return Err(Error::Corrupt(format!(
                        "commit record {txn} names slice {}, and there are {}",
                        part.slice.0,
                        self.resolved.len()
                    )));
                }
                if !slices.contains(&part.slice) {
                    slices.push(part.slice);
                }
            }
        }
        // What the receiver is told of a round of its own is what became of it here.
        let (origin, origin_txn) = match commit.origin_txn {
            Some(origin_txn) if !self.source.selector.is_of_receiver(commit.origin) => {
                (commit.origin, origin_txn)
            }
            _ => (self.source.actor, txn),
        };
        let round = link::Round {
            origin: actor_bytes(origin),
            origin_txn: origin_txn.0,
            hlc: commit.hlc.0,
            changes: Vec::new(),
        };
        self.pending.push_back(Pending { txn, round, slices });
        self.advance();
        Ok(())
    }

    /// A transaction was read that is nothing to a receiver: it only moves the position on.
    pub(crate) fn pass(&mut self, txn: TxnId) -> Result<(), Error> {
        if self.is_news(txn)? {
            let (round, slices) = (link::Round::default(), Vec::new());
            self.pending.push_back(Pending { txn, round, slices });
            self.advance();
        }
        Ok(())
    }

    /// Takes note of a transaction; whether it was not handed out before.
    fn is_news(&mut self, txn: TxnId) -> Result<bool, Error> {
        if txn < self.next {
            return Ok(false);
        }
        if self.last_commit.is_some_and(|last| last >= txn) {
            return Err(Error::Corrupt(format!("commit record {txn} came out of order")));
        }
        self.last_commit = Some(txn);
        Ok(true)
    }

    /// Whether a change of this transaction is of use: else it was handed out before.
    pub(crate) fn needs(&self, txn: TxnId) -> bool {
        txn >= self.next
    }

    /// A change that is to be sent was read from a slice.
    pub(crate) fn change(&mut self, slice: Slice, selected: Selected) -> Result<(), Error> {
        let Selected { txn, change } = selected;
        if !self.needs(txn) {
            return Ok(());
        }
        if self.resolved[usize::from(slice.0)].is_some_and(|resolved| resolved >= txn) {
            return Err(Error::Corrupt(format!(
                "a change of transaction {txn} in slice {} came after it was resolved (CDC-2)",
                slice.0
            )));
        }
        self.last_change = self.last_change.max(Some(txn));
        self.held_bytes += change_bytes(&change);
        self.changes.entry(txn).or_default().push(change);
        Ok(())
    }

    /// A resolved mark was read.
    pub(crate) fn mark(&mut self, slice: Slice, txn: TxnId) -> Result<(), Error> {
        let resolved = self.resolved.get_mut(usize::from(slice.0)).ok_or_else(|| {
            Error::Corrupt(format!("a resolved mark names slice {}, which is not there", slice.0))
        })?;
        *resolved = (*resolved).max(Some(txn));
        self.advance();
        Ok(())
    }

    fn advance(&mut self) {
        while let Some(front) = self.pending.front() {
            let whole = |slice: &Slice| self.resolved[usize::from(slice.0)] >= Some(front.txn);
            if !front.slices.iter().all(whole) {
                return;
            }
            let Some(Pending { txn, mut round, .. }) = self.pending.pop_front() else { return };
            self.next = txn.next();
            if let Some(changes) = self.changes.remove(&txn) {
                let bytes: usize = changes.iter().map(change_bytes).sum();
                self.held_bytes -= bytes;
                round.changes = changes;
                self.ready.push_back(Ready { txn, round, bytes });
            }
        }
    }

    /// The next batch of whole rounds, if there are any. A round larger than a batch may be is
    /// cut: the position moves past it with its last piece.
    pub(crate) fn take(&mut self) -> Option<Outgoing> {
        let front = self.ready.front_mut()?;
        if front.bytes > self.limits.max_round_bytes
            && let Some(piece) = cut(front, self.limits.max_round_bytes)
        {
            return Some(Outgoing { rounds: vec![piece], next: front.txn });
        }
        let (mut rounds, mut bytes, mut documents) = (Vec::new(), 0, 0);
        while let Some(front) = self.ready.front() {
            bytes += front.bytes;
            documents += front.round.changes.len();
            let full = bytes > self.limits.max_bytes || documents > self.limits.max_documents;
            if full && !rounds.is_empty() {
                return Some(Outgoing { rounds, next: front.txn });
            }
            rounds.extend(self.ready.pop_front().map(|ready| ready.round));
        }
        Some(Outgoing { rounds, next: self.next })
    }

    /// How far everything was handed out, once [`Rounds::take`] has nothing more.
    pub(crate) fn next(&self) -> TxnId {
        self.next
    }

    /// Whether a change was taken whose commit record was not read yet.
    pub(crate) fn lacks_commits(&self) -> bool {
        self.last_change > self.last_commit
    }

    /// How many commit records wait for their changes.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// What the changes weigh that wait for the rest of their rounds.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// The slices that the first `most` rounds still wait for. Never empty while a commit record
    /// is pending, since the first of those would be whole: whoever reads these gets on.
    pub(crate) fn awaited(&self, most: usize) -> BTreeSet<Slice> {
        let first = self.pending.iter().take(most);
        let slices =
            first.flat_map(|pending| pending.slices.iter().map(|slice| (pending.txn, *slice)));
        let awaited = slices.filter(|(txn, slice)| {
            self.resolved[usize::from(slice.0)].is_none_or(|resolved| resolved < *txn)
        });
        awaited.map(|(_, slice)| slice).collect()
    }
}

/// Takes the first changes off a round, up to `most` bytes but at least one, if some remain.
fn cut(ready: &mut Ready, most: usize) -> Option<link::Round> {
    let mut bytes = 0;
    let mut count = 0;
    for change in &ready.round.changes {
        bytes += change_bytes(change);
        if bytes > most && count > 0 {
            break;
        }
        count += 1;
    }
    if count >= ready.round.changes.len() {
        return None;
    }
    let rest = ready.round.changes.split_off(count);
    let changes = std::mem::replace(&mut ready.round.changes, rest);
    ready.bytes = ready.round.changes.iter().map(change_bytes).sum();
    Some(link::Round { changes, origin: ready.round.origin.clone(), ..ready.round })
}
