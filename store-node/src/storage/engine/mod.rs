//! What the store stands on: tables of keys in order, written in batches that are there whole or not
//! at all, and after a crash as they were at the last flush or later.
//!
//! It is RocksDB; in simulations, which are to be fast and the same each time, maps in memory.

mod disk;
mod haste;
#[cfg(any(test, feature = "simulation"))]
mod memory;

use std::ops::Range;

use rocksdb::{ColumnFamily, DBRawIterator, WriteBatch};

#[cfg(any(test, feature = "simulation"))]
use super::collect::Collected;

pub(super) use self::disk::Disk;
pub(crate) use self::haste::in_haste;
pub(super) use self::haste::{check_haste, is_in_haste};
#[cfg(any(test, feature = "simulation"))]
pub(crate) use self::memory::Memory;
#[cfg(any(test, feature = "simulation"))]
pub use self::memory::MemoryDisk;
#[cfg(any(test, feature = "simulation"))]
use self::memory::{MemoryCursor, MemoryWrites};

/// A table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// What there is once.
    Default,
    Versions,
    Changes,
    Rounds,
    Indexes,
}

/// How many tables there are.
const FAMILIES: usize = Family::ALL.len();

impl Family {
    pub(super) const ALL: [Family; 5] =
        [Family::Default, Family::Versions, Family::Changes, Family::Rounds, Family::Indexes];

    pub(super) fn name(self) -> &'static str {
        match self {
            Family::Default => "default",
            Family::Versions => "versions",
            Family::Changes => "changes",
            Family::Rounds => "rounds",
            Family::Indexes => "indexes",
        }
    }
}

/// Which keys a cursor is to see.
#[derive(Clone, Debug)]
pub(super) enum Scope {
    /// Those that have in common with what is sought what all versions of a document have.
    Prefix,
    /// All, up to a key that it does not see.
    Below(Option<Vec<u8>>),
    /// Those of a range.
    Within(Range<Vec<u8>>),
}

/// What the store stands on.
pub(super) enum Engine {
    Disk(Box<Disk>),
    #[cfg(any(test, feature = "simulation"))]
    Memory(Memory),
}

/// A place in a table, which moves. It sees the table as it was when it was made.
pub(super) enum Cursor<'a> {
    Disk(DBRawIterator<'a>),
    #[cfg(any(test, feature = "simulation"))]
    Memory(MemoryCursor),
}

/// What is to be written at once.
pub(super) enum Writes<'a> {
    Disk([&'a ColumnFamily; FAMILIES], WriteBatch),
    #[cfg(any(test, feature = "simulation"))]
    Memory(MemoryWrites),
}

/// A point of what is to be written to which it can go back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    entries: usize,
    bytes: usize,
}

impl Engine {
    /// A value.
    pub(super) fn get(
        &self,
        family: Family,
        key: &[u8],
    ) -> Result<Option<Vec<u8>>, rocksdb::Error> {
        match self {
            Engine::Disk(disk) => disk.get(family, key),
            #[cfg(any(test, feature = "simulation"))]
            Engine::Memory(memory) => Ok(memory.get(family, key)),
        }
    }

    /// A cursor that is nowhere yet.
    pub(super) fn cursor(&self, family: Family, scope: Scope) -> Cursor<'_> {
        match self {
            Engine::Disk(disk) => Cursor::Disk(disk.cursor(family, scope)),
            #[cfg(any(test, feature = "simulation"))]
            Engine::Memory(memory) => Cursor::Memory(memory.cursor(family, scope)),
        }
    }

    /// Nothing to be written yet; it is likely to become so large.
    pub(super) fn writes(&self, capacity_bytes: usize) -> Writes<'_> {
        match self {
            Engine::Disk(disk) => {
                Writes::Disk(disk.families(), WriteBatch::with_capacity_bytes(capacity_bytes))
            }
            #[cfg(any(test, feature = "simulation"))]
            Engine::Memory(_) => Writes::Memory(MemoryWrites::default()),
        }
    }

    /// Writes it all.
    pub(super) fn write(&self, writes: Writes<'_>) -> Result<(), rocksdb::Error> {
        match (self, writes) {
            (Engine::Disk(disk), Writes::Disk(_, batch)) => disk.write(batch),
            #[cfg(any(test, feature = "simulation"))]
            (Engine::Memory(memory), Writes::Memory(writes)) => {
                memory.write(writes);
                Ok(())
            }
            #[cfg(any(test, feature = "simulation"))]
            _ => unreachable!("what is written was made by the same engine"),
        }
    }

    /// Makes all that was written durable, of all tables the same.
    pub(super) fn flush(&self) -> Result<(), rocksdb::Error> {
        match self {
            Engine::Disk(disk) => disk.flush(),
            #[cfg(any(test, feature = "simulation"))]
            Engine::Memory(memory) => {
                memory.flush();
                Ok(())
            }
        }
    }

    /// Compacts table `versions`: of what is deleted in it nothing is left.
    pub(super) fn compact_versions(&self) {
        match self {
            Engine::Disk(disk) => disk.compact_versions(),
            // It keeps nothing that is deleted.
            #[cfg(any(test, feature = "simulation"))]
            Engine::Memory(_) => {}
        }
    }

    /// How many deletions stand in the files of table `versions`.
    pub(super) fn deleted_versions(&self) -> Result<u64, rocksdb::Error> {
        match self {
            Engine::Disk(disk) => disk.deleted_versions(),
            #[cfg(any(test, feature = "simulation"))]
            Engine::Memory(_) => Ok(0),
        }
    }

    /// Compacts everything: of what the filters drop nothing is left.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn compact(&self, collected: &Collected) {
        match self {
            Engine::Disk(disk) => disk.compact(),
            Engine::Memory(memory) => memory.compact(collected),
        }
    }
}

