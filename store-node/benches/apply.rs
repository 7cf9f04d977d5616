//! How fast a cold store node catches up with an embedded log, next to the least that any node
//! would have to do: read the records and put the same bytes into RocksDB.
//!
//! `cargo bench -p anabranch-store-node --bench apply [documents] [documents per round]`

#[path = "../tests/support/log.rs"]
#[allow(dead_code, unreachable_pub)]
mod log;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch_core::Value;
use anabranch_core::document::Mutation;
use anabranch_core::query::OnConflict;
use anabranch_journal::embedded::{EmbeddedConfig, EmbeddedJournal};
use anabranch_journal::{Journal, Offset, ReadFrom, TopicPartition};
use anabranch_runtime::admin::Readiness;
use anabranch_runtime::tasks::{Shutdown, Tasks};
use anabranch_store_node::{StoreNodeConfig, run};
use rocksdb::{DB, Options, WriteBatch, WriteOptions};

use self::log::{Log, Round, car, identity};

fn main() {
    let mut numbers = std::env::args().filter_map(|argument| argument.parse::<usize>().ok());
    let documents = numbers.next().unwrap_or(100_000);
    let per_round = numbers.next().unwrap_or(100).max(1);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut config = EmbeddedConfig::new(dir.path().join("log"));
    config.sync = false;
    let journal: Arc<dyn Journal> = EmbeddedJournal::open(config).expect("a log");
    fill(&journal, documents, per_round);
    for run in 0..3 {
        let (raw, bytes) = raw(&journal, documents, &dir.path().join(format!("raw{run}")));
        let node = node(&journal, documents, &dir.path().join(format!("node{run}")));
        println!(
            "{documents} documents, {per_round} per round, {} bytes each in the log: raw {raw:.0}/s, \
             store node {node:.0}/s, ratio {:.2}",
            bytes / documents,
            node / raw
        );
    }
}

/// About 400 bytes of JSON in ten fields.
fn document(number: usize) -> Value {
    let text =
        |name: &str| format!("{name} of document {number}, padded to be as long as most are");
    let mut fields: Vec<(String, Value)> = ["name", "maker", "origin", "remark"]
        .map(|name| (name.to_owned(), Value::from(text(name))))
        .into();
    let number = i64::try_from(number).expect("it is small");
    for (index, name) in
        ["year", "power", "weight", "cylinders", "price", "stock"].iter().enumerate()
    {
        let index = i64::try_from(index).expect("there are six");
        fields.push(((*name).to_owned(), Value::Int(number * 7 + index)));
    }
    fields.into_iter().collect()
}

fn fill(journal: &Arc<dyn Journal>, documents: usize, per_round: usize) {
    let mut log = Log::open(Arc::clone(journal));
    let numbers: Vec<usize> = (0..documents).collect();
    let rounds: Vec<Round> = numbers
        .chunks(per_round)
        .zip(1_u128..)
        .map(|(numbers, id)| Round {
            id,
            millis: 1_700_000_000_000 + u64::try_from(id).expect("it is small"),
            mutations: numbers
                .iter()
                .map(|number| {
                    let insert = Mutation::Insert {
                        fields: document(*number),
                        on_conflict: OnConflict::DoUpdate,
                    };
                    (car(i64::try_from(*number).expect("it is small")), insert)
                })
                .collect(),
        })
        .collect();
    for rounds in rounds.chunks(20) {
        log.write_all(rounds);
    }
}

/// Reads every record and puts its value, cut into documents, into RocksDB.
fn raw(journal: &Arc<dyn Journal>, documents: usize, path: &std::path::Path) -> (f64, usize) {
    let name = identity().name;
    let mut from = vec![(TopicPartition::new(name.txns(), 0), ReadFrom::Offset(Offset(0)))];
    for slice in identity().slices.all() {
        from.push((TopicPartition::new(name.rounds(), slice.0), ReadFrom::Offset(Offset(0))));
    }
    let mut options = Options::default();
    options.create_if_missing(true);
    let db = DB::open(&options, path).expect("a database");
    let mut write = WriteOptions::default();
    write.disable_wal(true);
    let began = Instant::now();
    let mut reader = journal.reader(&from).expect("a reader");
    let (mut bytes, mut puts) = (0, 0_u64);
    loop {
        let records = reader.poll(Duration::ZERO).expect("records");
        if records.is_empty() {
            break;
        }
        let mut batch = WriteBatch::default();
        for record in records {
            let value = record.value.expect("a value");
            bytes += value.len();
            // As many keys as there are documents, of the size that a document's has.
            for piece in value.chunks(450) {
                puts += 1;
                let mut key = [7; 40];
                key[..8].copy_from_slice(&puts.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
                batch.put(key, piece);
            }
        }
        db.write_opt(batch, &write).expect("a write");
    }
    (documents as f64 / began.elapsed().as_secs_f64(), bytes)
}

fn node(journal: &Arc<dyn Journal>, documents: usize, path: &std::path::Path) -> f64 {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let config = StoreNodeConfig {
        data_dir: path.to_owned(),
        listen: ([127, 0, 0, 1], 0).into(),
        ..StoreNodeConfig::default()
    };
    let readiness = Readiness::new();
    let ready = readiness.register("store node");
    let began = Instant::now();
    runtime.block_on(async {
        let tasks = Tasks::new(Shutdown::new());
        run(config, identity(), Arc::clone(journal), &tasks, ready).await.expect("a node");
        while !readiness.not_ready().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let speed = documents as f64 / began.elapsed().as_secs_f64();
        tasks.shutdown().begin();
        tasks.join(Duration::from_secs(60)).await.expect("an end");
        speed
    })
}
