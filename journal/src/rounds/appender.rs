//! How rounds stand in the log.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::ids::{ActorId, AppId, RoundId, TxnId};
use anabranch_core::keyspace::{Slice, SliceCount};
use anabranch_schemas::encode;
use anabranch_schemas::records::{
    Commit, DocumentMutation, Expiry, PartLocation, Restriction, RoundPartRef, part_checksum,
};
use anabranch_schemas::topics::ClusterName;
use bytes::Bytes;

use super::{HlcClock, Round};
use crate::error::Error;
use crate::log::{NewRecord, Offset, TopicPartition, Writer};
use crate::topics::MAX_ROUND_RECORD_BYTES;

/// The size above which mutations of one slice are split into several records. Well below what
/// brokers and clients handle at once; one mutation may be larger by itself.
const PART_BYTES: usize = 512 << 10;
/// The key: a round id.
const KEY_BYTES: usize = 16;

/// A round as bytes. Everything but its time and its offsets is decided.
#[derive(Debug)]
pub struct EncodedRound {
    id: RoundId,
    app: AppId,
    origin: Option<(ActorId, TxnId)>,
    digest: Vec<u8>,
    atomic: bool,
    documents: usize,
    parts: Vec<(Slice, Bytes)>,
}

impl EncodedRound {
    /// How many mutations it has.
    pub fn documents(&self) -> usize {
        self.documents
    }

    /// How many bytes its parts have together.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(|(_, value)| value.len()).sum()
    }

    /// The slice of its first part.
    pub fn first_slice(&self) -> Option<Slice> {
        self.parts.first().map(|(slice, _)| *slice)
    }
}

/// Appends rounds to a transaction.
#[derive(Clone)]
pub struct RoundAppender {
    slices: SliceCount,
    actor: ActorId,
    rounds: Vec<TopicPartition>,
    txns: TopicPartition,
    clock: Arc<HlcClock>,
    part_bytes: usize,
    max_record_bytes: usize,
}

impl fmt::Debug for RoundAppender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RoundAppender")
            .field("txns", &self.txns)
            .field("slices", &self.slices)
            .field("actor", &self.actor)
            .finish_non_exhaustive()
    }
}

impl RoundAppender {
    /// For the log of `cluster`, which is the actor `actor`. `clock` gives each round its time.
    pub fn new(
        cluster: &ClusterName,
        actor: ActorId,
        slices: SliceCount,
        clock: Arc<HlcClock>,
    ) -> Self {
        let rounds = cluster.rounds();
        RoundAppender {
            slices,
            actor,
            rounds: slices
                .all()
                .map(|slice| TopicPartition::new(rounds.as_str(), slice.0))
                .collect(),
            txns: TopicPartition::new(cluster.txns(), 0),
            clock,
            part_bytes: PART_BYTES,
            max_record_bytes: MAX_ROUND_RECORD_BYTES,
        }
    }

    #[cfg(test)]
    pub(super) fn with_limits(mut self, part_bytes: usize, max_record_bytes: usize) -> Self {
        self.part_bytes = part_bytes;
        self.max_record_bytes = max_record_bytes;
        self
    }

    /// Splits a round by slice and by size.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if one mutation alone is above the limit of a record; [`Error::Invalid`] if
    /// the round is atomic and touches several slices.
    pub fn encode(&self, round: &Round) -> Result<EncodedRound, Error> {
        let Round { id, app, origin, digest, atomic, mutations, restrictions: _ } = round;
        let mut by_slice: BTreeMap<Slice, Vec<&DocumentMutation>> = BTreeMap::new();
        for mutation in mutations {
            let slice = self.slices.slice_of(mutation.id(*app).position());
            by_slice.entry(slice).or_default().push(mutation);
        }
        if *atomic && by_slice.len() > 1 {
            return Err(Error::Invalid("an atomic round touches several slices".to_owned()));
        }
        let mut parts: Vec<(Slice, &[&DocumentMutation])> =
            by_slice.iter().map(|(slice, mutations)| (*slice, mutations.as_slice())).collect();
        let mut encoded = encode_parts(round, &parts);
        // Almost always everything fits; only if not, parts are cut and encoded again.
        loop {
            let large = self.too_large(&parts, &encoded)?;
            if large.is_empty() {
                break;
            }
            for index in large.into_iter().rev() {
                let (slice, whole) = parts[index];
                let (first, second) = whole.split_at(whole.len() / 2);
                parts.splice(index..=index, [(slice, first), (slice, second)]);
            }
            encoded = encode_parts(round, &parts);
        }
        let parts = parts.iter().map(|(slice, _)| *slice).zip(encoded).collect();
        Ok(EncodedRound {
            id: *id,
            app: *app,
            origin: *origin,
            digest: digest.clone(),
            atomic: *atomic,
            documents: mutations.len(),
            parts,
        })
    }