impl Cursor<'_> {
    /// Goes to the first key at or past this one.
    pub(super) fn seek(&mut self, key: impl AsRef<[u8]>) {
        match self {
            Cursor::Disk(cursor) => cursor.seek(key),
            #[cfg(any(test, feature = "simulation"))]
            Cursor::Memory(cursor) => cursor.seek(key.as_ref()),
        }
    }

    /// Goes to the first key.
    pub(super) fn seek_to_first(&mut self) {
        match self {
            Cursor::Disk(cursor) => cursor.seek_to_first(),
            #[cfg(any(test, feature = "simulation"))]
            Cursor::Memory(cursor) => cursor.seek(&[]),
        }
    }

    /// Goes to the next key.
    pub(super) fn next(&mut self) {
        match self {
            Cursor::Disk(cursor) => cursor.next(),
            #[cfg(any(test, feature = "simulation"))]
            Cursor::Memory(cursor) => cursor.next(),
        }
    }

    /// Key and value here; `None` past the last one, or after a failure.
    pub(super) fn item(&self) -> Option<(&[u8], &[u8])> {
        match self {
            Cursor::Disk(cursor) => cursor.item(),
            #[cfg(any(test, feature = "simulation"))]
            Cursor::Memory(cursor) => cursor.item(),
        }
    }

    /// Whether it has failed.
    pub(super) fn status(&self) -> Result<(), rocksdb::Error> {
        match self {
            Cursor::Disk(cursor) => cursor.status(),
            #[cfg(any(test, feature = "simulation"))]
            Cursor::Memory(_) => Ok(()),
        }
    }
}

impl Writes<'_> {
    pub(super) fn put(&mut self, family: Family, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        match self {
            Writes::Disk(families, batch) => batch.put_cf(families[family as usize], key, value),
            #[cfg(any(test, feature = "simulation"))]
            Writes::Memory(writes) => writes.put(family, key.as_ref(), value.as_ref()),
        }
    }

    pub(super) fn delete(&mut self, family: Family, key: impl AsRef<[u8]>) {
        match self {
            Writes::Disk(families, batch) => batch.delete_cf(families[family as usize], key),
            #[cfg(any(test, feature = "simulation"))]
            Writes::Memory(writes) => writes.delete(family, key.as_ref()),
        }
    }

    /// Deletes all keys from one on and below another one.
    pub(super) fn delete_range(&mut self, family: Family, from: &[u8], to: &[u8]) {
        match self {
            Writes::Disk(families, batch) => {
                batch.delete_range_cf(families[family as usize], from, to);
            }
            #[cfg(any(test, feature = "simulation"))]
            Writes::Memory(writes) => writes.delete_range(family, from, to),
        }
    }

    /// About how large it is.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Writes::Disk(_, batch) => batch.size_in_bytes(),
            #[cfg(any(test, feature = "simulation"))]
            Writes::Memory(writes) => writes.bytes(),
        }
    }

    /// Where it is now.
    pub(super) fn mark(&self) -> Mark {
        let entries = match self {
            Writes::Disk(_, batch) => batch.len(),
            #[cfg(any(test, feature = "simulation"))]
            Writes::Memory(writes) => writes.len(),
        };
        Mark { entries, bytes: self.bytes() }
    }

    /// Drops what came after a mark.
    pub(super) fn go_back(&mut self, mark: Mark) {
        match self {
            Writes::Disk(_, batch) => *batch = disk::cut(batch, mark.entries, mark.bytes),
            #[cfg(any(test, feature = "simulation"))]
            Writes::Memory(writes) => writes.truncate(mark.entries),
        }
    }

    /// The same once more.
    pub(super) fn copy(&self) -> Self {
        match self {
            Writes::Disk(families, batch) => {
                Writes::Disk(*families, WriteBatch::from_data(batch.data()))
            }
            #[cfg(any(test, feature = "simulation"))]
            Writes::Memory(writes) => Writes::Memory(writes.clone()),
        }
    }
}
