//! RocksDB, without a write-ahead log: the journal is one.

use std::ops::Range;
use std::path::Path;

use rocksdb::{
    ColumnFamily, ColumnFamilyDescriptor, DB, DBRawIterator, FlushOptions, Options, ReadOptions,
    ReadTier, WriteBatch, WriteOptions,
};

use super::{FAMILIES, Family, Scope, is_in_haste};

/// Where a write batch says how many entries it has, in RocksDB's own format.
const COUNT: Range<usize> = 8..12;

/// An open RocksDB.
pub(in crate::storage) struct Disk {
    db: DB,
    write_options: WriteOptions,
}

impl Disk {
    pub(in crate::storage) fn open(
        options: &Options,
        path: &Path,
        tables: [(Family, Options); FAMILIES],
    ) -> Result<Self, rocksdb::Error> {
        let tables =
            tables.map(|(family, options)| ColumnFamilyDescriptor::new(family.name(), options));
        let db = DB::open_cf_descriptors(options, path, tables)?;
        let mut write_options = WriteOptions::default();
        write_options.disable_wal(true);
        Ok(Disk { db, write_options })
    }

    fn family(&self, family: Family) -> &ColumnFamily {
        self.db.cf_handle(family.name()).expect("every table was opened")
    }

    /// By number.
    pub(super) fn families(&self) -> [&ColumnFamily; FAMILIES] {
        Family::ALL.map(|family| self.family(family))
    }

    pub(super) fn get(
        &self,
        family: Family,
        key: &[u8],
    ) -> Result<Option<Vec<u8>>, rocksdb::Error> {
        self.db.get_cf_opt(self.family(family), key, &read_options())
    }

    pub(super) fn cursor(&self, family: Family, scope: Scope) -> DBRawIterator<'_> {
        let mut options = read_options();
        match scope {
            Scope::Prefix => options.set_prefix_same_as_start(true),
            Scope::Below(end) => {
                options.set_total_order_seek(true);
                if let Some(end) = end {
                    options.set_iterate_upper_bound(end);
                }
            }
            Scope::Within(range) => options.set_iterate_range(range),
        }
        self.db.raw_iterator_cf_opt(self.family(family), options)
    }

    pub(super) fn write(&self, batch: WriteBatch) -> Result<(), rocksdb::Error> {
        self.db.write_opt(batch, &self.write_options)
    }

    pub(super) fn flush(&self) -> Result<(), rocksdb::Error> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db.flush_cfs_opt(&self.families(), &options)
    }

    pub(super) fn compact_versions(&self) {
        self.db.compact_range_cf(self.family(Family::Versions), None::<&[u8]>, None::<&[u8]>);
    }

    pub(super) fn deleted_versions(&self) -> Result<u64, rocksdb::Error> {
        let files = self.db.live_files()?.into_iter();
        let files = files.filter(|file| file.column_family_name == Family::Versions.name());
        Ok(files.map(|file| file.num_deletions).sum())
    }

    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn compact(&self) {
        for family in self.families() {
            self.db.compact_range_cf(family, None::<&[u8]>, None::<&[u8]>);
        }
    }
}

fn read_options() -> ReadOptions {
    let mut options = ReadOptions::default();
    if is_in_haste() {
        options.set_read_tier(ReadTier::BlockCache);
    }
    options
}

/// The first entries of a batch, which take so many bytes.
pub(super) fn cut(batch: &WriteBatch, entries: usize, bytes: usize) -> WriteBatch {
    let mut data = batch.data()[..bytes].to_vec();
    let entries = u32::try_from(entries).expect("a batch counts its entries in 32 bits");
    data[COUNT].copy_from_slice(&entries.to_le_bytes());
    WriteBatch::from_data(&data)
}
