//! A backfill that has begun: what is still to be fetched, kept with what was (ST-1).
//!
//! While it stands in the store the documents are those of the node's progress with some newer ones
//! among them: no snapshot past the progress may be read, and nothing may be applied.

use anabranch_core::ids::TxnId;
use anabranch_runtime::planted;
use bytes::{Buf, BufMut, TryGetError};

use super::batch::Batch;
use super::engine::Family;
use super::handover::{Entry, Table};
use super::progress::{Progress, decode_progress, encode_progress};
use super::{Storage, keys};
use crate::error::Error;

/// The newest version. The first one did not say that nothing is left.
const VERSION: u8 = 2;
const FIRST_VERSION: u8 = 1;

/// A backfill that has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unfinished {
    /// The first transaction that this node lacks.
    pub(crate) since: TxnId,
    /// What the node's progress becomes: that of the replica that handed over, when it began.
    pub(crate) to: Progress,
    /// What is being fetched. Rounds come first.
    pub(crate) table: Table,
    /// The last key that is here; empty before the first.
    pub(crate) after: Vec<u8>,
    /// How many entries came so far.
    pub(crate) entries: u64,
    /// Nothing is left to be fetched.
    pub(crate) is_complete: bool,
}

impl Unfinished {
    /// One of which nothing was fetched yet.
    pub(crate) fn new(since: TxnId, to: Progress) -> Self {
        let (table, after, entries) = (Table::Rounds, Vec::new(), 0);
        Unfinished { since, to, table, after, entries, is_complete: false }
    }
}

impl Storage {
    /// The backfill that has begun, if there is one.
    pub(crate) fn unfinished(&self) -> Result<Option<Unfinished>, Error> {
        let stored = self.read_once(keys::UNFINISHED)?;
        stored.map(|stored| decode(&stored)).transpose()
    }

    /// Whether versions were taken back that may still stand on disk, below their deletion.
    pub(crate) fn has_taken_back(&self) -> Result<bool, Error> {
        Ok(self.read_once(keys::TAKEN_BACK)?.is_some())
    }
}

impl Batch<'_> {
    /// How far a backfill is.
    pub(crate) fn put_unfinished(&mut self, unfinished: &Unfinished) {
        self.writes.put(Family::Default, keys::UNFINISHED, encode(unfinished));
    }

    /// The backfill is finished.
    pub(crate) fn end_unfinished(&mut self) {
        self.writes.delete(Family::Default, keys::UNFINISHED);
    }

    /// Takes back what another replica handed over.
    pub(crate) fn remove_entry(
        &mut self,
        table: Table,
        key: &[u8],
        txn: TxnId,
    ) -> Result<(), Error> {
        match table {
            Table::Rounds => {
                match self.storage.earlier_outcome(key)? {
                    Some((_, own)) => self.writes.put(Family::Rounds, key, own),
                    None => self.writes.delete(Family::Rounds, key),
                }
                self.writes.delete(Family::Rounds, keys::earlier_round_key(key));
            }
            Table::Versions => {
                self.writes.delete(Family::Versions, keys::version_key(key, txn));
                self.writes.put(Family::Default, keys::TAKEN_BACK, []);
            }
        }
        Ok(())
    }

    /// Nothing is left on disk of versions that were taken back.
    pub(crate) fn end_taking_back(&mut self) {
        self.writes.delete(Family::Default, keys::TAKEN_BACK);
    }

    /// What another replica handed over. The node may have an outcome of its own of a round that
    /// was repeated: it is wanted again if the other one is taken back, or by who copies as of then.
    pub(crate) fn put_entry(&mut self, table: Table, entry: &Entry) -> Result<(), Error> {
        match table {
            Table::Rounds => {
                let own = self.storage.stored_outcome(&entry.key)?;
                if let Some((_, own)) = own.filter(|(txn, _)| *txn < entry.txn) {
                    self.writes.put(Family::Rounds, keys::earlier_round_key(&entry.key), own);
                }
                self.writes.put(Family::Rounds, &entry.key, &entry.value);
            }
            Table::Versions => {
                self.put_version(&entry.key, entry.txn, &entry.value);
                if !planted!(BackfillsWithoutTombstones) {
                    self.list_version(&entry.key, &entry.value)?;
                }
            }
        }
        Ok(())
    }
}

