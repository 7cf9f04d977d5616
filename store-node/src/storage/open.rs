//! How the store is opened and made, and what is refused.
//!
//! A directory belongs to one log: to an actor, with its number of slices. It becomes a store with
//! the batch that writes its format; what a crash leaves before that is empty and is used again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use anabranch_core::ids::ActorId;
use anabranch_core::keyspace::SliceCount;
use parking_lot::{Mutex, RwLock};
use rocksdb::{BlockBasedOptions, Cache, DB, DBCompressionType, LogLevel, Options, SliceTransform};
use serde::{Deserialize, Serialize};

use super::collect::{Collected, Filters, History};
use super::engine::{Disk, Engine, Family, Scope};
#[cfg(any(test, feature = "simulation"))]
use super::engine::{Memory, MemoryDisk};
use super::progress::{Progress, encode_progress};
use super::timeline::{Sample, Timeline};
use super::unfinished::Unfinished;
use super::values::decode_txn;
use super::{Storage, Written, keys};
use crate::config::StoreNodeConfig;
use crate::error::Error;
use crate::log::Log;

/// The version of the whole layout. The first one had no list of tombstones, the second no indexes.
const FORMAT_VERSION: u32 = 3;
const WITHOUT_TOMBSTONES: u32 = 1;
const WITHOUT_INDEXES: u32 = 2;

/// What a store needs to know of its settings.
#[derive(Clone, Debug)]
pub(crate) struct StoreOptions {
    pub(crate) path: PathBuf,
    pub(crate) write_buffer_bytes: usize,
    pub(crate) block_cache_bytes: usize,
    pub(crate) round_retention_ms: u64,
}

impl StoreOptions {
    /// From the settings of a node.
    pub(crate) fn new(config: &StoreNodeConfig) -> Self {
        StoreOptions {
            path: config.data_dir.clone(),
            write_buffer_bytes: config.write_buffer_bytes,
            block_cache_bytes: config.block_cache_bytes,
            round_retention_ms: config.round_retention_ms,
        }
    }
}

/// How far a store has come: what goes on from there has it in memory.
pub(crate) struct Head {
    pub(crate) progress: Progress,
    pub(crate) timeline: Timeline,
}

/// A store, and how far it has come.
pub(crate) struct Opened {
    pub(crate) storage: Storage,
    pub(crate) head: Head,
    /// A backfill that was interrupted.
    pub(crate) unfinished: Option<Unfinished>,
    /// How many ranges of transactions are lost.
    pub(crate) lost_ranges: u64,
}

/// Whose data it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    actor: ActorId,
    slices: SliceCount,
}

impl Storage {
    /// Opens the store of what is owned of a log, or makes it.
    pub(crate) fn open(options: &StoreOptions, log: &Log) -> Result<Opened, Error> {
        let collected = Arc::new(Collected::default());
        let engine = open_disk(options, &collected)?;
        Storage::load_or_create(engine, collected, options, log)
    }

