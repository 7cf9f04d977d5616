//! The CRDT state of a document as protobuf (`proto/state.proto`), behind a byte for the version.
//!
//! Stamps and actors are named once and referred to by number: most documents have a handful of
//! stamps on many fields.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use prost::Message;
use prost::encoding::{self, DecodeContext, WireType};
use uuid::Uuid;

use anabranch_core::document::{
    Counter, Document, Field, Fields, Register, Share, ShareId, Stamp, VersionVector,
};
use anabranch_core::hlc::Hlc;
use anabranch_core::ids::ActorId;
use anabranch_core::{ErrorKind, Value};

#[cfg(test)]
mod tests;

#[allow(missing_docs, clippy::all, unreachable_pub)]
mod wire {
    tonic::include_proto!("anabranch.state.v1");
}

/// The version of the encoding, its first byte. Version 1 had one share of each actor in a counter,
/// and reads as if it had begun at 0.
const VERSION: u8 = 2;
const OLDEST_VERSION: u8 = 1;
/// Numbers of a document's members.
const DELETED: u32 = 5;
const FIELDS: u32 = 7;

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
    encode_after(&[], document)
}

/// The bytes of a state behind a prefix: whoever stores it behind something of his own copies
/// nothing. Written without a tree of messages in between: this is what a store node spends its
/// time on.
pub fn encode_after(prefix: &[u8], document: &Document) -> Bytes {
    let Document { versions, updated, deleted, generation, fields } = document;
    let mut names = Names::default();
    let versions: Vec<_> = versions
        .iter()
        .map(|(actor, sequence)| wire::Version { actor: names.actor(actor), sequence })
        .collect();
    let (updated, deleted) = (names.stamp(*updated), names.stamp(*deleted));
    let generation = names.stamp(*generation);
    // Fields come last, but name the stamps that come first.
    let mut body = Vec::with_capacity(512);
    names.put_fields(FIELDS, fields, &mut body);
    let head = wire::Document {
        actors: names.actors,
        stamps: names.stamps,
        versions,
        updated,
        deleted,
        generation,
        fields: Vec::new(),
    };
    let mut bytes = Vec::with_capacity(prefix.len() + 1 + head.encoded_len() + body.len());
    bytes.extend_from_slice(prefix);
    bytes.push(VERSION);
    head.encode(&mut bytes).expect("a vector grows");
    bytes.extend_from_slice(&body);
    bytes.into()
}

/// Writes the states of documents that inserts at one stamp made where there were none: the bytes
/// are those of the document that [`Document::apply`] makes, without making it.
pub struct InsertedStates {
    /// A prefix and all that comes before the fields, which is the same for each document. What
    /// was written last comes after it.
    buffer: Vec<u8>,
    head_bytes: usize,
    stamp: u64,
}

impl InsertedStates {
    /// For inserts at `stamp`; each state stands behind `prefix`.
    pub fn new(prefix: &[u8], stamp: Stamp) -> Self {
        let mut names = Names::default();
        let actor = names.actor(stamp.actor);
        let updated = names.stamp(Some(stamp));
        let head = wire::Document {
            actors: names.actors,
            stamps: names.stamps,
            versions: vec![wire::Version { actor, sequence: stamp.sequence }],
            updated,
            ..wire::Document::default()
        };
        let mut buffer = Vec::with_capacity(1024);
        buffer.extend_from_slice(prefix);
        buffer.push(VERSION);
        head.encode(&mut buffer).expect("a vector grows");
        let head_bytes = buffer.len();
        InsertedStates { buffer, head_bytes, stamp: updated.into() }
    }

    /// The state of a document with these fields.
    pub fn encode(&mut self, fields: &BTreeMap<String, Value>) -> Bytes {
        self.buffer.truncate(self.head_bytes);
        put_inserted(FIELDS, fields, self.stamp, &mut self.buffer);
        Bytes::copy_from_slice(&self.buffer)
    }
}

fn put_inserted(tag: u32, fields: &BTreeMap<String, Value>, stamp: u64, to: &mut Vec<u8>) {
    for (name, value) in fields {
        put_message(tag, to, |to| {
            put_text(1, name, to);
            match value {
                Value::Object(fields) => {
                    put_number(4, stamp, to);
                    put_inserted(6, fields, stamp, to);
                }
                value => {
                    put_number(2, stamp, to);
                    put_message(3, to, |to| put_value(value, to));
                }
            }
        });
    }
}

