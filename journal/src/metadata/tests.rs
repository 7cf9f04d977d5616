//! The metadata store on the embedded log, with a journal between that loses answers.

use std::collections::{BTreeMap, VecDeque};

use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::embedded::{EmbeddedConfig, EmbeddedJournal};
use crate::log::{Bounds, TopicSpec, Writer};
use crate::topics::cluster_topics;

#[derive(Clone, Copy)]
enum Commit {
    Happens,
    IsLost,
    LosesItsAnswer,
}

/// The embedded log; its commits do as they are told.
struct Lossy {
    log: Arc<EmbeddedJournal>,
    commits: Arc<Mutex<VecDeque<Commit>>>,
}

struct LossyWriter {
    inner: Box<dyn Writer>,
    commits: Arc<Mutex<VecDeque<Commit>>>,
}

impl Writer for LossyWriter {
    fn begin(&mut self) -> Result<(), Error> {
        self.inner.begin()
    }

    fn append(&mut self, record: NewRecord) -> Result<(), Error> {
        self.inner.append(record)
    }

    fn flush(&mut self) -> Result<Vec<Offset>, Error> {
        self.inner.flush()
    }

    fn commit(&mut self) -> Result<(), Error> {
        let unknown = || Err(Error::Unknown("no answer".to_owned()));
        match self.commits.lock().pop_front().unwrap_or(Commit::Happens) {
            Commit::Happens => self.inner.commit(),
            Commit::IsLost => unknown(),
            Commit::LosesItsAnswer => self.inner.commit().and_then(|()| unknown()),
        }
    }

    fn abort(&mut self) -> Result<(), Error> {
        self.inner.abort()
    }
}

impl Journal for Lossy {
    fn ensure_topics(&self, topics: &[TopicSpec]) -> Result<(), Error> {
        self.log.ensure_topics(topics)
    }

    fn writer(&self, id: &TransactionalId) -> Result<Box<dyn Writer>, Error> {
        let commits = Arc::clone(&self.commits);
        Ok(Box::new(LossyWriter { inner: self.log.writer(id)?, commits }))
    }

    fn reader(&self, from: &[(TopicPartition, ReadFrom)]) -> Result<Box<dyn Reader>, Error> {
        self.log.reader(from)
    }

    fn bounds(&self, at: &TopicPartition) -> Result<Bounds, Error> {
        self.log.bounds(at)
    }

    fn trim(&self, at: &TopicPartition, before: Offset) -> Result<(), Error> {
        self.log.trim(at, before)
    }

    fn rest_after_commit(&self) -> Duration {
        self.log.rest_after_commit()
    }
}

struct Bench {
    journal: Arc<Lossy>,
    cluster: ClusterName,
    _dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = EmbeddedConfig { sync: false, ..EmbeddedConfig::new(dir.path()) };
        let log = EmbeddedJournal::open(config).unwrap();
        let cluster: ClusterName = "east".parse().unwrap();
        log.ensure_topics(&cluster_topics(&cluster, SliceCount::default(), None)).unwrap();
        let journal = Arc::new(Lossy { log, commits: Arc::default() });
        Bench { journal, cluster, _dir: dir }
    }

    fn store(&self) -> MetadataStore {
        MetadataStore::open(Arc::clone(&self.journal) as Arc<dyn Journal>, &self.cluster).unwrap()
    }

    fn commits(&self, commits: impl IntoIterator<Item = Commit>) {
        self.journal.commits.lock().extend(commits);
    }
}

fn text(value: &str) -> Option<String> {
    Some(value.to_owned())
}

fn entry(version: u64, value: &str) -> Option<Entry> {
    Some(Entry { version: Version(version), value: value.to_owned() })
}

#[test]
fn versions_count_changes_and_go_on_after_a_removal() {
    let bench = Bench::new();
    let store = bench.store();
    assert_eq!(store.get("a").unwrap(), None);
    assert_eq!(store.compare_and_set("a", None, text("1")).unwrap(), Version(1));
    assert_eq!(store.compare_and_set("a", Some(Version(1)), text("2")).unwrap(), Version(2));
    assert_eq!(store.compare_and_set("a", Some(Version(2)), None).unwrap(), Version(3));
    assert_eq!(store.get("a").unwrap(), None);
    assert_eq!(store.compare_and_set("a", None, text("4")).unwrap(), Version(4));
    assert_eq!(store.get("a").unwrap(), entry(4, "4"));
    let error = store.compare_and_set("b", None, None).unwrap_err();
    assert!(matches!(error, MetadataError::Journal(Error::Invalid(_))), "{error:?}");
}

