//! What an operator declares: resources, as JSON text in the metadata store and over HTTP.
//!
//! ```json
//! {"apiVersion": "anabranch/v1", "kind": "Replication",
//!  "metadata": {"name": "japanese-cars", "app": "2164bef3-37c0-489c-9ac6-c94b034525d7"},
//!  "spec": {"connections": ["west.example:4040"],
//!           "subscriptions": {"queriesByCollection": {"cars": ["Origin = 'Japan'"]}}}}
//! ```
//!
//! A [`Resource`] that was read is valid: [`Resource::from_value`] refuses what no service could act
//! upon, and names the key to blame and, for one that it does not know, the nearest that it does.
//! The kinds of this version are [`Kind::Cluster`], of which a cluster has one, named like itself,
//! and [`Kind::Replication`] and [`Kind::Key`], which belong to an app.

mod check;
mod key;
#[cfg(test)]
mod tests;
mod tokens;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::json;

use anabranch_core::ErrorKind;
use anabranch_core::cluster::ClusterSpec;
use anabranch_core::ids::{AppId, Collection};
use anabranch_core::query::{Predicate, QueryError, parse_filter};

use crate::topics::ClusterName;

pub use key::{ApiKey, Credential, KeySpec, OTHERS, PermissionScope, PermissionSpec};
pub use tokens::{
    Base64Url, EdwardsCurve, EllipticCurve, Jwk, JwkSet, PublicKey, SignedWith, TokenAlgorithm,
    TokenIssuer, TokenSecret,
};

/// The `apiVersion` of every resource.
pub const API_VERSION: &str = "anabranch/v1";

/// A resource that cannot be used: which part of it, why, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct ResourceError {
    /// The part to blame, dotted, such as `spec.onLeave`.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl ResourceError {
    /// Always `Invalid`: the same resource is refused again.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

/// The kinds of resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Which store nodes a cluster has, and what each holds.
    Cluster,
    /// What a cluster wants of an app's documents elsewhere, and whom it asks.
    Replication,
    /// Who may use the HTTP API of an app, and what for.
    Key,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 3] = [Kind::Cluster, Kind::Replication, Kind::Key];

    /// The word in a resource's `kind`.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Cluster => "Cluster",
            Kind::Replication => "Replication",
            Kind::Key => "Key",
        }
    }

    /// What the keys of this kind start with in the metadata store.
    pub fn prefix(self) -> &'static str {
        match self {
            Kind::Cluster => "cluster/",
            Kind::Replication => "replication/",
            Kind::Key => "key/",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = ResourceError;

    /// Reads a kind in any case, in the singular or the plural.
    fn from_str(text: &str) -> Result<Self, ResourceError> {
        let lower = text.to_ascii_lowercase();
        let singular = lower.strip_suffix('s').unwrap_or(&lower);
        Kind::ALL
            .into_iter()
            .find(|kind| kind.as_str().eq_ignore_ascii_case(singular))
            .ok_or_else(|| check::unknown_word("kind", text, &Kind::ALL.map(Kind::as_str)))
    }
}

/// A resource's name within its app and kind: 1 to 63 characters, a lower-case letter or digit
/// first and last, `-` and `.` between.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ResourceName(String);

impl ResourceName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ResourceName {
    type Err = ResourceError;

    fn from_str(name: &str) -> Result<Self, ResourceError> {
        let alphanumeric = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let ends = name.chars().next().is_some_and(|c| alphanumeric(&c))
            && name.chars().next_back().is_some_and(|c| alphanumeric(&c));
        if ends && name.len() <= 63 && name.chars().all(|c| alphanumeric(&c) || "-.".contains(c)) {
            Ok(ResourceName(name.to_owned()))
        } else {
            Err(ResourceError {
                path: "metadata.name".to_owned(),
                message: format!("'{}' cannot be a name", check::shorten(name)),
                hint: Some(
                    "a name has 1 to 63 lower-case letters and digits, with '-' and '.' between"
                        .to_owned(),
                ),
            })
        }
    }
}

impl TryFrom<String> for ResourceName {
    type Error = ResourceError;

    fn try_from(name: String) -> Result<Self, ResourceError> {
        name.parse()
    }
}