/// The state that `bytes` hold.
pub fn decode(bytes: &[u8]) -> Result<Document, StateError> {
    read(body(bytes)?)
}

/// The same without the fields that are not wanted, by their names: those are passed over, which
/// takes far less time than to read them.
pub fn decode_some(bytes: &[u8], wants: impl Fn(&str) -> bool) -> Result<Document, StateError> {
    let broken = |error: prost::DecodeError| StateError(error.to_string());
    let context = DecodeContext::default;
    let mut message = wire::Document::default();
    let mut rest = body(bytes)?;
    while !rest.is_empty() {
        let (tag, kind) = encoding::decode_key(&mut rest).map_err(broken)?;
        if tag == FIELDS && kind == WireType::LengthDelimited {
            let length = encoding::decode_varint(&mut rest).map_err(broken)?;
            let length = usize::try_from(length).ok().filter(|length| *length <= rest.len());
            let field = length.ok_or_else(|| StateError("a field ends too early".to_owned()))?;
            let (field, behind) = rest.split_at(field);
            if wants(name_of(field)?) {
                message.fields.push(wire::Field::decode(field).map_err(broken)?);
            }
            rest = behind;
        } else {
            message.merge_field(tag, kind, &mut rest, context()).map_err(broken)?;
        }
    }
    made(message)
}

/// The name of a field, which comes first in it; it is left out if it is empty.
fn name_of(mut field: &[u8]) -> Result<&str, StateError> {
    let broken = |error: prost::DecodeError| StateError(error.to_string());
    if field.is_empty() {
        return Ok("");
    }
    let (tag, _) = encoding::decode_key(&mut field).map_err(broken)?;
    if tag != 1 {
        return Ok("");
    }
    let length = encoding::decode_varint(&mut field).map_err(broken)?;
    let name = usize::try_from(length).ok().and_then(|length| field.get(..length));
    let name = name.and_then(|name| std::str::from_utf8(name).ok());
    name.ok_or_else(|| StateError("the name of a field".to_owned()))
}

/// When the document was deleted whose state `bytes` hold, as [`Document::tombstone`] has it. What
/// comes before the fields tells: they are not read.
pub fn tombstone(bytes: &[u8]) -> Result<Option<Hlc>, StateError> {
    let broken = |error: prost::DecodeError| StateError(error.to_string());
    let body = body(bytes)?;
    let (mut rest, mut head, mut is_deleted) = (body, body.len(), false);
    while !rest.is_empty() {
        let start = body.len() - rest.len();
        let (tag, kind) = encoding::decode_key(&mut rest).map_err(broken)?;
        if tag == FIELDS {
            head = start;
            break;
        }
        is_deleted |= tag == DELETED;
        encoding::skip_field(kind, tag, &mut rest, DecodeContext::default()).map_err(broken)?;
    }
    // Most were never deleted.
    if is_deleted { Ok(read(&body[..head])?.tombstone()) } else { Ok(None) }
}

/// What follows the version.
fn body(bytes: &[u8]) -> Result<&[u8], StateError> {
    match bytes.split_first() {
        Some((OLDEST_VERSION..=VERSION, body)) => Ok(body),
        Some((version, _)) => Err(StateError(format!("unknown version {version}"))),
        None => Err(StateError("no bytes".to_owned())),
    }
}

fn read(body: &[u8]) -> Result<Document, StateError> {
    made(wire::Document::decode(body).map_err(|error| StateError(error.to_string()))?)
}

fn made(message: wire::Document) -> Result<Document, StateError> {
    let broken = |reason: &str| StateError(reason.to_owned());
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
    /// Mostly few, and mostly the one used last: a list beats a map.
    listed_stamps: Vec<(Stamp, u32)>,
    /// All of them once the list is full: a search of a long list at every field would take time
    /// that grows with the square of the document.
    mapped_stamps: HashMap<Stamp, u32>,
}

/// How many stamps are listed before they are mapped.
const LISTED_STAMPS: usize = 16;

impl Names {
    fn actor(&mut self, actor: ActorId) -> u32 {
        *self.actor_numbers.entry(actor).or_insert_with(|| {
            self.actors.push(Bytes::copy_from_slice(actor.0.as_bytes()));
            number(self.actors.len() - 1)
        })
    }

