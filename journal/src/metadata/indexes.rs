//! The indexes that are declared: an entry for each collection that has some, so that whoever adds one
//! has seen all others of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anabranch_core::ids::{AppId, Collection};
use anabranch_core::query::{IndexName, IndexOver, IndexPaths};
use anabranch_runtime::tasks::Shutdown;
use anabranch_schemas::topics::ClusterName;
use serde::{Deserialize, Serialize};

use super::follow::follow;
use super::{Entry, MetadataError, MetadataStore, Version};
use crate::error::Error;
use crate::log::Journal;

/// How many indexes a collection has at most: each makes every write of a document larger.
pub const MAX_INDEXES: usize = 16;
/// How many an app has, and all apps together: each store node looks after all of them.
const MAX_INDEXES_OF_APP: usize = 200;
const MAX_INDEXES_OF_CLUSTER: usize = 2_000;

/// What the names of all entries begin with.
const PREFIX: &str = "index/";

/// What is declared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeclaredIndexes {
    /// The name of each index, by what it is over.
    pub indexes: BTreeMap<IndexOver, IndexName>,
    /// The collections whose entries cannot be read.
    pub unreadable: BTreeSet<(AppId, Collection)>,
}

/// The value of an entry: the indexes of a collection.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OfCollection {
    indexes: BTreeMap<IndexName, IndexPaths>,
}

/// What became of an index that was to be declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// It is declared now.
    New,
    /// It was declared already, over the same fields.
    Same,
    /// Its name is that of an index over these fields.
    NameTaken(IndexPaths),
    /// An index of this name is over the same fields.
    PathsTaken(IndexName),
    /// The collection, the app or the cluster has so many already.
    TooMany(usize),
}

impl MetadataStore {
    /// Declares an index, unless there is one that is in its way.
    ///
    /// # Errors
    /// As [`MetadataStore::compare_and_set`], except that others may do the same at the same time;
    /// [`Error::Corrupt`] if the entry of the collection cannot be read.
    pub fn create_index(
        &self,
        app: AppId,
        collection: &Collection,
        name: &IndexName,
        paths: &IndexPaths,
    ) -> Result<Created, MetadataError> {
        let key = key(app, collection);
        loop {
            let (version, mut all) = self.indexes_of(&key)?;
            match all.indexes.get(name) {
                Some(other) if other == paths => return Ok(Created::Same),
                Some(other) => return Ok(Created::NameTaken(other.clone())),
                None => {}
            }
            if let Some((other, _)) = all.indexes.iter().find(|(_, other)| *other == paths) {
                return Ok(Created::PathsTaken(other.clone()));
            }
            // Others may come meanwhile: these two bounds are none to rely on.
            let declared = self.indexes()?.indexes;
            let of_app = declared.keys().filter(|over| over.app == app).count();
            for (count, at_most) in [
                (all.indexes.len(), MAX_INDEXES),
                (of_app, MAX_INDEXES_OF_APP),
                (declared.len(), MAX_INDEXES_OF_CLUSTER),
            ] {
                if count >= at_most {
                    return Ok(Created::TooMany(count));
                }
            }
            all.indexes.insert(name.clone(), paths.clone());
            if self.set_indexes(&key, version, &all)? {
                return Ok(Created::New);
            }
        }
    }

    /// Gives up an index. Whether there was one.
    ///
    /// # Errors
    /// As [`MetadataStore::create_index`].
    pub fn drop_index(
        &self,
        app: AppId,
        collection: &Collection,
        name: &IndexName,
    ) -> Result<bool, MetadataError> {
        let key = key(app, collection);
        loop {
            let (version, mut all) = self.indexes_of(&key)?;
            if all.indexes.remove(name).is_none() {
                return Ok(false);
            }
            if self.set_indexes(&key, version, &all)? {
                return Ok(true);
            }
        }
    }