impl From<ResourceName> for String {
    fn from(name: ResourceName) -> String {
        name.0
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names a resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceId {
    /// The cluster of this name.
    Cluster(ClusterName),
    /// A replication of an app.
    Replication(AppId, ResourceName),
    /// A key of an app.
    Key(AppId, ResourceName),
}

impl ResourceId {
    /// The kind of what it names.
    pub fn kind(&self) -> Kind {
        match self {
            ResourceId::Cluster(_) => Kind::Cluster,
            ResourceId::Replication(..) => Kind::Replication,
            ResourceId::Key(..) => Kind::Key,
        }
    }

    /// The key in the metadata store, which is also the path below `/api/v1/resources/`.
    pub fn key(&self) -> String {
        let prefix = self.kind().prefix();
        match self {
            ResourceId::Cluster(name) => format!("{prefix}{name}"),
            ResourceId::Replication(app, name) | ResourceId::Key(app, name) => {
                format!("{prefix}{app}/{name}")
            }
        }
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind();
        match self {
            ResourceId::Cluster(name) => write!(f, "{kind} {name}"),
            ResourceId::Replication(app, name) | ResourceId::Key(app, name) => {
                write!(f, "{kind} {name} of app {app}")
            }
        }
    }
}

/// A resource of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Which store nodes a cluster has, and what each holds.
    Cluster {
        /// The cluster.
        name: ClusterName,
        /// What it declares.
        spec: ClusterSpec,
    },
    /// What a cluster wants of an app's documents elsewhere, and whom it asks.
    Replication {
        /// Whose documents.
        app: AppId,
        /// Its name within its app.
        name: ResourceName,
        /// What it declares.
        spec: ReplicationSpec,
    },
    /// Who may use the HTTP API of an app, and what for.
    Key {
        /// Whose documents.
        app: AppId,
        /// Its name within its app.
        name: ResourceName,
        /// What it declares.
        spec: KeySpec,
    },
}

/// What this cluster wants of an app's documents elsewhere, and whom it asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicationSpec {
    /// Where the other cluster listens, `host:port` each, tried in turn. Empty: the other dials.
    pub connections: Vec<String>,
    /// What this cluster wants.
    pub subscriptions: Subscriptions,
    /// What becomes of a document that leaves what this cluster wants.
    pub on_leave: OnLeave,
}

/// What a cluster wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Subscriptions {
    /// Conditions by collection; a document is wanted if one of its collection's holds. Nothing
    /// is wanted of other collections.
    pub queries_by_collection: BTreeMap<Collection, Vec<String>>,
}

impl Subscriptions {
    /// The conditions, parsed.
    pub fn predicates(&self) -> Result<BTreeMap<Collection, Vec<Predicate>>, QueryError> {
        self.queries_by_collection
            .iter()
            .map(|(collection, texts)| {
                let predicates = texts.iter().map(|text| parse_filter(text));
                Ok((collection.clone(), predicates.collect::<Result<_, _>>()?))
            })
            .collect()
    }
}

/// What a receiver does with a document that left what it wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnLeave {
    /// Forgets it.
    #[default]
    Purge,
    /// Keeps it as it last was.
    Keep,
}

impl Resource {
    /// Its name.
    pub fn id(&self) -> ResourceId {
        match self {
            Resource::Cluster { name, .. } => ResourceId::Cluster(name.clone()),
            Resource::Replication { app, name, .. } => ResourceId::Replication(*app, name.clone()),
            Resource::Key { app, name, .. } => ResourceId::Key(*app, name.clone()),
        }
    }

    /// Reads JSON text; see [`Resource::from_value`].
    pub fn from_json(text: &[u8]) -> Result<Self, ResourceError> {
        let value = serde_json::from_slice(text).map_err(|error| ResourceError {
            path: "resource".to_owned(),
            message: format!("not JSON: {error}"),
            hint: None,
        })?;
        Resource::from_value(&value)
    }

    /// Reads and checks a resource. A `status` is left out: it is computed, never declared.
    pub fn from_value(value: &serde_json::Value) -> Result<Self, ResourceError> {
        check::resource(value)
    }

    /// As JSON.
    pub fn to_value(&self) -> serde_json::Value {
        let (metadata, spec) = match self {
            Resource::Cluster { name, spec } => (json!({"name": name}), json!(spec)),
            Resource::Replication { app, name, spec } => {
                (json!({"name": name, "app": app}), json!(spec))
            }
            Resource::Key { app, name, spec } => (json!({"name": name, "app": app}), json!(spec)),
        };
        json!({
            "apiVersion": API_VERSION,
            "kind": self.id().kind().as_str(),
            "metadata": metadata,
            "spec": spec,
        })
    }

    /// As JSON text.
    pub fn to_json(&self) -> String {
        self.to_value().to_string()
    }
}
