//! Reads a tree of settings as a serde type, and says where it failed.

use std::fmt;

use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{self, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;
use toml::Value;

use super::{Node, Origin};

/// Where and why a tree could not be read.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) path: Vec<String>,
    pub(super) reason: Reason,
}

#[derive(Debug)]
pub(super) enum Reason {
    Unknown { known: &'static [&'static str] },
    Message(String),
}

impl Failure {
    fn within(mut self, key: &str) -> Self {
        self.path.insert(0, key.to_owned());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.path.join("."), self.reason)
    }
}

impl std::error::Error for Failure {}

impl de::Error for Failure {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Failure { path: Vec::new(), reason: Reason::Message(message.to_string()) }
    }

    fn unknown_field(field: &str, known: &'static [&'static str]) -> Self {
        Failure { path: vec![field.to_owned()], reason: Reason::Unknown { known } }
    }

    fn missing_field(field: &'static str) -> Self {
        let reason = Reason::Message("it is required but not set".to_owned());
        Failure { path: vec![field.to_owned()], reason }
    }
}

/// Deserializes a [`Node`].
pub(super) struct NodeDeserializer<'a>(&'a Node);

impl<'a> NodeDeserializer<'a> {
    pub(super) fn new(node: &'a Node) -> Self {
        NodeDeserializer(node)
    }

    /// The text of a value from a place where all values are text.
    fn text(&self) -> Option<&'a str> {
        match self.0 {
            Node::Leaf(Value::String(text), origin) if origin.is_textual() => Some(text),
            _ => None,
        }
    }

    /// Text as the value that TOML would read there.
    fn parsed<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        let Some(text) = self.text() else { return self.any(visitor) };
        if let Ok(number) = text.trim().parse::<i64>() {
            visitor.visit_i64(number)
        } else if let Ok(number) = text.trim().parse::<f64>() {
            visitor.visit_f64(number)
        } else if let Ok(truth) = text.trim().parse::<bool>() {
            visitor.visit_bool(truth)
        } else {
            visitor.visit_str(text)
        }
    }

    fn any<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match self.0 {
            Node::Table(_) => visitor.visit_map(self.entries()?),
            Node::Leaf(value, origin) => match value {
                Value::String(text) => visitor.visit_str(text),
                Value::Integer(number) => visitor.visit_i64(*number),
                Value::Float(number) => visitor.visit_f64(*number),
                Value::Boolean(truth) => visitor.visit_bool(*truth),
                Value::Datetime(time) => visitor.visit_str(&time.to_string()),
                Value::Array(items) => visitor.visit_seq(Items::new(items, origin)),
                Value::Table(_) => visitor.visit_map(Entries::of(&Node::of(value.clone(), origin))),
            },
        }
    }

    fn entries(&self) -> Result<Entries, Failure> {
        match self.0 {
            node @ Node::Table(_) => Ok(Entries::of(node)),
            Node::Leaf(value, _) => {
                Err(de::Error::custom(format!("this is a table of settings, not {}", kind(value))))
            }
        }
    }
}

fn kind(value: &Value) -> String {
    match value {
        Value::String(_) => "text".to_owned(),
        value => format!("{} {value}", value.type_str()),
    }
}

macro_rules! numbers {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
            self.parsed(visitor)
        }
    )*};
}

impl<'de> de::Deserializer<'de> for NodeDeserializer<'_> {
    type Error = Failure;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.any(visitor)
    }

    numbers! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_f32 deserialize_f64
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Failure> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        match self.0 {
            Node::Leaf(Value::String(text), _) => {
                let name: StrDeserializer<'_, Failure> = text.as_str().into_deserializer();
                visitor.visit_enum(name)
            }
            _ => visitor.visit_enum(MapAccessDeserializer::new(self.entries()?)),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        let Some(text) = self.text() else { return self.any(visitor) };
        let items: Vec<Value> = text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(|item| Value::String(item.to_owned()))
            .collect();
        let Node::Leaf(_, origin) = self.0 else { return self.any(visitor) };
        visitor.visit_seq(Items::new(&items, origin))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_map(self.entries()?)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        visitor.visit_map(self.entries()?)
    }

    forward_to_deserialize_any! {
        i128 u128 char str string bytes byte_buf unit unit_struct tuple tuple_struct identifier
        ignored_any
    }
}

/// The entries of a table.
struct Entries {
    rest: std::vec::IntoIter<(String, Node)>,
    value: Option<(String, Node)>,
}

impl Entries {
    fn of(node: &Node) -> Self {
        let entries: Vec<_> = match node {
            Node::Table(table) => {
                table.iter().map(|(key, node)| (key.clone(), node.clone())).collect()
            }
            Node::Leaf(..) => Vec::new(),
        };
        Entries { rest: entries.into_iter(), value: None }
    }
}

impl<'de> MapAccess<'de> for Entries {
    type Error = Failure;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Failure> {
        self.value = self.rest.next();
        let Some((key, _)) = &self.value else { return Ok(None) };
        let key: StrDeserializer<'_, Failure> = key.as_str().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Failure> {
        let (key, node) = self.value.take().expect("serde asks for a key before its value");
        seed.deserialize(NodeDeserializer::new(&node)).map_err(|failure| failure.within(&key))
    }
}

/// The items of a list.
struct Items {
    rest: std::vec::IntoIter<Node>,
}

impl Items {
    fn new(items: &[Value], origin: &Origin) -> Self {
        let items: Vec<Node> = items.iter().map(|item| Node::of(item.clone(), origin)).collect();
        Items { rest: items.into_iter() }
    }
}

impl<'de> SeqAccess<'de> for Items {
    type Error = Failure;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Failure> {
        let Some(item) = self.rest.next() else { return Ok(None) };
        seed.deserialize(NodeDeserializer::new(&item)).map(Some)
    }
}
