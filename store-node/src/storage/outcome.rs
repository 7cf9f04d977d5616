//! What became of rounds, as it is stored: who repeats a round is told what the first one did.

use anabranch_core::hlc::Hlc;
use anabranch_core::ids::TxnId;
use bytes::{Buf, BufMut, Bytes, TryGetError};

use super::values::{broken, count, get_bytes, put_bytes};
use crate::error::Error;

/// The version of the layout. The first one did not name documents that were too large; the second
/// one did not tell conflicts from what was kept, nor who had written it.
const VERSION: u8 = 3;

/// What became of a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The transaction that was applied.
    pub(crate) txn: TxnId,
    /// The log's time when it was applied.
    pub(crate) time: Hlc,
    /// Of the request.
    pub(crate) digest: Bytes,
    /// It was to be applied as a whole or not at all.
    pub(crate) is_atomic: bool,
    /// Documents of which a condition did not hold.
    pub(crate) conflicts: Vec<Conflict>,
    /// Canonical ids of documents that an insert found there which was to do nothing then.
    pub(crate) kept: Vec<Bytes>,
    /// Canonical ids of documents that stayed as they were: they would have become too large.
    pub(crate) too_large: Vec<Bytes>,
}

/// A document of which a condition did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Conflict {
    /// Its canonical id.
    pub(crate) id: Bytes,
    /// Who had changed it last; `None` if nobody ever had here, or if that was not noted.
    pub(crate) winner: Option<TxnId>,
    pub(crate) reason: Reason,
}

/// Why a condition does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The document was there, and was to be inserted.
    Exists = 1,
    /// It was to be unchanged, and was changed.
    Changed = 2,
    /// It was to be unchanged, and was not there.
    Missing = 3,
    /// It was to be unchanged since a transaction that is not before the round.
    NotYet = 4,
    /// Whoever asked may not write the document as it was, or as it would have become.
    Forbidden = 5,
}

impl Reason {
    fn of(number: u8) -> Option<Self> {
        use Reason::{Changed, Exists, Forbidden, Missing, NotYet};
        [Exists, Changed, Missing, NotYet, Forbidden]
            .into_iter()
            .find(|reason| *reason as u8 == number)
    }
}

/// Only time and transaction are at fixed places, for whoever needs no more.
pub(super) fn encode_outcome(outcome: &Outcome) -> Vec<u8> {
    let Outcome { txn, time, digest, is_atomic, conflicts, kept, too_large } = outcome;
    let mut value = vec![VERSION];
    value.put_u64(time.0);
    value.put_u64(txn.0);
    put_bytes(&mut value, digest);
    value.put_u8((*is_atomic).into());
    value.put_u32(count(conflicts.len()));
    for Conflict { id, winner, reason } in conflicts {
        put_bytes(&mut value, id);
        value.put_u8(*reason as u8);
        value.put_u8(winner.is_some().into());
        value.put_u64(winner.unwrap_or_default().0);
    }
    for ids in [kept, too_large] {
        value.put_u32(count(ids.len()));
        ids.iter().for_each(|id| put_bytes(&mut value, id));
    }
    value
}

pub(super) fn decode_outcome(value: &[u8]) -> Result<Outcome, Error> {
    let read = || -> Result<Option<Outcome>, TryGetError> {
        let mut value = Bytes::copy_from_slice(value);
        let version = value.try_get_u8()?;
        if !is_outcome(version) {
            return Ok(None);
        }
        let time = Hlc(value.try_get_u64()?);
        let txn = TxnId(value.try_get_u64()?);
        let Some(digest) = get_bytes(&mut value)? else { return Ok(None) };
        let is_atomic = version >= 3 && value.try_get_u8()? == 1;
        let conflicts = match version {
            1 | 2 => get_ids(&mut value)?.map(unnoted),
            _ => get_conflicts(&mut value)?,
        };
        let none = Some(Vec::new());
        let kept = if version >= 3 { get_ids(&mut value)? } else { none.clone() };
        let too_large = if version >= 2 { get_ids(&mut value)? } else { none };
        let (Some(conflicts), Some(kept), Some(too_large)) = (conflicts, kept, too_large) else {
            return Ok(None);
        };
        let outcome = Outcome { txn, time, digest, is_atomic, conflicts, kept, too_large };
        Ok(value.is_empty().then_some(outcome))
    };
    read().ok().flatten().ok_or_else(|| broken("the outcome of a round"))
}

