//! Settings in layers: file < environment < flag. Written over `toml` because none of the crates
//! for it both knows which names were possible (for "did you mean") and treats the text of an
//! environment variable as what the setting is, a number or a name, rather than as what it looks
//! like.
//!
//! Settings are a tree of tables. [`Layers`] merges what the layers say, remembers where each value
//! came from, and reads the tree as a serde type. A type that denies unknown fields gets errors
//! that name the nearest known setting. [`dump`] shows the effective settings with secrets masked.

mod deserialize;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::Value;

use deserialize::{Failure, NodeDeserializer};

/// Settings that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("read settings from '{}': {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("settings in '{}' are not valid TOML: {source}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why not.
        source: Box<toml::de::Error>,
    },
    /// There is no such setting.
    #[error("unknown setting '{key}'{origin}; {hint}")]
    Unknown {
        /// Its name, with those of the tables it is in.
        key: String,
        /// Where it was set.
        origin: OriginText,
        /// What may have been meant.
        hint: String,
    },
    /// A setting has a value that it cannot have.
    #[error("setting '{key}'{origin}: {message}")]
    Wrong {
        /// Its name, with those of the tables it is in.
        key: String,
        /// Where it was set.
        origin: OriginText,
        /// What is wrong.
        message: String,
    },
    /// Settings could not be shown.
    #[error("show the settings: {0}")]
    Dump(#[from] toml::ser::Error),
}

/// Where a setting came from, as part of a sentence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OriginText(String);

impl fmt::Display for OriginText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Clone, Debug)]
enum Origin {
    File(PathBuf),
    Environment(String),
    Flag(String),
}

impl Origin {
    /// Whether values of this origin are text, whatever the setting is.
    fn is_textual(&self) -> bool {
        !matches!(self, Origin::File(_))
    }

    fn text(&self) -> OriginText {
        OriginText(match self {
            Origin::File(path) => format!(" in '{}'", path.display()),
            Origin::Environment(name) => format!(" in environment variable {name}"),
            Origin::Flag(name) => format!(" in {name}"),
        })
    }
}

/// A tree of settings, each value with its origin.
#[derive(Clone, Debug)]
enum Node {
    Table(BTreeMap<String, Node>),
    Leaf(Value, Origin),
}

impl Node {
    fn of(value: Value, origin: &Origin) -> Node {
        match value {
            Value::Table(table) => Node::Table(
                table.into_iter().map(|(key, value)| (key, Node::of(value, origin))).collect(),
            ),
            value => Node::Leaf(value, origin.clone()),
        }
    }

    fn is_leaf(&self) -> bool {
        matches!(self, Node::Leaf(..))
    }

    /// The origin of the first value at or below.
    fn origin(&self) -> Option<&Origin> {
        match self {
            Node::Leaf(_, origin) => Some(origin),
            Node::Table(table) => table.values().find_map(Node::origin),
        }
    }

    fn at(&self, path: &[String]) -> Option<&Node> {
        path.iter().try_fold(self, |node, key| match node {
            Node::Table(table) => table.get(key),
            Node::Leaf(..) => None,
        })
    }

    /// What `upper` says wins; tables are merged key by key.
    fn merge(&mut self, upper: Node) {
        match (self, upper) {
            (Node::Table(lower), Node::Table(upper)) => {
                for (key, value) in upper {
                    match lower.get_mut(&key) {
                        Some(node) => node.merge(value),
                        None => {
                            lower.insert(key, value);
                        }
                    }
                }
            }
            (lower, upper) => *lower = upper,
        }
    }
}

/// Settings from several places. Each layer goes over those added before.
#[derive(Clone, Debug)]
pub struct Layers {
    root: Node,
    properties: Vec<(&'static str, &'static str)>,
}

impl Default for Layers {
    fn default() -> Self {
        Layers { root: Node::Table(BTreeMap::new()), properties: Vec::new() }
    }
}

impl Layers {
    /// No settings.
    pub fn new() -> Self {
        Layers::default()
    }

    /// Makes `table`, in layers added later, one of properties: its keys have dots, whether written
    /// as `"a.b"` or as `a.b`, or in the environment as `A_B`; its values are text. A plain value
    /// for the table is one for its key `main`.
    #[must_use]
    pub fn properties(mut self, table: &'static str, main: &'static str) -> Self {
        self.properties.push((table, main));
        self
    }

