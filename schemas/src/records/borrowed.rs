//! Records put together from parts that belong to somebody else. A store node makes a change event
//! for each document it changes, a round writer deals the mutations of a round out to slices; neither
//! copies them for that.

use bytes::Bytes;

use anabranch_core::hlc::Hlc;
use anabranch_core::ids::{ActorId, AppId, RoundId, TxnId};

use super::{Change, DocumentMutation, Operation, Restriction, RoundPart};
use crate::avro::put_header;
use crate::datum::{put_array, put_bytes, put_long, put_text};

/// A [`Change`] whose parts are borrowed; field by field the same.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug)]
pub struct ChangeRef<'a> {
    pub txn: TxnId,
    pub app: AppId,
    pub collection: &'a str,
    /// Canonical JSON of the `_id`.
    pub key: &'a str,
    pub origin: ActorId,
    pub origin_txn: TxnId,
    pub hlc: Hlc,
    pub operation: Operation,
    pub existed: bool,
    /// Canonical JSON of an object.
    pub before: &'a str,
    pub added: &'a [&'a str],
    pub state: &'a [u8],
}

impl ChangeRef<'_> {
    /// The bytes of the [`Change`] that this is.
    pub fn encode(&self) -> Bytes {
        let names: usize = self.added.iter().map(|name| name.len() + 2).sum();
        let text = self.collection.len() + self.key.len() + self.before.len() + names;
        let mut bytes = Vec::with_capacity(128 + text + self.state.len());
        self.encode_into(&mut bytes);
        bytes.into()
    }

    /// Appends the bytes of the [`Change`] that this is.
    pub fn encode_into(&self, to: &mut Vec<u8>) {
        put_header::<Change>(to);
        self.put_datum(to);
    }

    pub(super) fn put_datum(&self, to: &mut Vec<u8>) {
        let ChangeRef {
            txn,
            app,
            collection,
            key,
            origin,
            origin_txn,
            hlc,
            operation,
            existed,
            before,
            added,
            state,
        } = self;
        put_long(txn.0.cast_signed(), to);
        to.extend_from_slice(app.0.as_bytes());
        put_text(collection, to);
        put_text(key, to);
        to.extend_from_slice(origin.0.as_bytes());
        put_long(origin_txn.0.cast_signed(), to);
        put_long(hlc.0.cast_signed(), to);
        put_long(*operation as i64, to);
        to.push(u8::from(*existed));
        put_text(before, to);
        put_array(added, to, |name, to| put_text(name, to));
        put_bytes(state, to);
    }
}

/// A [`RoundPart`] whose mutations are borrowed; field by field the same.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug)]
pub struct RoundPartRef<'a> {
    pub round: RoundId,
    pub app: AppId,
    pub index: i32,
    pub count: i32,
    pub mutations: &'a [&'a DocumentMutation],
    pub restrictions: &'a [&'a Restriction],
}

impl RoundPartRef<'_> {
    /// The bytes of the [`RoundPart`] that this is.
    pub fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(512 * self.mutations.len());
        put_header::<RoundPart>(&mut bytes);
        self.put_datum(&mut bytes);
        // It may wait in a queue that counts what it holds.
        bytes.shrink_to_fit();
        bytes.into()
    }

    pub(super) fn put_datum(&self, to: &mut Vec<u8>) {
        let RoundPartRef { round, app, index, count, mutations, restrictions } = self;
        to.extend_from_slice(round.0.as_bytes());
        to.extend_from_slice(app.0.as_bytes());
        put_long(i64::from(*index), to);
        put_long(i64::from(*count), to);
        put_array(mutations, to, |mutation, to| mutation.put_datum(to));
        put_array(restrictions, to, |restriction, to| restriction.put_datum(to));
    }
}
