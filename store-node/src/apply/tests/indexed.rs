//! Indexes that come and go while the log is applied: what is found by them is what a scan finds in the
//! same snapshot, before, while and after they are built, whatever is trimmed, and after every crash.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use anabranch_core::ids::TxnId;
use anabranch_core::query::{IndexOver, IndexPaths, parse_filter};
use anabranch_journal::metadata::DeclaredIndexes;
use anabranch_schemas::store::QueryItem;
use proptest::prelude::*;
use tempfile::TempDir;

use super::support::{APP, Model, TestLog, TestRound, arbitrary_rounds, everything, id, path};
use super::whole::{LONG, applier, build, crash_image, feed, inputs, open, options, put, seen};
use crate::apply::applier::Applier;
use crate::apply::sources::Input;
use crate::read::all_rows;
use crate::storage::{Catalog, Index, IndexState, MemoryDisk, Storage};

/// What indexes there may be are over.
const OVER: [&[&str]; 4] = [&["a"], &["b"], &["a", "b"], &["c"]];

/// Conditions that they serve, and one that they do not.
const CONDITIONS: [&str; 8] = [
    "a = 1",
    "a IN (0, 2)",
    "a > 0 AND b = 1",
    "a = 2 AND b >= 1",
    "b BETWEEN 1 AND 2",
    "b < 0 OR a = 1",
    "a IS MISSING",
    "c = 1 AND _id > 2",
];

/// What is done beside applying.
#[derive(Clone, Debug)]
enum Step {
    /// So many messages of the log are applied.
    Apply(usize),
    /// Those of `OVER` whose bit is set are declared.
    Declare(usize),
    /// So many steps are made towards them.
    Tend(usize),
    Flush,
    /// What nobody can read is dropped: only the last so many transactions can be read.
    Compact(u64),
    /// What was not flushed is gone.
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1_usize..4).prop_map(Step::Apply),
        3 => (0_usize..1 << OVER.len()).prop_map(Step::Declare),
        4 => (1_usize..5).prop_map(Step::Tend),
        2 => Just(Step::Flush),
        1 => (0_u64..8).prop_map(Step::Compact),
        1 => Just(Step::Crash),
    ]
}

fn declared(bits: usize) -> DeclaredIndexes {
    let is_in = |number: &usize| bits >> number & 1 == 1;
    let entry = |number: usize| {
        let paths = OVER[number].iter().map(|name| path(name)).collect();
        let paths = IndexPaths::new(paths).unwrap();
        let over = IndexOver { app: APP, collection: id(0).collection, paths };
        (over, format!("index{number}").parse().unwrap())
    };
    let indexes = (0..OVER.len()).filter(is_in).map(entry).collect();
    DeclaredIndexes { indexes, ..DeclaredIndexes::default() }
}

/// What a node has its data on.
enum Disk {
    Files(TempDir),
    Memory(MemoryDisk),
}

impl Disk {
    fn files() -> Self {
        Disk::Files(tempfile::tempdir().unwrap())
    }

    /// As a crash leaves it.
    fn after_crash(&self) -> Self {
        match self {
            Disk::Files(dir) => Disk::Files(crash_image(dir.path())),
            Disk::Memory(disk) => Disk::Memory(disk.clone()),
        }
    }

    fn start(&self, log: &TestLog) -> (Applier, VecDeque<Input>) {
        let opened = match self {
            Disk::Files(dir) => open(dir.path()),
            Disk::Memory(disk) => {
                Storage::open_in_memory(disk, &options(Path::new("")), &everything()).unwrap()
            }
        };
        let inputs = inputs(log, &opened.head.progress, 2).into();
        (applier(opened, LONG), inputs)
    }
}

/// A node that applies a log.
struct World {
    log: TestLog,
    model: Model,
    disk: Disk,
    applier: Option<Applier>,
    inputs: VecDeque<Input>,
    declared: DeclaredIndexes,
    /// The indexes before the last step.
    before: Arc<Catalog>,
}

impl World {
    fn new(rounds: &[TestRound], disk: Disk) -> Self {
        let (log, model) = build(rounds);
        let (applier, inputs) = disk.start(&log);
        let (declared, before) = (DeclaredIndexes::default(), Arc::default());
        World { log, model, disk, applier: Some(applier), inputs, declared, before }
    }

    fn applier(&mut self) -> &mut Applier {
        self.applier.as_mut().expect("it runs")
    }

