//! The CRDT state of a document as protobuf (`proto/state.proto`), behind a byte for the version.
//!
//! Stamps and actors are named once and referred to by number: most documents have a handful of
//! stamps on many fields.

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message;
use uuid::Uuid;

use anabranch_core::document::{
    Counter, Document, Field, Fields, Register, Share, Stamp, VersionVector,
};
use anabranch_core::hlc::Hlc;
use anabranch_core::ids::ActorId;
use anabranch_core::{ErrorKind, Value};

#[allow(missing_docs, clippy::all, unreachable_pub)]
mod wire {
    tonic::include_proto!("anabranch.state.v1");
}

/// The version of the encoding, its first byte.
const VERSION: u8 = 1;

/// Bytes that are not a document's state.
#[derive(Debug, thiserror::Error)]
#[error("broken document state: {0}")]
pub struct StateError(String);

impl StateError {
    /// Always [`ErrorKind::Corrupt`].
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Corrupt
    }
}

/// The bytes of a state.
pub fn encode(document: &Document) -> Bytes {
    let Document { versions, updated, deleted, generation, fields } = document;
    let mut names = Names::default();
    let message = wire::Document {
        versions: versions
            .iter()
            .map(|(actor, sequence)| wire::Version { actor: names.actor(actor), sequence })
            .collect(),
        updated: names.stamp(*updated),
        deleted: names.stamp(*deleted),
        generation: names.stamp(*generation),
        fields: names.fields(fields),
        actors: names.actors,
        stamps: names.stamps,
    };
    let mut bytes = Vec::with_capacity(1 + message.encoded_len());
    bytes.push(VERSION);
    message.encode(&mut bytes).expect("a vector grows");
    bytes.into()
}

/// The state that `bytes` hold.
pub fn decode(bytes: &[u8]) -> Result<Document, StateError> {
    let broken = |reason: &str| StateError(reason.to_owned());
    let body = match bytes.split_first() {
        Some((&VERSION, body)) => body,
        Some((version, _)) => return Err(StateError(format!("unknown version {version}"))),
        None => return Err(broken("no bytes")),
    };
    let message = wire::Document::decode(body).map_err(|error| StateError(error.to_string()))?;
    let wire::Document { actors, stamps, versions, updated, deleted, generation, fields } = message;
    let actors = actors
        .iter()
        .map(|actor| Uuid::from_slice(actor).map(ActorId).map_err(|_| broken("an actor")))
        .collect::<Result<Vec<_>, _>>()?;
    let lookup = Lookup {
        stamps: stamps
            .iter()
            .map(|stamp| {
                let actor = actor(&actors, stamp.actor)?;
                Ok(Stamp { hlc: Hlc(stamp.hlc), actor, sequence: stamp.sequence })
            })
            .collect::<Result<_, StateError>>()?,
        actors,
    };
    let versions = versions
        .iter()
        .map(|version| Ok((actor(&lookup.actors, version.actor)?, version.sequence)))
        .collect::<Result<VersionVector, StateError>>()?;
    Ok(Document {
        versions,
        updated: lookup.stamp(updated)?,
        deleted: lookup.stamp(deleted)?,
        generation: lookup.stamp(generation)?,
        fields: lookup.fields(fields)?,
    })
}

fn actor(actors: &[ActorId], index: u32) -> Result<ActorId, StateError> {
    let actor = usize::try_from(index).ok().and_then(|index| actors.get(index));
    actor.copied().ok_or_else(|| StateError("an actor that is not listed".to_owned()))
}

/// Numbers for actors and stamps, given out while a state is written.
#[derive(Default)]
struct Names {
    actors: Vec<Bytes>,
    stamps: Vec<wire::Stamp>,
    actor_numbers: HashMap<ActorId, u32>,
    /// Few, and mostly the one used last: a list beats a map.
    stamp_numbers: Vec<(Stamp, u32)>,
}

impl Names {
    fn actor(&mut self, actor: ActorId) -> u32 {
        *self.actor_numbers.entry(actor).or_insert_with(|| {
            self.actors.push(Bytes::copy_from_slice(actor.0.as_bytes()));
            number(self.actors.len() - 1)
        })
    }

    fn stamp(&mut self, stamp: Option<Stamp>) -> u32 {
        let Some(stamp) = stamp else { return 0 };
        let known = self.stamp_numbers.iter().rev().find(|(known, _)| *known == stamp);
        if let Some((_, number)) = known {
            return *number;
        }
        let actor = self.actor(stamp.actor);
        self.stamps.push(wire::Stamp { hlc: stamp.hlc.0, actor, sequence: stamp.sequence });
        let number = number(self.stamps.len());
        self.stamp_numbers.push((stamp, number));
        number
    }

