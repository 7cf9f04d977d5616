use std::sync::Arc;
use std::thread;

use uuid::Uuid;

use super::*;
use crate::embedded::{EmbeddedConfig, EmbeddedJournal};
use crate::topics::cluster_topics;

fn log(dir: &tempfile::TempDir) -> (Arc<dyn Journal>, ClusterName) {
    let config = EmbeddedConfig { sync: false, ..EmbeddedConfig::new(dir.path()) };
    let log: Arc<dyn Journal> = EmbeddedJournal::open(config).unwrap();
    let name: ClusterName = "east".parse().unwrap();
    log.ensure_topics(&cluster_topics(&name, SliceCount::default(), None)).unwrap();
    (log, name)
}

fn text(value: &str) -> Option<String> {
    Some(value.to_owned())
}

#[test]
fn an_entry_changes_only_at_the_version_it_was_read_at() {
    let dir = tempfile::tempdir().unwrap();
    let (log, name) = log(&dir);
    let store = MetadataStore::open(log.clone(), &name).unwrap();
    let other = MetadataStore::open(log, &name).unwrap();
    let first = store.compare_and_set("a/1", None, text("1")).unwrap();
    let conflict = other.compare_and_set("a/1", None, text("2")).unwrap_err();
    assert!(matches!(conflict, MetadataError::Conflict { found: Some(found), .. } if found == first));
    let second = other.compare_and_set("a/1", Some(first), text("2")).unwrap();
    assert_eq!(store.get("a/1").unwrap(), Some(Entry { version: second, value: "2".to_owned() }));
    store.compare_and_set("a/2", None, text("3")).unwrap();
    store.compare_and_set("b", None, text("4")).unwrap();
    let keys: Vec<_> = other.list("a/").unwrap().into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["a/1", "a/2"]);
    let removed = other.compare_and_set("a/1", Some(second), None).unwrap();
    assert_eq!(store.get("a/1").unwrap(), None);
    assert!(store.compare_and_set("a/1", Some(second), text("5")).is_err());
    assert!(store.compare_and_set("a/1", None, text("5")).unwrap() > removed);
}

#[test]
fn one_of_many_that_change_the_same_version_wins() {
    let dir = tempfile::tempdir().unwrap();
    let (log, name) = log(&dir);
    let count = |handle: usize| {
        let store = MetadataStore::open(log.clone(), &name).unwrap();
        for _ in 0..10 {
            loop {
                let found = store.get("n").unwrap();
                let sum: u64 = found.as_ref().map_or(0, |entry| entry.value.parse().unwrap());
                let expected = found.map(|entry| entry.version);
                match store.compare_and_set("n", expected, Some((sum + 1).to_string())) {
                    Ok(_) => break,
                    Err(MetadataError::Conflict { .. }) => {}
                    Err(error) => panic!("handle {handle}: {error}"),
                }
            }
        }
    };
    thread::scope(|scope| {
        for handle in 0..4 {
            scope.spawn(move || count(handle));
        }
    });
    let store = MetadataStore::open(log.clone(), &name).unwrap();
    let entry = store.get("n").unwrap().unwrap();
    assert_eq!((entry.value.as_str(), entry.version), ("40", Version(40)));
}

#[test]
fn the_first_to_come_names_the_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let (log, name) = log(&dir);
    let identity = |number| ClusterIdentity {
        name: name.clone(),
        actor: ActorId(Uuid::from_u128(number)),
        slices: SliceCount::default(),
        created_ms: 1,
    };
    let ask = |number| {
        let store = MetadataStore::open(log.clone(), &name).unwrap();
        store.cluster_identity(|| identity(number)).unwrap()
    };
    assert_eq!(ask(1), identity(1));
    assert_eq!(ask(2), identity(1));
}