    /// All indexes that are declared, as far as they can be read.
    ///
    /// # Errors
    /// As [`MetadataStore::list`].
    pub fn indexes(&self) -> Result<DeclaredIndexes, MetadataError> {
        let mut declared = DeclaredIndexes::default();
        for (key, entry) in self.list(PREFIX)? {
            let Some((app, collection)) = split(&key) else {
                tracing::error!(key, "an entry of the metadata declares indexes of no collection");
                continue;
            };
            match decode(&key, &entry) {
                Ok(all) => declared.indexes.extend(all.indexes.into_iter().map(|(name, paths)| {
                    (IndexOver { app, collection: collection.clone(), paths }, name)
                })),
                Err(error) => {
                    tracing::error!(%error, "indexes of a collection are not seen to");
                    declared.unreadable.insert((app, collection));
                }
            }
        }
        Ok(declared)
    }

    fn indexes_of(&self, key: &str) -> Result<(Option<Version>, OfCollection), MetadataError> {
        match self.get(key)? {
            Some(entry) => Ok((Some(entry.version), decode(key, &entry)?)),
            None => Ok((None, OfCollection::default())),
        }
    }

    /// Whether nobody else came first.
    fn set_indexes(
        &self,
        key: &str,
        version: Option<Version>,
        all: &OfCollection,
    ) -> Result<bool, MetadataError> {
        let json = || serde_json::to_string(all).expect("plain fields always encode");
        let value = (!all.indexes.is_empty()).then(json);
        match self.compare_and_set(key, version, value) {
            Ok(_) => Ok(true),
            Err(MetadataError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Gives the indexes of a cluster as they are declared, and each time that has changed, until the
/// shutdown begins. Blocks.
pub fn follow_indexes(
    journal: &Arc<dyn Journal>,
    cluster: &ClusterName,
    shutdown: &Shutdown,
    give: impl FnMut(DeclaredIndexes),
) {
    follow(journal, cluster, shutdown, PREFIX, MetadataStore::indexes, give);
}

fn key(app: AppId, collection: &Collection) -> String {
    format!("{PREFIX}{app}/{collection}")
}

fn split(key: &str) -> Option<(AppId, Collection)> {
    let (app, collection) = key.strip_prefix(PREFIX)?.split_once('/')?;
    Some((app.parse().ok()?, collection.parse().ok()?))
}

fn decode(key: &str, entry: &Entry) -> Result<OfCollection, Error> {
    let corrupt = |error| Error::Corrupt(format!("the entry '{key}' declares no indexes: {error}"));
    serde_json::from_str(&entry.value).map_err(corrupt)
}

#[cfg(test)]
mod tests {
    use anabranch_core::query::FieldPath;
    use uuid::Uuid;

    use super::*;
    use crate::metadata::tests::Bench;

    const APP: AppId = AppId(Uuid::from_u128(7));

    fn paths(names: &[&str]) -> IndexPaths {
        let path = |name: &&str| FieldPath::new(vec![(*name).to_owned()]).unwrap();
        IndexPaths::new(names.iter().map(path).collect()).unwrap()
    }

    fn create(store: &MetadataStore, collection: &str, name: &str, over: &[&str]) -> Created {
        let (collection, name) = (collection.parse().unwrap(), name.parse().unwrap());
        store.create_index(APP, &collection, &name, &paths(over)).unwrap()
    }

    #[test]
    fn an_index_is_declared_once_and_given_up_once() {
        let bench = Bench::new();
        let store = bench.store();
        assert_eq!(create(&store, "a.b", "one", &["x"]), Created::New);
        assert_eq!(create(&store, "a.b", "one", &["x"]), Created::Same);
        assert_eq!(create(&store, "a.b", "one", &["y"]), Created::NameTaken(paths(&["x"])));
        let taken = Created::PathsTaken("one".parse().unwrap());
        assert_eq!(create(&store, "a.b", "two", &["x"]), taken);
        assert_eq!(create(&store, "a.b", "two", &["x", "y"]), Created::New);
        assert_eq!(create(&store, "a", "one", &["x"]), Created::New, "names are of a collection");
        let found = store.indexes().unwrap().indexes;
        let found =
            found.iter().map(|(over, name)| format!("{name} {} {}", over.collection, over.paths));
        assert_eq!(found.collect::<Vec<_>>(), ["one a x", "one a.b x", "two a.b x, y"]);
        let (collection, name) = ("a.b".parse().unwrap(), "one".parse().unwrap());
        assert!(store.drop_index(APP, &collection, &name).unwrap());
        assert!(!store.drop_index(APP, &collection, &name).unwrap());
        assert_eq!(store.indexes().unwrap().indexes.len(), 2);
        assert_eq!(create(&store, "a.b", "one", &["z"]), Created::New);
    }

    #[test]
    fn a_collection_has_so_many_at_most() {
        let bench = Bench::new();
        let store = bench.store();
        for number in 0..MAX_INDEXES {
            let name = format!("n{number}");
            assert_eq!(create(&store, "c", &name, &[&name]), Created::New);
        }
        assert_eq!(create(&store, "c", "more", &["more"]), Created::TooMany(MAX_INDEXES));
    }

    #[test]
    fn an_entry_that_cannot_be_read_hides_no_others() {
        for (key, value, is_told) in [
            ("index/x/c", r#"{"indexes":{"n":[["a"]]}}"#, false),
            ("index/00000000-0000-0000-0000-000000000007", r#"{"indexes":{"n":[["a"]]}}"#, false),
            ("index/00000000-0000-0000-0000-000000000007/c", r#"{"indexes":{"n":[]}}"#, true),
            (
                "index/00000000-0000-0000-0000-000000000007/c",
                r#"{"indexes":{"n":[["_id"]]}}"#,
                true,
            ),
            ("index/00000000-0000-0000-0000-000000000007/c", "{", true),
        ] {
            let bench = Bench::new();
            let store = bench.store();
            create(&store, "other", "n", &["a"]);
            assert!(store.indexes().unwrap().unreadable.is_empty());
            store.compare_and_set(key, None, Some(value.to_owned())).unwrap();
            let declared = store.indexes().unwrap();
            assert_eq!(declared.indexes.len(), 1, "{declared:?}");
            let of_collection = (APP, "c".parse().unwrap());
            assert_eq!(declared.unreadable.contains(&of_collection), is_told, "{declared:?}");
        }
        let bench = Bench::new();
        let store = bench.store();
        let key = "index/00000000-0000-0000-0000-000000000007/c";
        store.compare_and_set(key, None, Some("{".to_owned())).unwrap();
        let (collection, name) = ("c".parse().unwrap(), "n".parse().unwrap());
        let error = store.create_index(APP, &collection, &name, &paths(&["a"])).unwrap_err();
        assert!(matches!(error, MetadataError::Journal(Error::Corrupt(_))), "{error:?}");
    }

    #[test]
    fn of_two_that_declare_at_once_both_have_seen_the_other() {
        let bench = Bench::new();
        let (one, other) = (bench.store(), bench.store());
        let created = std::thread::scope(|scope| {
            let other = scope.spawn(|| create(&other, "c", "other", &["a"]));
            [create(&one, "c", "one", &["a"]), other.join().unwrap()]
        });
        let new = created.iter().filter(|created| **created == Created::New).count();
        assert_eq!(new, 1, "{created:?}");
        assert_eq!(one.indexes().unwrap().indexes.len(), 1);
    }

    /// Written down: what is stored stays readable.
    #[test]
    fn the_form_of_an_entry_is_frozen() {
        let bench = Bench::new();
        let store = bench.store();
        create(&store, "c", "n", &["a", "b"]);
        let entry = store.get("index/00000000-0000-0000-0000-000000000007/c").unwrap().unwrap();
        assert_eq!(entry.value, r#"{"indexes":{"n":[["a"],["b"]]}}"#);
    }
}