    fn run(&mut self, step: &Step) {
        self.before = self.applier().storage.indexes();
        match *step {
            Step::Apply(count) => {
                let count = count.min(self.inputs.len());
                let received = feed(self.inputs.drain(..count).collect());
                while self.applier().apply_inputs(&received).unwrap() {}
            }
            Step::Declare(bits) => {
                self.declared = declared(bits);
                let declared = self.declared.clone();
                self.applier().wishes.declare(declared);
            }
            Step::Tend(count) => {
                for _ in 0..count {
                    self.applier().tend_indexes().unwrap();
                }
            }
            Step::Flush => self.applier().storage.flush().unwrap(),
            Step::Compact(kept) => {
                let applier = self.applier();
                let last = applier.progress.last.unwrap_or_default();
                let oldest = TxnId(last.0.saturating_sub(kept));
                applier.progress.oldest_readable = applier.storage.history().advance(oldest);
                // A batch takes it along.
                let batch = crate::storage::Batch::new(&applier.storage, 64);
                applier.persistence.write(batch, &applier.progress).unwrap();
                applier.storage.flush().unwrap();
                applier.storage.compact();
            }
            Step::Crash => {
                let disk = self.disk.after_crash();
                self.applier = None;
                self.disk = disk;
                let (applier, inputs) = self.disk.start(&self.log);
                applier.wishes.declare(self.declared.clone());
                (self.applier, self.inputs) = (Some(applier), inputs);
                // Nobody who had chosen one before outlives it; numbers may be taken again.
                self.before = self.applier().storage.indexes();
            }
        }
    }

    /// Compares what is found in every snapshot that can be read.
    fn check(&self) {
        let Applier { storage, progress, .. } = self.applier.as_ref().expect("it runs");
        let indexes = storage.indexes();
        let oldest = storage.history().oldest();
        let applied = self.log.commits.iter().map(|(txn, _, _)| *txn);
        let readable = applied.filter(|txn| *txn >= oldest && *txn < progress.next);
        for at in readable {
            let expected = self.model.at(at);
            assert_eq!(seen(storage, at), expected, "at {at}");
            for condition in CONDITIONS {
                let statement = format!("SELECT * FROM things WHERE {condition}");
                let filter = parse_filter(condition).unwrap();
                let mut wanted = Vec::new();
                for (number, value) in &expected {
                    let mut fields = value.as_object().unwrap().clone();
                    fields.insert("_id".to_owned(), (*number).into());
                    let document = anabranch_core::Value::Object(fields);
                    if filter.matches(&document) {
                        wanted.push(document.to_json());
                    }
                }
                let rows = |after: &[u8], indexes: &Catalog| {
                    all_rows(storage, APP, &statement, after, at, indexes)
                };
                let texts = |items: &[QueryItem]| -> Vec<String> {
                    items.iter().map(|item| item.item.clone()).collect()
                };
                let none = Catalog::default();
                let (scanned, _) = rows(&[], &none);
                assert_eq!(texts(&scanned), wanted, "{condition} at {at}, by a scan");
                let (found, examined) = rows(&[], &indexes);
                assert_eq!(found, scanned, "{condition} at {at}, with {indexes:?}");
                // An index that was chosen may be given up before it is used.
                let (late, _) = rows(&[], &self.before);
                assert_eq!(late, scanned, "{condition} at {at}, with what was {:?}", self.before);
                for (number, item) in scanned.iter().enumerate() {
                    let behind = &scanned[number + 1..];
                    for indexes in [&none, &indexes, &self.before] {
                        assert_eq!(
                            rows(item.stands_at(), indexes).0,
                            behind,
                            "{condition} {number}"
                        );
                    }
                }
                let is_exact = condition == "a = 1" && Some(at) == progress.last;
                let serves =
                    |index: &Index| index.over.paths.to_string() == "a" && index.serves(at);
                if is_exact && indexes.all().any(serves) {
                    assert_eq!(examined, found.len() as u64, "{condition} at {at}");
                }
            }
        }
    }
}