fn encode(unfinished: &Unfinished) -> Vec<u8> {
    let Unfinished { since, to, table, after, entries, is_complete } = unfinished;
    let mut value = vec![VERSION];
    value.put_u64(since.0);
    value.put_u64(*entries);
    value.put_u8(match table {
        Table::Rounds => 0,
        Table::Versions => 1,
    });
    value.put_u8((*is_complete).into());
    value.put_u32(u32::try_from(after.len()).expect("a key is no longer than a document's id"));
    value.put_slice(after);
    value.put_slice(&encode_progress(to));
    value
}

fn decode(value: &[u8]) -> Result<Unfinished, Error> {
    let broken = || Error::CorruptStore("an unfinished backfill does not decode".to_owned());
    let read = || -> Result<Option<(Unfinished, &[u8])>, TryGetError> {
        let mut value = value;
        let version = value.try_get_u8()?;
        if !(FIRST_VERSION..=VERSION).contains(&version) {
            return Ok(None);
        }
        let since = TxnId(value.try_get_u64()?);
        let entries = value.try_get_u64()?;
        let table = match value.try_get_u8()? {
            0 => Table::Rounds,
            1 => Table::Versions,
            _ => return Ok(None),
        };
        let is_complete = match if version == FIRST_VERSION { 0 } else { value.try_get_u8()? } {
            0 => false,
            1 => true,
            _ => return Ok(None),
        };
        let length = usize::try_from(value.try_get_u32()?).expect("32 bits fit an address");
        let Some((after, rest)) = value.split_at_checked(length) else { return Ok(None) };
        let after = after.to_vec();
        let to = Progress::start(0);
        Ok(Some((Unfinished { since, to, table, after, entries, is_complete }, rest)))
    };
    let (unfinished, rest) = read().ok().flatten().ok_or_else(broken)?;
    let to = decode_progress(rest).map_err(|_| broken())?;
    Ok(Unfinished { to, ..unfinished })
}

#[cfg(test)]
mod tests {
    use anabranch_core::hlc::Hlc;
    use anabranch_journal::Offset;

    use super::*;

    fn unfinished() -> Unfinished {
        let mut to = Progress::start(2);
        to.next = TxnId(9);
        to.last = Some(TxnId(7));
        to.time = Hlc(3);
        to.slices[1].end = Offset(4);
        let (since, table, after) = (TxnId(2), Table::Versions, vec![1, 0, 2]);
        Unfinished { since, to, table, after, entries: 5, is_complete: true }
    }

    #[test]
    fn it_reads_back_and_broken_bytes_are_noticed() {
        let value = encode(&unfinished());
        assert_eq!(decode(&value).unwrap(), unfinished());
        for cut in 0..value.len() {
            assert!(decode(&value[..cut]).is_err(), "cut at {cut}");
        }
        let mut newer = value;
        newer[0] = VERSION + 1;
        assert!(decode(&newer).is_err());
    }

    /// Bytes written down: a change of the layout must change its version.
    #[test]
    fn the_layout_is_frozen() {
        let number = |number| [0, 0, 0, 0, 0, 0, 0, number];
        let to = encode_progress(&unfinished().to);
        let head = [&[2][..], &number(2), &number(5), &[1, 1, 0, 0, 0, 3, 1, 0, 2]].concat();
        assert_eq!(encode(&unfinished()), [head, to.clone()].concat());
        let old = [&[1][..], &number(2), &number(5), &[1, 0, 0, 0, 3, 1, 0, 2], &to].concat();
        assert_eq!(decode(&old).unwrap(), Unfinished { is_complete: false, ..unfinished() });
    }
}
