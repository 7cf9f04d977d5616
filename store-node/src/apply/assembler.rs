//! Puts rounds together from commit records and parts, and releases them in order.
//!
//! Parts and commit records come from partitions that are read independently, so either may be
//! ahead. A round is released when it is the next one and all its parts are here, or are known not
//! to come: a part that its partition's position has passed is lost (ST-5). Pure: no clock, no IO.
//!
//! A part without a commit record is what a torn transaction leaves. It is dropped once a commit
//! record is released that was written long after it: no transaction stays open that long.
//!
//! The writers' lanes interleave, so a part can be done with while one before it waits. When it is
//! read again after a restart no commit record will ask for it any more: it is dropped at once,
//! going by what was remembered, since as an orphan it would hold the position where it is.

use std::collections::{BTreeMap, VecDeque};

use anabranch_core::ids::TxnId;
use anabranch_core::keyspace::Slice;
use anabranch_journal::Offset;
use anabranch_runtime::planted;
use anabranch_schemas::RecordError;
use anabranch_schemas::records::{Commit, Expiry, PartLocation, RoundPart, TxnsRecord};

use crate::log::Log;
use crate::storage::SliceRead;

/// How much later than a part its commit record can be written at most, by the time at which the
/// log took each: transactions time out after seconds.
const ORPHAN_AGE_MS: u64 = 5 * 60 * 1000;
/// How many waiting parts of a slice are remembered with the progress. What was read beyond the
/// last of them counts as not read.
const REMEMBERED: usize = 64;

/// A record of topic `rounds`.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) slice: Slice,
    pub(crate) offset: Offset,
    pub(crate) timestamp_ms: u64,
    /// Size of the record.
    pub(crate) bytes: usize,
    /// CRC-32C of its value.
    pub(crate) checksum: u32,
    pub(crate) content: Result<RoundPart, RecordError>,
}

/// A record of topic `txns`.
#[derive(Debug)]
pub(crate) struct Committed {
    pub(crate) txn: TxnId,
    /// When the log took it.
    pub(crate) timestamp_ms: u64,
    pub(crate) record: TxnsRecord,
}

/// An expiry whose turn it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expiring {
    pub(crate) txn: TxnId,
    /// When the log took it.
    pub(crate) timestamp_ms: u64,
    pub(crate) expiry: Expiry,
}

/// A round whose turn it is.
#[derive(Debug)]
pub(crate) struct Round {
    pub(crate) txn: TxnId,
    /// When the log took its commit record.
    pub(crate) timestamp_ms: u64,
    pub(crate) commit: Commit,
    /// Its parts in the slices that are read, in order of index.
    pub(crate) parts: Vec<(Slice, RoundPart)>,
    /// The parts that are lost, of those.
    pub(crate) lost: Vec<PartLocation>,
}

/// A part that its commit record vouches for and that does not decode.
#[derive(Debug)]
pub(crate) struct BrokenPart {
    pub(crate) slice: Slice,
    pub(crate) offset: Offset,
    pub(crate) reason: String,
}

/// What was read of one slice.
#[derive(Debug)]
struct SliceState {
    /// Its parts are given to the assembler. Nobody waits for those of the others.
    is_read: bool,
    /// Every record below was given to the assembler.
    position: Offset,
    waiting: BTreeMap<Offset, Part>,
    /// What was read before reading began anew.
    before: SliceRead,
}

/// Rounds in the making.
#[derive(Debug)]
pub(crate) struct Assembler {
    slices: Vec<SliceState>,
    commits: VecDeque<Committed>,
    /// Every commit record below was given to the assembler.
    txns_position: TxnId,
    buffered_bytes: usize,
    orphans: u64,
    /// The time of the commit record at which orphans were last looked for.
    orphans_sought_ms: u64,
}