/// Conflicts of which was not noted who had written the document.
fn unnoted(ids: Vec<Bytes>) -> Vec<Conflict> {
    let conflict = |id| Conflict { id, winner: None, reason: Reason::Exists };
    ids.into_iter().map(conflict).collect()
}

fn get_conflicts(value: &mut Bytes) -> Result<Option<Vec<Conflict>>, TryGetError> {
    let count = value.try_get_u32()?;
    let mut conflict = || {
        let Some(id) = get_bytes(value)? else { return Ok(None) };
        let Some(reason) = Reason::of(value.try_get_u8()?) else { return Ok(None) };
        let (is_noted, winner) = (value.try_get_u8()? == 1, TxnId(value.try_get_u64()?));
        Ok(Some(Conflict { id, winner: is_noted.then_some(winner), reason }))
    };
    (0..count).map(|_| conflict()).collect()
}

fn is_outcome(version: u8) -> bool {
    (1..=VERSION).contains(&version)
}

/// The time of an outcome, `None` if the value does not decode.
pub(super) fn outcome_time(value: &[u8]) -> Option<Hlc> {
    let (version, mut rest) = value.split_first()?;
    is_outcome(*version).then(|| rest.try_get_u64().ok().map(Hlc))?
}

/// The transaction of an outcome, `None` if the value does not decode.
pub(super) fn outcome_txn(value: &[u8]) -> Option<TxnId> {
    let (version, rest) = value.split_first()?;
    let mut txn = rest.get(8..).filter(|_| is_outcome(*version))?;
    txn.try_get_u64().ok().map(TxnId)
}

fn get_ids(value: &mut Bytes) -> Result<Option<Vec<Bytes>>, TryGetError> {
    (0..value.try_get_u32()?).map(|_| get_bytes(value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_read_back() {
        let outcome = Outcome {
            txn: TxnId(4),
            time: Hlc(5),
            digest: Bytes::from_static(b"digest"),
            is_atomic: true,
            conflicts: vec![
                Conflict {
                    id: Bytes::from_static(b"a"),
                    winner: Some(TxnId(3)),
                    reason: Reason::NotYet,
                },
                Conflict { id: Bytes::new(), winner: None, reason: Reason::Missing },
            ],
            kept: vec![Bytes::from_static(b"c"), Bytes::from_static(b"d")],
            too_large: vec![Bytes::from_static(b"b")],
        };
        let value = encode_outcome(&outcome);
        assert_eq!(outcome_time(&value), Some(Hlc(5)));
        assert_eq!(outcome_txn(&value), Some(TxnId(4)));
        assert_eq!(decode_outcome(&value).unwrap(), outcome);
        for cut in 0..value.len() {
            assert!(decode_outcome(&value[..cut]).is_err(), "cut at {cut}");
        }
    }

    /// Bytes of each version, written down: a change of the layout must change its version.
    #[test]
    fn the_layout_is_frozen() {
        let id = Bytes::from_static(b"i");
        let mut outcome = Outcome {
            txn: TxnId(2),
            time: Hlc(1),
            digest: Bytes::new(),
            is_atomic: false,
            conflicts: vec![Conflict { id: id.clone(), winner: None, reason: Reason::Exists }],
            kept: vec![],
            too_large: vec![],
        };
        let old = b"\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x01\0\0\0\x01i";
        assert_eq!(decode_outcome(old).unwrap(), outcome);
        assert_eq!((outcome_time(old), outcome_txn(old)), (Some(Hlc(1)), Some(TxnId(2))));
        let newer = [b"\x02", &old[1..], b"\0\0\0\x01\0\0\0\x01i"].concat();
        outcome.too_large.push(id.clone());
        assert_eq!(decode_outcome(&newer).unwrap(), outcome);
        outcome.conflicts[0].winner = Some(TxnId(1));
        (outcome.is_atomic, outcome.kept) = (true, vec![id]);
        let newest = [
            &b"\x03\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\x01"[..],
            b"\0\0\0\x01\0\0\0\x01i\x01\x01\0\0\0\0\0\0\0\x01",
            b"\0\0\0\x01\0\0\0\x01i\0\0\0\x01\0\0\0\x01i",
        ];
        assert_eq!(encode_outcome(&outcome), newest.concat());
    }
}