    fn fields(&mut self, fields: &Fields) -> Vec<wire::Field> {
        fields.iter().map(|(name, field)| self.field(name, field)).collect()
    }

    fn field(&mut self, name: &str, field: &Field) -> wire::Field {
        let Field { register, map, counter, fields } = field;
        let value = register.as_ref().and_then(|register| register.value.as_ref());
        wire::Field {
            name: name.to_owned(),
            assigned: self.stamp(register.as_ref().map(|register| register.stamp)),
            value: value.map(encode_value),
            map: self.stamp(*map),
            counter: counter.as_ref().map(|counter| self.counter(counter)),
            fields: self.fields(fields),
        }
    }

    fn counter(&mut self, counter: &Counter) -> wire::Counter {
        let Counter { base, stamp, shares } = counter;
        wire::Counter {
            base: self.stamp(*base),
            stamp: self.stamp(Some(*stamp)),
            shares: shares
                .iter()
                .map(|(actor, Share { added, subtracted })| wire::Share {
                    actor: self.actor(*actor),
                    added: *added,
                    subtracted: *subtracted,
                })
                .collect(),
        }
    }
}

fn number(index: usize) -> u32 {
    u32::try_from(index).expect("a document of a few MiB has fewer stamps")
}

fn encode_value(value: &Value) -> wire::Value {
    use wire::value::Kind;
    let kind = match value {
        Value::Null => Kind::Null(true),
        Value::Bool(value) => Kind::Boolean(*value),
        Value::Int(value) => Kind::Integer(*value),
        Value::Float(value) => Kind::Number(*value),
        Value::String(value) => Kind::Text(value.clone()),
        Value::Array(_) | Value::Object(_) => Kind::Array(value.to_json()),
    };
    wire::Value { kind: Some(kind) }
}

fn decode_value(value: wire::Value) -> Result<Value, StateError> {
    use wire::value::Kind;
    match value.kind {
        Some(Kind::Null(_)) => Ok(Value::Null),
        Some(Kind::Boolean(value)) => Ok(Value::Bool(value)),
        Some(Kind::Integer(value)) => Ok(Value::Int(value)),
        Some(Kind::Number(value)) => Ok(Value::Float(value)),
        Some(Kind::Text(value)) => Ok(Value::String(value)),
        Some(Kind::Array(json)) => {
            Value::from_json(json.as_bytes()).map_err(|error| StateError(error.to_string()))
        }
        None => Err(StateError("a value of an unknown kind".to_owned())),
    }
}

/// Actors and stamps by number, while a state is read.
struct Lookup {
    actors: Vec<ActorId>,
    stamps: Vec<Stamp>,
}

impl Lookup {
    fn stamp(&self, number: u32) -> Result<Option<Stamp>, StateError> {
        let Some(index) = number.checked_sub(1) else { return Ok(None) };
        let stamp = usize::try_from(index).ok().and_then(|index| self.stamps.get(index));
        let unknown = || StateError("a stamp that is not listed".to_owned());
        stamp.copied().map(Some).ok_or_else(unknown)
    }

    fn fields(&self, fields: Vec<wire::Field>) -> Result<Fields, StateError> {
        fields.into_iter().map(|field| self.field(field)).collect()
    }

    fn field(&self, field: wire::Field) -> Result<(String, Field), StateError> {
        let wire::Field { name, assigned, value, map, counter, fields } = field;
        let value = value.map(decode_value).transpose()?;
        let register = self.stamp(assigned)?.map(|stamp| Register { stamp, value });
        let field = Field {
            register,
            map: self.stamp(map)?,
            counter: counter.map(|counter| self.counter(&counter).map(Box::new)).transpose()?,
            fields: self.fields(fields)?,
        };
        Ok((name, field))
    }

    fn counter(&self, counter: &wire::Counter) -> Result<Counter, StateError> {
        let wire::Counter { base, stamp, shares } = counter;
        let stamp =
            self.stamp(*stamp)?.ok_or_else(|| StateError("a counter's stamp".to_owned()))?;
        let shares = shares.iter().map(|share| {
            let wire::Share { actor: index, added, subtracted } = share;
            let share = Share { added: *added, subtracted: *subtracted };
            Ok((actor(&self.actors, *index)?, share))
        });
        Ok(Counter {
            base: self.stamp(*base)?,
            stamp,
            shares: shares.collect::<Result<_, StateError>>()?,
        })
    }
}