impl Assembler {
    /// Begins where reading begins; `slices` has what was read before of each.
    pub(crate) fn new(log: &Log, next: TxnId, slices: &[SliceRead]) -> Self {
        let slice = |(slice, before): (Slice, &SliceRead)| SliceState {
            is_read: log.reads(slice),
            position: before.position(),
            waiting: BTreeMap::new(),
            before: before.clone(),
        };
        Assembler {
            slices: (0..).map(Slice).zip(slices).map(slice).collect(),
            commits: VecDeque::new(),
            txns_position: next,
            buffered_bytes: 0,
            orphans: 0,
            orphans_sought_ms: 0,
        }
    }

    /// Takes a commit record; they come in order.
    pub(crate) fn add_commit(&mut self, committed: Committed) {
        assert!(committed.txn >= self.txns_position, "commit records come in order");
        self.txns_position = committed.txn.next();
        self.commits.push_back(committed);
    }

    /// Takes a part; those of a slice come in order.
    pub(crate) fn add_part(&mut self, part: Part) {
        let slice = &mut self.slices[usize::from(part.slice.0)];
        assert!(part.offset >= slice.position, "parts of a slice come in order");
        slice.position = Offset(part.offset.0 + 1);
        if slice.before.is_done(part.offset) {
            return;
        }
        self.buffered_bytes += part.bytes;
        slice.waiting.insert(part.offset, part);
    }

    /// Every commit record below `position` was given.
    pub(crate) fn commits_read_to(&mut self, position: TxnId) {
        self.txns_position = self.txns_position.max(position);
    }

    /// Every part of `slice` below `position` was given.
    pub(crate) fn parts_read_to(&mut self, slice: Slice, position: Offset) {
        let slice = &mut self.slices[usize::from(slice.0)];
        slice.position = slice.position.max(position);
    }

    /// The next round, if that is what is next and all of it is here or known not to come. One that
    /// is broken stays the next.
    pub(crate) fn release(&mut self) -> Result<Option<Round>, BrokenPart> {
        let front = self.commits.front().map(|front| &front.record);
        let Some(TxnsRecord::Commit(commit)) = front else { return Ok(None) };
        let is_awaited = commit.parts.iter().any(|part| self.is_awaited(part));
        if is_awaited && !planted!(ReleasesHalfRounds) {
            return Ok(None);
        }
        if let Some(broken) = commit.parts.iter().find_map(|part| self.broken(part)) {
            return Err(broken);
        }
        let Some(Committed { txn, timestamp_ms, record: TxnsRecord::Commit(commit) }) =
            self.commits.pop_front()
        else {
            unreachable!("it was the first one");
        };
        let mut parts = Vec::with_capacity(commit.parts.len());
        let mut lost = Vec::new();
        for location in &commit.parts {
            if !self.is_of_interest(location) {
                continue;
            }
            match self.take(location, &commit) {
                Some(part) => parts.push((location.slice, part)),
                None => lost.push(*location),
            }
        }
        parts.sort_by_key(|(_, part)| part.index);
        self.drop_orphans(timestamp_ms);
        Ok(Some(Round { txn, timestamp_ms, commit, parts, lost }))
    }

    /// The expiry that is next, if that is what is next. It stays the next until it is passed.
    pub(crate) fn expiring(&self) -> Option<Expiring> {
        let Committed { txn, timestamp_ms, record: TxnsRecord::Expiry(expiry) } =
            self.commits.front()?
        else {
            return None;
        };
        Some(Expiring { txn: *txn, timestamp_ms: *timestamp_ms, expiry: *expiry })
    }

    /// The expiry that is next is done.
    pub(crate) fn pass_expiring(&mut self) {
        let passed = self.expiring().expect("a round is released");
        self.commits.pop_front();
        // In a cluster that rests nothing else comes, and the log gives up where they stand.
        self.drop_orphans(passed.timestamp_ms);
    }

    /// Whether a part stands in a slice that is read, or nowhere.
    fn is_of_interest(&self, part: &PartLocation) -> bool {
        self.slices.get(usize::from(part.slice.0)).is_none_or(|slice| slice.is_read)
    }

    /// Whether a part may still come.
    fn is_awaited(&self, part: &PartLocation) -> bool {
        let slice = self.slices.get(usize::from(part.slice.0));
        slice.is_some_and(|slice| slice.is_read && slice.position.0 <= part.offset)
    }