    /// The parts that are to be cut in two.
    fn too_large(
        &self,
        parts: &[(Slice, &[&DocumentMutation])],
        encoded: &[Bytes],
    ) -> Result<Vec<usize>, Error> {
        let mut large = Vec::new();
        for (index, ((_, mutations), value)) in parts.iter().zip(encoded).enumerate() {
            let bytes = value.len() + KEY_BYTES;
            if mutations.len() > 1 && bytes > self.part_bytes.min(self.max_record_bytes) {
                large.push(index);
            } else if bytes > self.max_record_bytes {
                return Err(Error::TooLarge { bytes, limit: self.max_record_bytes });
            }
        }
        Ok(large)
    }

    /// Appends rounds to the open transaction of `writer`, and gives their transaction ids, which
    /// hold once it is committed. Everything appended before is flushed too.
    ///
    /// # Errors
    /// Those of [`RoundAppender::encode`] and of the writer; the transaction is to be aborted.
    pub fn append(&self, writer: &mut dyn Writer, rounds: &[Round]) -> Result<Vec<TxnId>, Error> {
        let encoded: Result<Vec<_>, _> = rounds.iter().map(|round| self.encode(round)).collect();
        self.append_encoded(writer, &encoded?.iter().collect::<Vec<_>>())
    }

    /// [`RoundAppender::append`] of rounds that are encoded already.
    ///
    /// # Errors
    /// Those of the writer; the transaction is to be aborted.
    pub fn append_encoded(
        &self,
        writer: &mut dyn Writer,
        rounds: &[&EncodedRound],
    ) -> Result<Vec<TxnId>, Error> {
        let mut before = 0;
        for round in rounds {
            before += round.parts.len();
            for (slice, value) in &round.parts {
                writer.append(NewRecord {
                    at: self.rounds[usize::from(slice.0)].clone(),
                    key: key(round.id),
                    value: Some(value.clone()),
                })?;
            }
        }
        let offsets = writer.flush()?;
        let mut offsets = last(&offsets, before)?.iter();
        for round in rounds {
            let commit = self.commit_record(round, &mut offsets);
            writer.append(NewRecord {
                at: self.txns.clone(),
                key: key(round.id),
                value: Some(encode(&commit)),
            })?;
        }
        let offsets = writer.flush()?;
        Ok(last(&offsets, rounds.len())?.iter().map(|offset| TxnId(offset.0)).collect())
    }

    /// Appends to the open transaction of `writer` that documents drop what they hide if they were
    /// deleted longer ago than that, and gives its transaction id, which holds once it is committed.
    ///
    /// # Errors
    /// Those of the writer; the transaction is to be aborted.
    pub fn append_expiry(
        &self,
        writer: &mut dyn Writer,
        time_to_live: Duration,
    ) -> Result<TxnId, Error> {
        let time_to_live_ms = u64::try_from(time_to_live.as_millis()).unwrap_or(u64::MAX);
        let expiry = Expiry { hlc: self.clock.now(), time_to_live_ms };
        let (at, value) = (self.txns.clone(), Some(encode(&expiry)));
        writer.append(NewRecord { at, key: Bytes::new(), value })?;
        let offsets = writer.flush()?;
        Ok(TxnId(last(&offsets, 1)?[0].0))
    }

    fn commit_record<'a>(
        &self,
        round: &EncodedRound,
        offsets: &mut impl Iterator<Item = &'a Offset>,
    ) -> Commit {
        let EncodedRound { id, app, origin, digest, atomic, documents, parts } = round;
        let parts = parts.iter().zip(offsets);
        Commit {
            round: *id,
            app: *app,
            origin: origin.map_or(self.actor, |(actor, _)| actor),
            origin_txn: origin.map(|(_, txn)| txn),
            hlc: self.clock.now(),
            digest: digest.clone(),
            atomic: *atomic,
            mutations: i32::try_from(*documents).expect("a round fits into memory"),
            parts: parts
                .map(|((slice, value), offset)| PartLocation {
                    slice: *slice,
                    offset: offset.0,
                    checksum: part_checksum(value),
                })
                .collect(),
        }
    }
}

fn key(id: RoundId) -> Bytes {
    Bytes::copy_from_slice(id.0.as_bytes())
}

/// The offsets of the last `count` records: the caller may have appended others before.
fn last(offsets: &[Offset], count: usize) -> Result<&[Offset], Error> {
    let first = offsets.len().checked_sub(count).ok_or_else(|| {
        Error::Corrupt(format!("a flush of {count} records gave {} offsets", offsets.len()))
    })?;
    Ok(&offsets[first..])
}

/// The values of a round's parts, which are numbered.
fn encode_parts(round: &Round, parts: &[(Slice, &[&DocumentMutation])]) -> Vec<Bytes> {
    let count = i32::try_from(parts.len()).expect("a round has few parts");
    let Round { id, app, restrictions, .. } = round;
    let numbered = (0..).zip(parts);
    numbered
        .map(|(index, (_, mutations))| {
            let concerns = |may: &&Restriction| {
                mutations.iter().any(|mutation| mutation.collection == may.collection)
            };
            let restrictions: Vec<_> = restrictions.iter().filter(concerns).collect();
            let (round, app, restrictions) = (*id, *app, restrictions.as_slice());
            RoundPartRef { round, app, index, count, mutations, restrictions }.encode()
        })
        .collect()
}