    /// Adds a TOML file.
    ///
    /// # Errors
    /// [`ConfigError::Read`], [`ConfigError::Syntax`].
    pub fn file(self, path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let table: toml::Table = toml::from_str(&text).map_err(|source| ConfigError::Syntax {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        Ok(self.layer(Node::of(Value::Table(table), &Origin::File(path.to_owned()))))
    }

    /// Adds the variables that start with `prefix`. The rest of a name is the setting's in
    /// capitals; `__` separates it from the table it is in. Empty variables and names in `foreign`
    /// (without the prefix), which mean something to others, are passed over.
    #[must_use]
    pub fn environment(
        self,
        prefix: &str,
        foreign: &[&str],
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        let mut layer = Node::Table(BTreeMap::new());
        for (name, value) in variables {
            let Some(key) = name.strip_prefix(prefix) else { continue };
            if key.is_empty() || value.is_empty() || foreign.contains(&key) {
                continue;
            }
            let path: Vec<String> = key.to_lowercase().split("__").map(str::to_owned).collect();
            let leaf = Node::Leaf(Value::String(value), Origin::Environment(name.clone()));
            layer.merge(self.expanded(nested(&path, leaf)));
        }
        self.layer(layer)
    }

    /// Adds what a flag says. `path` names the tables and the setting; `value` is read as the
    /// setting is: lists are separated by commas.
    #[must_use]
    pub fn flag(self, flag: &str, path: &[&str], value: impl Into<String>) -> Self {
        let path: Vec<String> = path.iter().map(|&key| key.to_owned()).collect();
        let leaf = Node::Leaf(Value::String(value.into()), Origin::Flag(flag.to_owned()));
        self.layer(nested(&path, leaf))
    }

    /// Adds what a flag says that was given several times: the items of a list.
    #[must_use]
    pub fn flags(self, flag: &str, path: &[&str], values: Vec<String>) -> Self {
        let path: Vec<String> = path.iter().map(|&key| key.to_owned()).collect();
        let items = Value::Array(values.into_iter().map(Value::String).collect());
        self.layer(nested(&path, Node::Leaf(items, Origin::Flag(flag.to_owned()))))
    }

    /// Reads the settings.
    ///
    /// # Errors
    /// [`ConfigError::Unknown`], [`ConfigError::Wrong`].
    pub fn load<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        T::deserialize(NodeDeserializer::new(&self.root)).map_err(|failure| self.explain(failure))
    }

    fn layer(mut self, upper: Node) -> Self {
        let upper = self.expanded(upper);
        self.root.merge(upper);
        self
    }

    fn expanded(&self, mut layer: Node) -> Node {
        if let Node::Table(tables) = &mut layer {
            for (name, main) in &self.properties {
                if let Some(node) = tables.remove(*name) {
                    let mut properties = BTreeMap::new();
                    flatten(if node.is_leaf() { main } else { "" }, node, &mut properties);
                    tables.insert((*name).to_owned(), Node::Table(properties));
                }
            }
        }
        layer
    }

    fn explain(&self, failure: Failure) -> ConfigError {
        let Failure { path, reason } = failure;
        let key = path.join(".");
        let origin =
            self.root.at(&path).and_then(Node::origin).map(Origin::text).unwrap_or_default();
        match reason {
            deserialize::Reason::Unknown { known } => {
                let name = path.last().map(String::as_str).unwrap_or_default();
                ConfigError::Unknown { origin, hint: hint(name, known), key }
            }
            deserialize::Reason::Message(message) => ConfigError::Wrong { key, origin, message },
        }
    }
}

/// Puts a tree of properties into one table, under dotted keys.
fn flatten(key: &str, node: Node, into: &mut BTreeMap<String, Node>) {
    match node {
        Node::Table(table) => {
            for (step, node) in table {
                let key = if key.is_empty() { step } else { format!("{key}.{step}") };
                flatten(&key, node, into);
            }
        }
        Node::Leaf(value, origin) => {
            let key = match origin {
                Origin::Environment(_) => key.replace('_', "."),
                _ => key.to_owned(),
            };
            let value = match value {
                Value::Integer(_) | Value::Float(_) | Value::Boolean(_) => {
                    Value::String(value.to_string())
                }
                value => value,
            };
            into.insert(key, Node::Leaf(value, origin));
        }
    }
}

fn nested(path: &[String], leaf: Node) -> Node {
    path.iter().rev().fold(leaf, |node, key| Node::Table(BTreeMap::from([(key.clone(), node)])))
}

fn hint(name: &str, known: &[&str]) -> String {
    let similarity = |known: &str| strsim::jaro_winkler(name, known);
    let nearest = known.iter().max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
    match nearest {
        None => "no settings are known here".to_owned(),
        Some(nearest) if similarity(nearest) > 0.7 => format!("did you mean '{nearest}'?"),
        Some(nearest) => {
            format!("the nearest known one is '{nearest}', of: {}", known.join(", "))
        }
    }
}

/// Parts of the names of settings that hold secrets.
const SECRET: [&str; 4] = ["password", "secret", "token", ".pem"];

/// What stands for a secret in [`dump`].
pub const MASK: &str = "********";

/// The settings as TOML. Values whose name says that they are secret are masked.
///
/// # Errors
/// [`ConfigError::Dump`] if they cannot be written as TOML.
pub fn dump<T: Serialize>(settings: &T) -> Result<String, ConfigError> {
    let mut value = Value::try_from(settings)?;
    mask(&mut value);
    Ok(toml::to_string_pretty(&value)?)
}

fn mask(value: &mut Value) {
    match value {
        Value::Table(table) => {
            for (key, value) in table.iter_mut() {
                let secret = SECRET.iter().any(|part| key.to_lowercase().contains(part));
                match value {
                    Value::Table(_) | Value::Array(_) => mask(value),
                    value if secret => *value = Value::String(MASK.to_owned()),
                    _ => {}
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(mask),
        _ => {}
    }
}