/// Runs some steps, and all that is left; compares what is found after each.
fn check(rounds: &[TestRound], steps: &[Step], disk: Disk) {
    let mut world = World::new(rounds, disk);
    for step in steps {
        world.run(step);
        world.check();
    }
    // In the end all is applied, and all indexes that are wished for are there.
    world.run(&Step::Apply(usize::MAX));
    while world.applier().tend_indexes().unwrap() {}
    world.check();
    let there = world.applier().storage.indexes();
    let there = there.all().map(|index| (index.over.clone(), index.name.clone().unwrap()));
    assert_eq!(there.collect::<BTreeMap<_, _>>(), world.declared.indexes);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn what_an_index_finds_is_what_a_scan_finds(
        rounds in arbitrary_rounds(25),
        steps in prop::collection::vec(step(), 1..30),
    ) {
        check(&rounds, &steps, Disk::Memory(MemoryDisk::default()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, ..ProptestConfig::default() })]

    #[test]
    fn so_it_is_on_rocksdb(
        rounds in arbitrary_rounds(25),
        steps in prop::collection::vec(step(), 1..30),
    ) {
        check(&rounds, &steps, Disk::files());
    }
}

/// What is found in too few steps to be sure of it is not taken for an answer.
#[test]
fn what_takes_much_work_is_read_page_by_page() {
    let documents = (0..6).map(|number| put(number, number % 2)).collect();
    let mut world = World::new(&[TestRound::new(1, documents)], Disk::files());
    world.run(&Step::Apply(usize::MAX));
    let Applier { storage, .. } = world.applier.as_ref().unwrap();
    let costly = format!("CASE WHEN n = 1 THEN '{}' END LIKE '%a_a_b%'", "a".repeat(500));
    for place in ["_id IN (0, 1, 3)", "TRUE"] {
        let statement = format!("SELECT _id FROM things WHERE {place} AND NOT ({costly})");
        let (rows, _) = all_rows(storage, APP, &statement, &[], TxnId(0), &Catalog::default());
        let rows: Vec<_> = rows.into_iter().map(|item| item.item).collect();
        let expected = [r#"{"_id":1}"#, r#"{"_id":3}"#, r#"{"_id":5}"#];
        let count = if place == "TRUE" { 3 } else { 2 };
        assert_eq!(rows, expected[..count], "{place}");
    }
}

#[test]
fn an_index_is_built_page_by_page_and_goes_on_after_a_crash() {
    let documents = (0..6).map(|number| put(number, number % 2)).collect();
    let mut world = World::new(&[TestRound::new(1, documents)], Disk::files());
    let statement = "SELECT _id FROM things WHERE n = 1";
    let over = IndexPaths::new(vec![path("n")]).unwrap();
    let over = IndexOver { app: APP, collection: id(0).collection, paths: over };
    world.run(&Step::Apply(usize::MAX));
    let indexes = [(over, "by_n".parse().unwrap())].into();
    world.declared = DeclaredIndexes { indexes, ..DeclaredIndexes::default() };
    let declared = world.declared.clone();
    world.applier().wishes.declare(declared);
    let state = |world: &World| {
        let indexes = world.applier.as_ref().unwrap().storage.indexes();
        indexes.all().next().map(|index| index.state.clone())
    };
    let building = |documents| match documents {
        0 => IndexState::Building { after: None, documents },
        _ => IndexState::Building { after: Some((documents - 1).to_string()), documents },
    };
    let examined = |world: &World| {
        let storage = &world.applier.as_ref().unwrap().storage;
        let indexes = storage.indexes();
        let (rows, examined) = all_rows(storage, APP, statement, &[], TxnId(0), &indexes);
        let rows: Vec<_> = rows.into_iter().map(|item| item.item).collect();
        assert_eq!(rows, [r#"{"_id":1}"#, r#"{"_id":3}"#, r#"{"_id":5}"#]);
        examined
    };
    for documents in [0, 2, 4] {
        world.run(&Step::Tend(1));
        assert_eq!(state(&world), Some(building(documents)));
        assert_eq!(examined(&world), 6);
        if documents == 2 {
            world.run(&Step::Flush);
        }
    }
    world.run(&Step::Crash);
    assert_eq!(state(&world), Some(building(2)), "as of the last flush");
    world.run(&Step::Tend(3));
    assert_eq!(state(&world), Some(IndexState::Built { from: Some(TxnId(0)) }));
    assert_eq!(examined(&world), 3);
    let most = format!("SELECT _id FROM things WHERE n IN (1, 2) LIMIT {}", i64::MAX);
    let Applier { storage, .. } = world.applier.as_ref().unwrap();
    let (rows, examined_then) = all_rows(storage, APP, &most, &[], TxnId(0), &storage.indexes());
    assert_eq!((rows.len(), examined_then), (3, 3));
    world.applier().wishes.declare(DeclaredIndexes::default());
    world.run(&Step::Tend(1));
    assert_eq!((state(&world), examined(&world)), (None, 6));
}
