//! Names of a cluster's topics.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A cluster's name: the first part of the names of its topics. 1 to 64 characters: a lower-case
/// letter first, then lower-case letters, digits and `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterName(String);

/// A cluster name that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "cluster name '{0}' must be 1 to 64 characters: a lower-case letter first, then lower-case \
     letters, digits or '-'"
)]
pub struct ClusterNameError(String);

impl ClusterName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The mutations of rounds, by slice.
    pub fn rounds(&self) -> String {
        self.topic("rounds")
    }

    /// Commit records, one partition: their order is the order of the cluster.
    pub fn txns(&self) -> String {
        self.topic("txns")
    }

    /// Metadata, compacted.
    pub fn meta(&self) -> String {
        self.topic("meta")
    }

    /// Positions, compacted.
    pub fn cursors(&self) -> String {
        self.topic("cursors")
    }

    /// Change events and resolved marks, by slice.
    pub fn changes(&self) -> String {
        self.topic("changes")
    }

    /// What could not be applied from remote clusters, with the reason.
    pub fn dead_letters(&self) -> String {
        self.topic("dead-letters")
    }

    fn topic(&self, name: &str) -> String {
        format!("{}.{name}", self.0)
    }
}

impl FromStr for ClusterName {
    type Err = ClusterNameError;

    fn from_str(name: &str) -> Result<Self, ClusterNameError> {
        let starts = name.chars().next().is_some_and(|first| first.is_ascii_lowercase());
        let continues =
            name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if starts && continues && name.len() <= 64 {
            Ok(ClusterName(name.to_owned()))
        } else {
            Err(ClusterNameError(name.to_owned()))
        }
    }
}

impl TryFrom<String> for ClusterName {
    type Error = ClusterNameError;

    fn try_from(name: String) -> Result<Self, ClusterNameError> {
        name.parse()
    }
}

impl From<ClusterName> for String {
    fn from(name: ClusterName) -> String {
        name.0
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_built_from_the_cluster() {
        let east: ClusterName = "east".parse().unwrap();
        assert_eq!(east.rounds(), "east.rounds");
        assert_eq!(east.changes(), "east.changes");
    }

    #[test]
    fn a_dot_would_let_clusters_share_topics() {
        for name in ["", "a.b", "East", "1a", "a_b"] {
            assert!(name.parse::<ClusterName>().is_err(), "{name}");
        }
    }
}
