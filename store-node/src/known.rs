//! What a node knew of its cluster when it ran last: with it the node starts while the log, and so
//! the metadata store, cannot be reached.
//!
//! A file in the data directory, written anew beside the old one and put in its place, so that after
//! a crash there is the old or the new one. It is written once the store is open, before anything is
//! applied; a node whose store is new and that has none waits for the log.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anabranch_core::cluster::Configuration;
use anabranch_journal::metadata::ClusterIdentity;
use serde::{Deserialize, Serialize};

use crate::error::Error;

const FILE: &str = "cluster.json";
const NEW_FILE: &str = "cluster.json.new";
const VERSION: u32 = 1;

/// What a node knew of its cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    version: u32,
    /// Whose log it applies.
    pub identity: ClusterIdentity,
    /// The configuration in force, if one was declared.
    pub configuration: Option<Configuration>,
}

impl Known {
    pub(crate) fn new(identity: ClusterIdentity, configuration: Option<Configuration>) -> Self {
        Known { version: VERSION, identity, configuration }
    }

    /// What is in a data directory; `None` if no node has run there.
    ///
    /// # Errors
    /// If it cannot be read or makes no sense.
    pub fn read(data_dir: &Path) -> Result<Option<Self>, Error> {
        let file = data_dir.join(FILE);
        let failed = |why: String| Error::DataDir(format!("read '{}': {why}", file.display()));
        let text = match fs::read(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error.to_string())),
        };
        let known: Known =
            serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))?;
        if known.version != VERSION {
            let found = known.version;
            return Err(failed(format!("version {found} is of a newer version of anabranch")));
        }
        Ok(Some(known))
    }

    /// Puts it into a data directory.
    pub(crate) fn write(&self, data_dir: &Path) -> Result<(), Error> {
        let write = || -> std::io::Result<()> {
            let mut file = File::create(data_dir.join(NEW_FILE))?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_all()?;
            fs::rename(data_dir.join(NEW_FILE), data_dir.join(FILE))?;
            File::open(data_dir)?.sync_all()
        };
        write().map_err(|error| {
            Error::DataDir(format!("write '{}': {error}", data_dir.join(FILE).display()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gossip::doubles::configuration;

    fn identity() -> ClusterIdentity {
        let text = r#"{"name":"east","actor":"00000000-0000-0000-0000-000000000007",
            "slices":16,"created_ms":1}"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_was_known_last_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Known::read(dir.path()).unwrap(), None);
        for configuration in [None, Some(configuration(3, &[&["a"], &["b"]], None))] {
            let known = Known::new(identity(), configuration);
            known.write(dir.path()).unwrap();
            assert_eq!(Known::read(dir.path()).unwrap(), Some(known));
        }
    }

    #[test]
    fn what_a_crash_leaves_beside_it_does_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(NEW_FILE), "half of").unwrap();
        assert_eq!(Known::read(dir.path()).unwrap(), None);
        let known = Known::new(identity(), None);
        known.write(dir.path()).unwrap();
        assert_eq!(Known::read(dir.path()).unwrap(), Some(known));
    }

    #[test]
    fn what_makes_no_sense_or_is_of_a_newer_version_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let newer = Known { version: VERSION + 1, ..Known::new(identity(), None) };
        for text in [b"{}".to_vec(), serde_json::to_vec(&newer).unwrap()] {
            fs::write(dir.path().join(FILE), text).unwrap();
            let error = Known::read(dir.path()).unwrap_err().to_string();
            assert!(error.contains(FILE), "{error}");
        }
    }
}
