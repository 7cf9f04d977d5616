//! The indexes that are declared: an entry each, named by app, collection and index.

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_core::ids::{AppId, Collection};
use anabranch_core::query::{IndexName, IndexOver, IndexPaths};
use anabranch_runtime::tasks::Shutdown;
use anabranch_schemas::topics::ClusterName;
use serde::{Deserialize, Serialize};

use super::follow::follow;
use super::{MetadataError, MetadataStore};
use crate::error::Error;
use crate::log::Journal;

/// How many indexes a collection has at most: each makes every write of a document larger.
pub const MAX_INDEXES: usize = 16;

/// What the names of all entries begin with.
const PREFIX: &str = "index/";

/// The name of each index, by what it is over.
pub type DeclaredIndexes = BTreeMap<IndexOver, IndexName>;

/// The value of an entry.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Declared {
    paths: IndexPaths,
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
    /// The collection has [`MAX_INDEXES`] already.
    TooMany,
}

impl MetadataStore {
    /// Declares an index, unless there is one that is in its way.
    ///
    /// # Errors
    /// As [`MetadataStore::compare_and_set`], except that others may do the same at the same time.
    pub fn create_index(
        &self,
        app: AppId,
        collection: &Collection,
        name: &IndexName,
        paths: &IndexPaths,
    ) -> Result<Created, MetadataError> {
        loop {
            let all = self.indexes_of(&collection_prefix(app, collection))?;
            for (over, other) in &all {
                match (other == name, over.paths == *paths) {
                    (true, true) => return Ok(Created::Same),
                    (true, false) => return Ok(Created::NameTaken(over.paths.clone())),
                    (false, true) => return Ok(Created::PathsTaken(other.clone())),
                    (false, false) => {}
                }
            }
            if all.len() >= MAX_INDEXES {
                return Ok(Created::TooMany);
            }
            let declared = Declared { paths: paths.clone() };
            let json = serde_json::to_string(&declared).expect("plain fields always encode");
            match self.compare_and_set(&key(app, collection, name), None, Some(json)) {
                Ok(_) => return Ok(Created::New),
                Err(MetadataError::Conflict { .. }) => {}
                Err(error) => return Err(error),
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
        let key = key(app, collection, name);
        loop {
            let Some(entry) = self.get(&key)? else { return Ok(false) };
            match self.compare_and_set(&key, Some(entry.version), None) {
                Ok(_) => return Ok(true),
                Err(MetadataError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// All indexes that are declared.
    ///
    /// # Errors
    /// As [`MetadataStore::list`]; [`Error::Corrupt`] if an entry is no index.
    pub fn indexes(&self) -> Result<DeclaredIndexes, MetadataError> {
        self.indexes_of(PREFIX)
    }

    fn indexes_of(&self, prefix: &str) -> Result<DeclaredIndexes, MetadataError> {
        let entries = self.list(prefix)?.into_iter().map(|(key, entry)| {
            let corrupt = |why: &dyn std::fmt::Display| {
                Error::Corrupt(format!("the entry '{key}' declares no index: {why}"))
            };
            let (app, collection, name) =
                split(&key).ok_or_else(|| corrupt(&"its name is of another form"))?;
            let declared: Declared =
                serde_json::from_str(&entry.value).map_err(|error| corrupt(&error))?;
            Ok((IndexOver { app, collection, paths: declared.paths }, name))
        });
        entries.collect()
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

fn collection_prefix(app: AppId, collection: &Collection) -> String {
    format!("{PREFIX}{app}/{collection}/")
}

fn key(app: AppId, collection: &Collection, name: &IndexName) -> String {
    format!("{}{name}", collection_prefix(app, collection))
}

fn split(key: &str) -> Option<(AppId, Collection, IndexName)> {
    let (app, rest) = key.strip_prefix(PREFIX)?.split_once('/')?;
    let (collection, name) = rest.rsplit_once('/')?;
    Some((app.parse().ok()?, collection.parse().ok()?, name.parse().ok()?))
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
        assert_eq!(create(&store, "a/b", "one", &["x"]), Created::New);
        assert_eq!(create(&store, "a/b", "one", &["x"]), Created::Same);
        assert_eq!(create(&store, "a/b", "one", &["y"]), Created::NameTaken(paths(&["x"])));
        let taken = Created::PathsTaken("one".parse().unwrap());
        assert_eq!(create(&store, "a/b", "two", &["x"]), taken);
        assert_eq!(create(&store, "a/b", "two", &["x", "y"]), Created::New);
        assert_eq!(create(&store, "a", "one", &["x"]), Created::New, "names are of a collection");
        let found: Vec<_> = store.indexes().unwrap().into_iter().collect();
        let found =
            found.iter().map(|(over, name)| format!("{name} {} {}", over.collection, over.paths));
        assert_eq!(found.collect::<Vec<_>>(), ["one a x", "one a/b x", "two a/b x, y"]);
        let (collection, name) = ("a/b".parse().unwrap(), "one".parse().unwrap());
        assert!(store.drop_index(APP, &collection, &name).unwrap());
        assert!(!store.drop_index(APP, &collection, &name).unwrap());
        assert_eq!(store.indexes().unwrap().len(), 2);
        assert_eq!(create(&store, "a/b", "one", &["z"]), Created::New);
    }

    #[test]
    fn a_collection_has_so_many_at_most() {
        let bench = Bench::new();
        let store = bench.store();
        for number in 0..MAX_INDEXES {
            let name = format!("n{number}");
            assert_eq!(create(&store, "c", &name, &[&name]), Created::New);
        }
        assert_eq!(create(&store, "c", "more", &["more"]), Created::TooMany);
    }

    #[test]
    fn what_is_no_index_is_corrupt() {
        for (key, value) in [
            ("index/x/c/n", r#"{"paths":[["a"]]}"#),
            ("index/00000000-0000-0000-0000-000000000007/c", r#"{"paths":[["a"]]}"#),
            ("index/00000000-0000-0000-0000-000000000007/c/n", r#"{"paths":[]}"#),
            ("index/00000000-0000-0000-0000-000000000007/c/n", "{"),
        ] {
            let bench = Bench::new();
            let store = bench.store();
            store.compare_and_set(key, None, Some(value.to_owned())).unwrap();
            let error = store.indexes().unwrap_err();
            assert!(matches!(error, MetadataError::Journal(Error::Corrupt(_))), "{error:?}");
        }
    }

    /// Written down: what is stored stays readable.
    #[test]
    fn the_form_of_an_entry_is_frozen() {
        let bench = Bench::new();
        let store = bench.store();
        create(&store, "c", "n", &["a", "b"]);
        let entry = store.get("index/00000000-0000-0000-0000-000000000007/c/n").unwrap().unwrap();
        assert_eq!(entry.value, r#"{"paths":[["a"],["b"]]}"#);
    }
}