    /// Opens the store on a disk in memory, or makes it.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn open_in_memory(
        disk: &MemoryDisk,
        options: &StoreOptions,
        log: &Log,
    ) -> Result<Opened, Error> {
        let engine = Engine::Memory(Memory::open(disk));
        Storage::load_or_create(engine, Arc::default(), options, log)
    }

    fn load_or_create(
        engine: Engine,
        collected: Arc<Collected>,
        options: &StoreOptions,
        log: &Log,
    ) -> Result<Opened, Error> {
        let mut storage = Storage {
            engine,
            path: options.path.clone(),
            history: Arc::default(),
            collected,
            written: Mutex::default(),
            durable: Mutex::default(),
            feed_start: AtomicU64::new(0),
            indexes: RwLock::default(),
            round_retention_ms: options.round_retention_ms,
        };
        let identity = Identity { actor: log.actor(), slices: log.slices() };
        let progress = match storage.read_once(keys::FORMAT)? {
            None => storage.create(&identity)?,
            Some(format) => storage.load(&format, &identity)?,
        };
        let unfinished = storage.unfinished()?;
        // An empty store may be of any part, unless a copy has begun in it.
        let copied = unfinished.as_ref().map(|unfinished| &unfinished.to);
        if !progress.is_of(log.owned()) || copied.is_some_and(|to| !to.is_of(log.owned())) {
            return Err(storage.holds_another_part());
        }
        storage.history = Arc::new(History::new(progress.oldest_readable));
        let written = Written::of(&progress);
        *storage.durable.get_mut() = written.positions.clone();
        *storage.written.get_mut() = written;
        *storage.feed_start.get_mut() = progress.feed_start.0;
        let timeline = storage.read_timeline()?;
        let lost_ranges = storage.count_lost_ranges()?;
        storage.set_indexes(storage.load_indexes()?);
        let head = Head { progress, timeline };
        Ok(Opened { storage, head, unfinished, lost_ranges })
    }

    fn create(&self, identity: &Identity) -> Result<Progress, Error> {
        let progress = Progress::start(identity.slices.get());
        let mut encoded = vec![1];
        serde_json::to_writer(&mut encoded, identity).expect("an identity always encodes");
        let mut writes = self.engine.writes(1024);
        writes.put(Family::Default, keys::IDENTITY, encoded);
        writes.put(Family::Default, keys::PROGRESS, encode_progress(&progress));
        writes.put(Family::Default, keys::FORMAT, FORMAT_VERSION.to_be_bytes());
        self.engine.write(writes).map_err(|error| self.failed("write", error))?;
        self.flush()?;
        Ok(progress)
    }

    fn load(&self, format: &[u8], identity: &Identity) -> Result<Progress, Error> {
        let path = self.path.display();
        let format = <[u8; 4]>::try_from(format).map(u32::from_be_bytes).ok();
        match format {
            Some(WITHOUT_TOMBSTONES | WITHOUT_INDEXES | FORMAT_VERSION) => {}
            Some(version) => {
                return Err(Error::DataDir(format!(
                    "the store in '{path}' has format {version}; this program knows format \
                     {FORMAT_VERSION}: use the version of anabranch that wrote it, or a newer one"
                )));
            }
            None => return Err(Error::CorruptStore("its format does not decode".to_owned())),
        }
        let stored = self.read_once(keys::IDENTITY)?;
        let stored: Identity = stored
            .as_deref()
            .and_then(|stored| stored.strip_prefix(&[1]))
            .and_then(|json| serde_json::from_slice(json).ok())
            .ok_or_else(|| Error::CorruptStore("its identity does not decode".to_owned()))?;
        if stored != *identity {
            return Err(Error::DataDir(format!(
                "the store in '{path}' belongs to log {} of {} slices, but this cluster's log is \
                 {} of {} slices: the log was made anew or the directory is another cluster's; \
                 start with an empty data directory",
                stored.actor,
                stored.slices.get(),
                identity.actor,
                identity.slices.get()
            )));
        }
        let progress = self.progress()?;
        if progress.slices.len() != usize::from(identity.slices.get()) {
            return Err(Error::CorruptStore("its positions make no sense".to_owned()));
        }
        if format == Some(WITHOUT_TOMBSTONES) {
            self.list_tombstones(&progress)?;
        }
        if format != Some(FORMAT_VERSION) {
            let mut writes = self.engine.writes(64);
            writes.put(Family::Default, keys::FORMAT, FORMAT_VERSION.to_be_bytes());
            self.engine.write(writes).map_err(|error| self.failed("write", error))?;
            self.flush()?;
        }
        Ok(progress)
    }

    fn holds_another_part(&self) -> Error {
        Error::DataDir(format!(
            "the store in '{}' holds another part of the keyspace than the cluster's configuration \
             gives this node: start the node that it belongs to, or start with an empty data \
             directory",
            self.path.display()
        ))
    }

    /// How many ranges of transactions are lost.
    fn count_lost_ranges(&self) -> Result<u64, Error> {
        self.count_once(keys::lost_ranges())
    }

    /// How many keys lie in a range of what there is once.
    pub(super) fn count_once(&self, (from, to): (Vec<u8>, Vec<u8>)) -> Result<u64, Error> {
        let mut found = self.engine.cursor(Family::Default, Scope::Within(from..to));
        found.seek_to_first();
        let mut count = 0;
        while found.item().is_some() {
            count += 1;
            found.next();
        }
        found.status().map(|()| count).map_err(|error| self.failed("read", error))
    }

    fn read_timeline(&self) -> Result<Timeline, Error> {
        let (from, to) = keys::timeline_range();
        let mut samples = Vec::new();
        let mut found = self.engine.cursor(Family::Default, Scope::Within(from..to));
        found.seek_to_first();
        while let Some((key, value)) = found.item() {
            let time = keys::split_timeline_key(key).ok_or_else(|| {
                Error::CorruptStore("a key of the timeline does not decode".to_owned())
            })?;
            samples.push(Sample { time, txn: decode_txn(value)? });
            found.next();
        }
        found.status().map_err(|error| self.failed("read", error))?;
        Ok(Timeline::new(samples))
    }
}

/// Opens RocksDB in a directory, or makes it.
fn open_disk(options: &StoreOptions, collected: &Arc<Collected>) -> Result<Engine, Error> {
    let path = &options.path;
    refuse_foreign(path)?;
    let disk = Disk::open(&db_options(), path, table_options(options, collected));
    disk.map(|disk| Engine::Disk(Box::new(disk))).map_err(|error| opening(path, error))
}

