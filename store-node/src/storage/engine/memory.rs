//! Tables in memory, for simulations. What was flushed is on a disk that is there after a crash.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{FAMILIES, Family, Scope};
use crate::storage::collect::Collected;
use anabranch_runtime::planted;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;
type Tables = [Arc<Map>; FAMILIES];

/// What a node finds when it is started.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    tables: Tables,
    /// How often it was opened: who opened it before is dead, and writes nothing any more.
    opened: u64,
}

impl MemoryDisk {
    /// Empties it.
    pub fn wipe(&self) {
        let mut kept = self.0.lock();
        *kept = Kept { tables: Tables::default(), opened: kept.opened + 1 };
    }
}

/// Open tables.
pub(crate) struct Memory {
    disk: MemoryDisk,
    opened: u64,
    tables: Mutex<Tables>,
}

/// A cursor over a table as it was.
pub(in crate::storage) struct MemoryCursor {
    map: Arc<Map>,
    first: Vec<u8>,
    /// Where it ends, excluded.
    end: Option<Vec<u8>>,
    here: Option<Vec<u8>>,
}

/// What is to be written.
#[derive(Clone, Debug, Default)]
pub(in crate::storage) struct MemoryWrites(Vec<Write>);

#[derive(Clone, Debug)]
enum Write {
    Put(Family, Vec<u8>, Vec<u8>),
    Delete(Family, Vec<u8>),
    DeleteRange(Family, Vec<u8>, Vec<u8>),
}

impl Memory {
    pub(in crate::storage) fn open(disk: &MemoryDisk) -> Self {
        let mut kept = disk.0.lock();
        kept.opened += 1;
        let (opened, tables) = (kept.opened, Mutex::new(kept.tables.clone()));
        Memory { disk: disk.clone(), opened, tables }
    }

    pub(super) fn get(&self, family: Family, key: &[u8]) -> Option<Vec<u8>> {
        self.tables.lock()[family as usize].get(key).cloned()
    }

    pub(super) fn cursor(&self, family: Family, scope: Scope) -> MemoryCursor {
        let (first, end) = match scope {
            Scope::Prefix => (Vec::new(), None),
            Scope::Below(end) => (Vec::new(), end),
            Scope::Within(range) => (range.start, Some(range.end)),
        };
        let map = Arc::clone(&self.tables.lock()[family as usize]);
        MemoryCursor { map, first, end, here: None }
    }

    pub(super) fn write(&self, writes: MemoryWrites) {
        let mut tables = self.tables.lock();
        for write in writes.0 {
            let (Write::Put(family, ..)
            | Write::Delete(family, _)
            | Write::DeleteRange(family, ..)) = write;
            let map = Arc::make_mut(&mut tables[family as usize]);
            match write {
                Write::Put(_, key, value) => {
                    map.insert(key, value);
                }
                Write::Delete(_, key) => {
                    map.remove(&key);
                }
                Write::DeleteRange(_, from, to) => map.retain(|key, _| *key < from || *key >= to),
            }
        }
    }

    pub(super) fn flush(&self) {
        self.change_disk(|kept| match planted!(FlushesHalf) {
            true => kept[0].clone_from(&self.tables.lock()[0]),
            false => kept.clone_from(&self.tables.lock()),
        });
    }

    /// Changes what is on the disk, unless it was opened again meanwhile.
    fn change_disk(&self, change: impl FnOnce(&mut Tables)) {
        let mut kept = self.disk.0.lock();
        if kept.opened == self.opened {
            change(&mut kept.tables);
        }
    }

    /// Drops what compactions drop, here and on the disk: they need no flush.
    pub(super) fn compact(&self, collected: &Collected) {
        let compact = |tables: &mut Tables| {
            let mut versions = collected.version_filter();
            Arc::make_mut(&mut tables[Family::Versions as usize])
                .retain(|key, _| versions.keeps(key));
            let rounds = collected.round_filter();
            Arc::make_mut(&mut tables[Family::Rounds as usize])
                .retain(|_, value| rounds.keeps(value));
            let indexes = collected.index_filter();
            Arc::make_mut(&mut tables[Family::Indexes as usize])
                .retain(|_, value| indexes.keeps(value));
        };
        compact(&mut self.tables.lock());
        self.change_disk(compact);
    }
}

impl MemoryCursor {
    pub(super) fn seek(&mut self, key: &[u8]) {
        let from = key.max(self.first.as_slice());
        self.go(Bound::Included(from.to_vec()));
    }

    pub(super) fn next(&mut self) {
        if let Some(here) = self.here.take() {
            self.go(Bound::Excluded(here));
        }
    }

    fn go(&mut self, from: Bound<Vec<u8>>) {
        let next = self.map.range((from, Bound::Unbounded)).next().map(|(key, _)| key);
        let is_in = |key: &&Vec<u8>| self.end.as_ref().is_none_or(|end| *key < end);
        self.here = next.filter(is_in).cloned();
    }

    pub(super) fn item(&self) -> Option<(&[u8], &[u8])> {
        let (key, value) = self.map.get_key_value(self.here.as_ref()?)?;
        Some((key, value))
    }
}

impl MemoryWrites {
    pub(super) fn put(&mut self, family: Family, key: &[u8], value: &[u8]) {
        self.0.push(Write::Put(family, key.to_vec(), value.to_vec()));
    }

    pub(super) fn delete(&mut self, family: Family, key: &[u8]) {
        self.0.push(Write::Delete(family, key.to_vec()));
    }

    pub(super) fn delete_range(&mut self, family: Family, from: &[u8], to: &[u8]) {
        self.0.push(Write::DeleteRange(family, from.to_vec(), to.to_vec()));
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn truncate(&mut self, entries: usize) {
        self.0.truncate(entries);
    }

    pub(super) fn bytes(&self) -> usize {
        let bytes = |write: &Write| match write {
            Write::Put(_, key, value) => key.len() + value.len(),
            Write::Delete(_, key) => key.len(),
            Write::DeleteRange(_, from, to) => from.len() + to.len(),
        };
        self.0.iter().map(bytes).sum()
    }
}