#[test]
fn another_version_is_a_conflict() {
    let bench = Bench::new();
    let store = bench.store();
    store.compare_and_set("a", None, text("1")).unwrap();
    for expected in [None, Some(Version(2))] {
        let error = store.compare_and_set("a", expected, text("2")).unwrap_err();
        assert!(
            matches!(error, MetadataError::Conflict { found: Some(Version(1)), .. }),
            "{error:?}"
        );
    }
    let error = store.compare_and_set("b", Some(Version(1)), text("2")).unwrap_err();
    assert_eq!(error.to_string(), "'b' is at version none, not at 1");
    assert_eq!(store.get("a").unwrap(), entry(1, "1"));
}

#[test]
fn names_are_listed_by_prefix() {
    let bench = Bench::new();
    let store = bench.store();
    for key in ["app/1", "app/2", "app/3", "apq", "ap"] {
        store.compare_and_set(key, None, text("0")).unwrap();
    }
    store.compare_and_set("app/2", Some(Version(1)), None).unwrap();
    let names: Vec<_> = store.list("app/").unwrap().into_iter().map(|(key, ..)| key).collect();
    assert_eq!(names, ["app/1", "app/3"]);
}

#[test]
fn other_handles_see_changes() {
    let bench = Bench::new();
    let (ours, theirs) = (bench.store(), bench.store());
    ours.compare_and_set("a", None, text("1")).unwrap();
    assert_eq!(theirs.wait(READ_TIMEOUT).unwrap(), ["a"]);
    assert_eq!(theirs.get("a").unwrap(), entry(1, "1"));
    ours.compare_and_set("a", Some(Version(1)), text("2")).unwrap();
    assert_eq!(theirs.get("a").unwrap(), entry(2, "2"));
}

#[test]
fn of_those_who_change_a_version_one_wins() {
    const THREADS: u64 = 4;
    const CHANGES: u64 = 15;
    let bench = Bench::new();
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let store = bench.store();
            std::thread::spawn(move || {
                let mut won = Vec::new();
                for change in 0..CHANGES {
                    // Each wins so often, whoever came between.
                    loop {
                        let expected = store.get("a").unwrap().map(|entry| entry.version);
                        let value = format!("{thread}.{change}");
                        match store.compare_and_set("a", expected, Some(value.clone())) {
                            Ok(version) => {
                                won.push((version, value));
                                break;
                            }
                            Err(MetadataError::Conflict { .. }) => {}
                            Err(error) => panic!("{error:?}"),
                        }
                    }
                }
                won
            })
        })
        .collect();
    let mut won = BTreeMap::new();
    for thread in threads {
        for (version, value) in thread.join().unwrap() {
            assert_eq!(won.insert(version, value), None, "two won version {version}");
        }
    }
    let versions: Vec<_> = (1..=THREADS * CHANGES).map(Version).collect();
    assert_eq!(won.keys().copied().collect::<Vec<_>>(), versions);
    let store = bench.store();
    let Entry { version, value } = store.get("a").unwrap().unwrap();
    assert_eq!((Some(&version), &value), (versions.last(), &won[&version]));
}

#[test]
fn a_lost_answer_is_found_out() {
    let bench = Bench::new();
    let store = bench.store();
    bench.commits([Commit::LosesItsAnswer]);
    assert_eq!(store.compare_and_set("a", None, text("1")).unwrap(), Version(1));
    bench.commits([Commit::IsLost]);
    let error = store.compare_and_set("a", Some(Version(1)), text("2")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retry, "{error:?}");
    assert_eq!(store.get("a").unwrap(), entry(1, "1"));
    assert_eq!(store.compare_and_set("a", Some(Version(1)), text("2")).unwrap(), Version(2));
}

#[test]
fn a_cluster_has_one_identity_whoever_comes_first() {
    let bench = Bench::new();
    let threads: Vec<_> = (0..4)
        .map(|number| {
            let (store, name) = (bench.store(), bench.cluster.clone());
            std::thread::spawn(move || {
                let create = || ClusterIdentity {
                    name,
                    actor: ActorId(Uuid::from_u128(number)),
                    slices: SliceCount::default(),
                    created_ms: 5,
                };
                store.cluster_identity(create).unwrap()
            })
        })
        .collect();
    let identities: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert!(identities.iter().all(|identity| *identity == identities[0]), "{identities:?}");
    let later = bench.store().cluster_identity(|| panic!("it is there already")).unwrap();
    assert_eq!(later, identities[0]);
}