    /// The part at `location`, if the commit record vouches for it and it does not decode.
    fn broken(&self, location: &PartLocation) -> Option<BrokenPart> {
        let (slice, offset) = (location.slice, Offset(location.offset));
        let part = self.slices.get(usize::from(slice.0))?.waiting.get(&offset)?;
        let error = part.content.as_ref().err().filter(|_| part.checksum == location.checksum)?;
        Some(BrokenPart { slice, offset, reason: error.to_string() })
    }

    /// The part at `location`, if it is there and is the one that the commit record means.
    fn take(&mut self, location: &PartLocation, commit: &Commit) -> Option<RoundPart> {
        let slice = self.slices.get_mut(usize::from(location.slice.0))?;
        let part = slice.waiting.remove(&Offset(location.offset))?;
        self.buffered_bytes -= part.bytes;
        let content = part.content.ok().filter(|_| part.checksum == location.checksum)?;
        belongs(&content, commit).then_some(content)
    }

    fn drop_orphans(&mut self, now_ms: u64) {
        if now_ms < self.orphans_sought_ms.saturating_add(ORPHAN_AGE_MS / 16) {
            return;
        }
        self.orphans_sought_ms = now_ms;
        for slice in &mut self.slices {
            while let Some(oldest) = slice.waiting.first_entry()
                && oldest.get().timestamp_ms.saturating_add(ORPHAN_AGE_MS) < now_ms
            {
                self.buffered_bytes -= oldest.remove().bytes;
                self.orphans += 1;
            }
        }
    }

    /// How many parts without a commit record were dropped since this was last asked.
    pub(crate) fn take_orphans(&mut self) -> u64 {
        std::mem::take(&mut self.orphans)
    }

    /// The slices that have to be read on for the next round.
    pub(crate) fn missing(&self) -> Vec<Slice> {
        let parts = self.commits.front().into_iter().flat_map(|head| head.record.parts());
        let mut missing: Vec<_> =
            parts.filter(|part| self.is_awaited(part)).map(|part| part.slice).collect();
        missing.sort_unstable();
        missing.dedup();
        missing
    }

    /// Every transaction below this was released.
    pub(crate) fn next(&self) -> TxnId {
        if planted!(SpliceBeforeApply) {
            return self.txns_position;
        }
        self.commits.front().map_or(self.txns_position, |head| head.txn)
    }

    /// What was read of each slice, if all that was released is kept and all else is not.
    pub(crate) fn read(&self) -> Vec<SliceRead> {
        self.slices.iter().map(SliceState::read).collect()
    }

    /// How many bytes of parts are here.
    pub(crate) fn buffered_bytes(&self) -> usize {
        self.buffered_bytes
    }

    /// How many commit records are here.
    pub(crate) fn pending_commits(&self) -> usize {
        self.commits.len()
    }
}

impl SliceState {
    fn read(&self) -> SliceRead {
        let mut waiting: Vec<_> = self.still_waiting().take(REMEMBERED + 1).collect();
        let beyond = if waiting.len() > REMEMBERED { waiting.pop() } else { None };
        SliceRead { end: beyond.unwrap_or(self.end()), waiting }
    }

    /// The parts that wait, in order: those that are here, then those that waited before and are
    /// not yet read again.
    fn still_waiting(&self) -> impl Iterator<Item = Offset> {
        let before = self.before.waiting.iter().filter(|offset| **offset >= self.position);
        self.waiting.keys().chain(before).copied()
    }

    /// Every part below was read, now or before.
    fn end(&self) -> Offset {
        self.position.max(self.before.end)
    }
}

/// Whether a part is of this round: torn transactions put others in its place.
fn belongs(part: &RoundPart, commit: &Commit) -> bool {
    let count = i32::try_from(commit.parts.len()).ok();
    part.round == commit.round
        && part.app == commit.app
        && Some(part.count) == count
        && (0..part.count).contains(&part.index)
}