/// Refuses a directory that holds something else. A store whose making was interrupted has some
/// of the tables, and nothing in them.
fn refuse_foreign(path: &Path) -> Result<(), Error> {
    let shown = path.display();
    let mut entries = match std::fs::read_dir(path) {
        Ok(entries) => entries.filter_map(Result::ok).filter(|entry| {
            // What `mkfs` puts into an empty file system.
            entry.file_name() != "lost+found"
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(Error::DataDir(format!("'{shown}' cannot be the data directory: {error}")));
        }
    };
    if entries.next().is_none() {
        return Ok(());
    }
    let foreign = |what: &str| {
        Error::DataDir(format!(
            "'{shown}' holds {what}; give the store node a directory of its own"
        ))
    };
    if !path.join("CURRENT").exists() {
        // RocksDB writes this file last when it makes a database.
        let begun = path.join("LOCK").exists() || path.join("IDENTITY").exists();
        return if begun { Ok(()) } else { Err(foreign("files that are no store")) };
    }
    let found = DB::list_cf(&Options::default(), path).map_err(|error| opening(path, error))?;
    let found: BTreeSet<&str> = found.iter().map(String::as_str).collect();
    let known = BTreeSet::from(Family::ALL.map(Family::name));
    // The table of indexes is younger than others.
    if found == known || found == &known - &[Family::Indexes.name()].into() {
        return Ok(());
    }
    if !found.is_subset(&known) {
        return Err(foreign("a RocksDB database of something else"));
    }
    let db = DB::open_for_read_only(&Options::default(), path, false)
        .map_err(|error| opening(path, error))?;
    let mut all = db.raw_iterator();
    all.seek_to_first();
    if all.valid() { Err(foreign("a RocksDB database of something else")) } else { Ok(()) }
}

/// What a failure to open means.
fn opening(path: &Path, source: rocksdb::Error) -> Error {
    let text: &str = source.as_ref();
    if text.contains("While lock file") || text.contains("lock hold by current process") {
        let path = path.display();
        return Error::DataDir(format!("the store in '{path}' is in use by another process"));
    }
    Error::Storage { path: path.display().to_string(), action: "open", source }
}

fn db_options() -> Options {
    let mut db = Options::default();
    db.create_if_missing(true);
    db.create_missing_column_families(true);
    // Without a WAL this is what makes the tables agree after a crash (ST-1).
    db.set_atomic_flush(true);
    db.set_max_background_jobs(3);
    db.set_max_open_files(1024);
    db.set_bytes_per_sync(1 << 20);
    db.set_log_level(LogLevel::Warn);
    db.set_keep_log_file_num(2);
    db
}

/// What a table's filters are built over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bloom {
    /// Keys that are read one by one.
    WholeKeys,
    /// What all versions of a document have in common: a seek never knows a whole key.
    Prefixes,
}

/// One set of options for each table.
fn table_options(options: &StoreOptions, collected: &Arc<Collected>) -> [(Family, Options); 5] {
    let cache = Cache::new_lru_cache(options.block_cache_bytes);
    let table = |bloom: Option<Bloom>, block_bytes: usize| {
        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_cache(&cache);
        blocks.set_block_size(block_bytes);
        if let Some(bloom) = bloom {
            blocks.set_bloom_filter(10.0, false);
            blocks.set_whole_key_filtering(bloom == Bloom::WholeKeys);
        }
        let mut table = Options::default();
        table.set_block_based_table_factory(&blocks);
        table.set_compression_type(DBCompressionType::Lz4);
        table
    };
    let large = |mut table: Options| {
        table.set_write_buffer_size(options.write_buffer_bytes);
        table.set_max_write_buffer_number(4);
        table.set_target_file_size_base(options.write_buffer_bytes as u64);
        table
    };
    let mut versions = large(table(Some(Bloom::Prefixes), 16 << 10));
    versions.set_prefix_extractor(SliceTransform::create(
        "anabranch.document.v1",
        keys::version_prefix,
        Some(|key| key.len() > 8),
    ));
    versions.set_memtable_prefix_bloom_ratio(0.1);
    // What was flushed is soon written again by a compaction. To compress it both times would be
    // half of what flushing costs.
    let (plain, lz4) = (DBCompressionType::None, DBCompressionType::Lz4);
    versions.set_compression_per_level(&[plain, lz4, lz4, lz4, lz4, lz4, lz4]);
    versions.set_compaction_filter_factory(Filters {
        name: c"anabranch.versions.v1",
        collected: Arc::clone(collected),
        make: Collected::version_filter,
    });
    // Appended in order and read in order: no filter would help, and compactions move its files
    // as they are.
    let changes = large(table(None, 64 << 10));
    let mut rounds = table(Some(Bloom::WholeKeys), 4 << 10);
    rounds.set_memtable_prefix_bloom_ratio(0.1);
    rounds.set_memtable_whole_key_filtering(true);
    rounds.set_write_buffer_size(16 << 20);
    rounds.set_compaction_filter_factory(Filters {
        name: c"anabranch.rounds.v1",
        collected: Arc::clone(collected),
        make: Collected::round_filter,
    });
    // Read in order, a few entries at a time.
    let mut indexes = large(table(None, 16 << 10));
    indexes.set_compaction_filter_factory(Filters {
        name: c"anabranch.indexes.v1",
        collected: Arc::clone(collected),
        make: Collected::index_filter,
    });
    let mut default = table(None, 4 << 10);
    default.set_write_buffer_size(4 << 20);
    [
        (Family::Default, default),
        (Family::Versions, versions),
        (Family::Changes, changes),
        (Family::Rounds, rounds),
        (Family::Indexes, indexes),
    ]
}