    fn stamp(&mut self, stamp: Option<Stamp>) -> u32 {
        let Some(stamp) = stamp else { return 0 };
        if let Some(number) = self.known(stamp) {
            return number;
        }
        let actor = self.actor(stamp.actor);
        self.stamps.push(wire::Stamp { hlc: stamp.hlc.0, actor, sequence: stamp.sequence });
        let number = number(self.stamps.len());
        if self.listed_stamps.len() < LISTED_STAMPS {
            self.listed_stamps.push((stamp, number));
        } else {
            if self.mapped_stamps.is_empty() {
                self.mapped_stamps.extend(self.listed_stamps.iter().copied());
            }
            self.mapped_stamps.insert(stamp, number);
        }
        number
    }

    fn known(&self, stamp: Stamp) -> Option<u32> {
        if !self.mapped_stamps.is_empty() {
            return self.mapped_stamps.get(&stamp).copied();
        }
        let known = self.listed_stamps.iter().rev().find(|(known, _)| *known == stamp);
        known.map(|(_, number)| *number)
    }

    fn put_fields(&mut self, tag: u32, fields: &Fields, to: &mut Vec<u8>) {
        for (name, field) in fields {
            put_message(tag, to, |to| self.put_field(name, field, to));
        }
    }

    fn put_field(&mut self, name: &str, field: &Field, to: &mut Vec<u8>) {
        let Field { register, map, counter, fields } = field;
        put_text(1, name, to);
        put_number(2, self.stamp(register.as_ref().map(|register| register.stamp)).into(), to);
        if let Some(value) = register.as_ref().and_then(|register| register.value.as_ref()) {
            put_message(3, to, |to| put_value(value, to));
        }
        put_number(4, self.stamp(*map).into(), to);
        if let Some(counter) = counter {
            let counter = self.counter(counter);
            encoding::message::encode(5, &counter, to);
        }
        self.put_fields(6, fields, to);
    }

    fn counter(&mut self, counter: &Counter) -> wire::Counter {
        let Counter { base, stamp, shares } = counter;
        wire::Counter {
            base: self.stamp(*base),
            stamp: self.stamp(Some(*stamp)),
            shares: shares
                .iter()
                .map(|(ShareId { actor, begun }, Share { closed, added, subtracted })| {
                    wire::Share {
                        actor: self.actor(*actor),
                        added: *added,
                        subtracted: *subtracted,
                        begun: *begun,
                        closed: *closed,
                    }
                })
                .collect(),
        }
    }
}

/// A message whose length is known only once it is written. Most are short: their length has one
/// byte, which is kept free.
fn put_message(tag: u32, to: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    encoding::encode_key(tag, WireType::LengthDelimited, to);
    let start = to.len();
    to.push(0);
    write(to);
    let length = to.len() - start - 1;
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => to[start] = short,
        _ => {
            let mut long = Vec::with_capacity(5);
            encoding::encode_varint(length as u64, &mut long);
            to.splice(start..=start, long);
        }
    }
}

fn put_text(tag: u32, text: &str, to: &mut Vec<u8>) {
    if !text.is_empty() {
        put_member_text(tag, text, to);
    }
}

/// Members of a `oneof` are written even if they are empty.
fn put_member_text(tag: u32, text: &str, to: &mut Vec<u8>) {
    encoding::encode_key(tag, WireType::LengthDelimited, to);
    encoding::encode_varint(text.len() as u64, to);
    to.extend_from_slice(text.as_bytes());
}

fn put_number(tag: u32, number: u64, to: &mut Vec<u8>) {
    if number != 0 {
        encoding::encode_key(tag, WireType::Varint, to);
        encoding::encode_varint(number, to);
    }
}

fn put_value(value: &Value, to: &mut Vec<u8>) {
    match value {
        Value::Null => encoding::bool::encode(1, &true, to),
        Value::Bool(value) => encoding::bool::encode(2, value, to),
        Value::Int(value) => encoding::sint64::encode(3, value, to),
        Value::Float(value) => encoding::double::encode(4, value, to),
        Value::String(value) => put_member_text(5, value, to),
        Value::Array(_) | Value::Object(_) => put_member_text(6, &value.to_json(), to),
    }
}

fn number(index: usize) -> u32 {
    u32::try_from(index).expect("a document of a few MiB has fewer stamps")
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
            let wire::Share { actor: index, added, subtracted, begun, closed } = share;
            let id = ShareId { actor: actor(&self.actors, *index)?, begun: *begun };
            Ok((id, Share { closed: *closed, added: *added, subtracted: *subtracted }))
        });
        Ok(Counter {
            base: self.stamp(*base)?,
            stamp,
            shares: shares.collect::<Result<_, StateError>>()?,
        })
    }
}
