//! The metadata store on the embedded log, with a journal between that loses answers.

use std::collections::{BTreeMap, VecDeque};

use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::doubles::{Fate, FaultyJournal, Step};
use crate::embedded::{EmbeddedConfig, EmbeddedJournal};
use crate::topics::cluster_topics;

/// What happens just before a commit, and what becomes of it.
type Commit = Box<dyn FnOnce() -> Fate + Send>;

/// The embedded log; its commits do as they are told, and writers are counted.
pub(super) struct Bench {
    log: Arc<dyn Journal>,
    faulty: Arc<dyn Journal>,
    commits: Arc<Mutex<VecDeque<Commit>>>,
    writers: Arc<Mutex<usize>>,
    pub(super) cluster: ClusterName,
    _dir: TempDir,
}

impl Bench {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = EmbeddedConfig { sync: false, ..EmbeddedConfig::new(dir.path()) };
        let log: Arc<dyn Journal> = EmbeddedJournal::open(config).unwrap();
        let cluster: ClusterName = "east".parse().unwrap();
        log.ensure_topics(&cluster_topics(&cluster, SliceCount::default(), None)).unwrap();
        let commits: Arc<Mutex<VecDeque<Commit>>> = Arc::default();
        let writers: Arc<Mutex<usize>> = Arc::default();
        let (next, opened) = (Arc::clone(&commits), Arc::clone(&writers));
        let faulty = FaultyJournal::new(Arc::clone(&log), move |step| {
            if matches!(step, Step::Writer(_)) {
                *opened.lock() += 1;
            }
            let next = matches!(step, Step::Commit(_)).then(|| next.lock().pop_front());
            next.flatten().map_or(Fate::Done, |commit| commit())
        });
        Bench { log, faulty: Arc::new(faulty), commits, writers, cluster, _dir: dir }
    }

    pub(super) fn store(&self) -> MetadataStore {
        MetadataStore::open(Arc::clone(&self.faulty), &self.cluster).unwrap()
    }

    /// One whose commits always happen, and whose writers are not counted.
    fn other_store(&self) -> MetadataStore {
        MetadataStore::open(Arc::clone(&self.log), &self.cluster).unwrap()
    }

    fn next_commit(&self, commit: impl FnOnce() -> Fate + Send + 'static) {
        self.commits.lock().push_back(Box::new(commit));
    }

    fn writers(&self) -> usize {
        *self.writers.lock()
    }
}

fn no_answer() -> Error {
    Error::Unknown("no answer".to_owned())
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
    bench.next_commit(|| Fate::DoneBut(no_answer()));
    assert_eq!(store.compare_and_set("a", None, text("1")).unwrap(), Version(1));
    assert_eq!(bench.writers(), 2, "it was written once and looked for once");
    // What was certainly not set is set again.
    bench.next_commit(|| Fate::Fails(no_answer()));
    bench.next_commit(|| Fate::Fails(Error::Aborted("refused".to_owned())));
    assert_eq!(store.compare_and_set("a", Some(Version(1)), text("2")).unwrap(), Version(2));
    assert_eq!(store.get("a").unwrap(), entry(2, "2"));
}

/// Only the change after it tells the version, not whose it was before.
#[test]
fn a_lost_answer_whose_change_others_changed_is_unknown() {
    let bench = Bench::new();
    let store = bench.store();
    store.compare_and_set("a", None, text("1")).unwrap();
    let other = bench.other_store();
    bench.next_commit(move || {
        // Each of them fences the one whose commit is under way.
        for version in 1..3 {
            other.compare_and_set("a", Some(Version(version)), text("theirs")).unwrap();
        }
        Fate::Fails(no_answer())
    });
    let error = store.compare_and_set("a", Some(Version(1)), text("ours")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unknown, "{error:?}");
    assert_eq!(store.get("a").unwrap(), entry(3, "theirs"));
}

/// All processes of a new cluster set the same entry when they start.
#[test]
fn who_comes_too_late_is_in_nobodys_way() {
    let bench = Bench::new();
    let (store, other) = (bench.store(), bench.other_store());
    bench.next_commit({
        let fenced = Error::Fenced(store.id.clone());
        move || {
            other.compare_and_set("a", None, text("theirs")).unwrap();
            Fate::Fails(fenced)
        }
    });
    for _ in 0..2 {
        let error = store.compare_and_set("a", None, text("ours")).unwrap_err();
        assert!(matches!(error, MetadataError::Conflict { .. }), "{error:?}");
        assert_eq!(bench.writers(), 1, "only the first try fences");
    }
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
