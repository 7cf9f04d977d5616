//! UPDATE, DELETE and EVICT: the documents are found first, one that is named by its id without looking
//! for others, then each gets a mutation of its own.
//!
//! What was read decides which documents change; what becomes of them is decided by the store
//! node in the order of the log. So an increment counts whatever was written in between, and a
//! condition holds or not whatever was seen here.

use anabranch_core::Value;
use anabranch_core::document::{MAX_DEPTH, Mutation, WARN_BYTES};
use anabranch_core::ids::{Collection, DocumentKey};
use anabranch_core::query::{Args, Delete, Evict, FieldPath, Predicate, Update};
use anabranch_runtime::tasks::blocking;
use anabranch_schemas::records::DocumentMutation;
use anabranch_schemas::store::QueryItem;

use super::plan::Planning;
use super::{Asked, conflict, select};
use crate::access::Readable;
use crate::document::{DocumentName, Warnings, check_size, too_deep};
use crate::error::{Code, Refusal};
use crate::store::{Conflict, Found, Reason};

/// What every document of a statement is to become.
struct Change {
    columns: &'static str,
    collection: Collection,
    filter: Predicate,
    mutation: Mutation,
    /// Bytes of JSON that it adds to each document at most.
    bytes: usize,
}

impl Planning<'_> {
    pub(super) async fn update(&mut self, asked: &Asked, update: Update) -> Result<(), Refusal> {
        let Update { collection, set, unset, increment, filter } = update;
        if let Some((path, value)) =
            set.iter().find(|(path, value)| path.steps().len() + value.depth() > MAX_DEPTH)
        {
            return Err(too_deep(path.steps().len() + value.depth()));
        }
        // Documents are looked at only if there is something to check about them.
        let columns = if set.is_empty() && increment.is_empty() { "_id" } else { "*" };
        let bytes = set.iter().map(|(path, value)| written(path) + value.json_len());
        let bytes = bytes.chain(increment.iter().map(|(path, _)| written(path) + 20)).sum();
        let mutation = Mutation::Update { set, unset, increment };
        self.change(asked, &Change { columns, collection, filter, mutation, bytes }).await
    }

    pub(super) async fn delete(&mut self, asked: &Asked, delete: Delete) -> Result<(), Refusal> {
        let Delete { collection, filter } = delete;
        let mutation = Mutation::Delete;
        self.change(asked, &Change { columns: "_id", collection, filter, mutation, bytes: 0 }).await
    }

    pub(super) async fn evict(&mut self, asked: &Asked, evict: Evict) -> Result<(), Refusal> {
        let Evict { collection, filter } = evict;
        let mutation = Mutation::Forget;
        self.change(asked, &Change { columns: "_id", collection, filter, mutation, bytes: 0 }).await
    }

    async fn change(&mut self, asked: &Asked, change: &Change) -> Result<(), Refusal> {
        let Change { columns, collection, filter, .. } = change;
        let readable = &self.run.request.caller.readable(collection)?;
        let keys = filter.key();
        match keys.as_deref() {
            None if asked.unchanged_since.is_some() => return Err(unnamed()),
            Some(keys) if asked.unchanged_since.is_some() || keys.len() == 1 => {
                return self.change_named(asked, change, keys, readable).await;
            }
            _ => {}
        }
        let none = Args::new();
        let (text, args) =
            select::text(columns, collection, filter, &asked.statement, &asked.args)?;
        let mut rows = self.query(&text, args.unwrap_or(&none), readable).await?;
        while let Some(items) = rows.next(self.run.request.deadline).await? {
            for item in items {
                self.add_found(asked, change, &item)?;
            }
        }
        Ok(())
    }

    /// Of documents that are named by their ids.
    async fn change_named(
        &mut self,
        asked: &Asked,
        change: &Change,
        keys: &[DocumentKey],
        readable: &Readable,
    ) -> Result<(), Refusal> {
        let collection = &change.collection;
        self.check_round(keys.len())?;
        let name =
            |key: &DocumentKey| DocumentName { collection: collection.clone(), key: key.clone() };
        let app = self.run.request.app;
        let ids: Vec<_> = keys.iter().map(|key| name(key).id(app)).collect();
        let found = self.get(&ids, readable).await?;
        let found = matching(&change.filter, found).await?;
        // Of several documents the others may be as they have to be, and under a key an earlier try may
        // have been written: then the log is asked.
        let is_alone =
            keys.len() == 1 && self.run.request.statements.len() == 1 && !self.run.round.has_key;
        for (key, found) in keys.iter().zip(found) {
            self.change_one(asked, change, name(key), found, is_alone)?;
        }
        Ok(())
    }

    fn change_one(
        &mut self,
        asked: &Asked,
        change: &Change,
        name: DocumentName,
        (found, does_match): (Found, bool),
        is_alone: bool,
    ) -> Result<(), Refusal> {
        let Change { mutation, bytes, .. } = change;
        let since = asked.unchanged_since;
        match found.document {
            None if since.is_none() => Ok(()),
            // Nothing that is written now can come before what changed it.
            Some((_, winner)) if since.is_some() && winner > since && is_alone => {
                let reason = Reason::Changed;
                Err(conflict::refusal(Conflict { document: name, winner, reason }))
            }
            Some((text, version)) if since.is_none() || version <= since => {
                if !does_match {
                    return Ok(());
                }
                let key = name.key.as_str().to_owned();
                let item = QueryItem { key, item: text, place: Default::default() };
                self.add_found(asked, change, &item)
            }
            // Whether it is there by then, and who changed it or took it away, is for the log to say.
            None | Some(_) => {
                let DocumentName { collection, key } = name;
                let mutation = DocumentMutation::new(collection, key, mutation.clone());
                self.add(mutation, *bytes, asked)
            }
        }
    }

    /// Adds the change of one document that was found.
    fn add_found(
        &mut self,
        asked: &Asked,
        change: &Change,
        item: &QueryItem,
    ) -> Result<(), Refusal> {
        let Change { collection, mutation, bytes, .. } = change;
        let key = key(item)?;
        check(&key, item, mutation, *bytes, &mut self.plan.warnings)?;
        // Other statements may bring more to it, and by the time that it is written there may be more.
        let is_alone = self.run.request.statements.len() == 1;
        let brought = if is_alone { *bytes } else { self.plan.bytes + bytes };
        self.plan.may_outgrow |= *bytes > 0 && item.item.len() + brought > WARN_BYTES;
        let mutation = DocumentMutation::new(collection.clone(), key, mutation.clone());
        self.add(mutation, *bytes, asked)
    }
}

/// Of each document that was found whether the condition holds of it: not where others wait for the thread.
async fn matching(filter: &Predicate, found: Vec<Found>) -> Result<Vec<(Found, bool)>, Refusal> {
    let filter = filter.clone();
    let matched = blocking(move || {
        let matches = |found: Found| {
            let document = found.document.as_ref().map(|(text, _)| stored(text)).transpose()?;
            let does_match = document.is_some_and(|document| filter.matches(&document));
            Ok((found, does_match))
        };
        found.into_iter().map(matches).collect()
    });
    matched.await.map_err(|_| Refusal::stopping())?
}

fn unnamed() -> Refusal {
    let message = "the documents that have to be unchanged are not named";
    Refusal::new(Code::InvalidRequest, message)
        .with_hint("name them, as in WHERE _id = 'a' or WHERE _id IN ('a', 'b')")
}

/// The id of a row.
fn key(item: &QueryItem) -> Result<DocumentKey, Refusal> {
    DocumentKey::from_canonical(&item.key)
        .map_err(|error| Refusal::new(Code::Internal, format!("store node: {error}")))
}

/// A document as the store node gave it.
fn stored(text: &str) -> Result<Value, Refusal> {
    Value::from_json(text.as_bytes())
        .map_err(|error| Refusal::new(Code::Internal, format!("store node: {error}")))
}

/// Checks what can be known about a document before it changes.
fn check(
    key: &DocumentKey,
    item: &QueryItem,
    mutation: &Mutation,
    bytes: usize,
    warnings: &mut Warnings,
) -> Result<(), Refusal> {
    let Mutation::Update { set, unset, increment } = mutation else { return Ok(()) };
    let may_be_large = !set.is_empty() && item.item.len() + bytes > WARN_BYTES;
    if increment.is_empty() && !may_be_large {
        return Ok(());
    }
    let mut document = stored(&item.item)?;
    for (path, _) in increment {
        if let Some(found) = not_a_number(&document, path) {
            let message = format!("'{path}' of document {key} is of type {found}, not a number");
            return Err(Refusal::new(Code::NotANumber, message));
        }
    }
    if may_be_large {
        for path in unset {
            remove(&mut document, path.steps());
        }
        for (path, value) in set {
            assign(&mut document, path.steps(), value);
        }
        check_size(key, document.to_json().len(), warnings)?;
    }
    Ok(())
}

/// The type of what stands in the way of counting a field up.
fn not_a_number(document: &Value, path: &FieldPath) -> Option<&'static str> {
    let mut value = document;
    for step in path.steps() {
        match value {
            Value::Object(fields) => match fields.get(step) {
                Some(below) => value = below,
                None => return None,
            },
            other => return Some(other.type_name()),
        }
    }
    match value {
        Value::Int(_) | Value::Float(_) => None,
        other => Some(other.type_name()),
    }
}

/// Assigns as the store node does: objects on the way are made, objects are merged by key.
fn assign(at: &mut Value, path: &[String], value: &Value) {
    if path.is_empty() && !matches!(value, Value::Object(_)) {
        *at = value.clone();
        return;
    }
    if !matches!(at, Value::Object(_)) {
        *at = Value::Object(Default::default());
    }
    let Value::Object(fields) = at else { return };
    match (path.split_first(), value) {
        (Some((name, below)), value) => {
            assign(fields.entry(name.clone()).or_default(), below, value);
        }
        (None, Value::Object(entries)) => {
            for (name, value) in entries {
                assign(fields.entry(name.clone()).or_default(), &[], value);
            }
        }
        (None, _) => {}
    }
}

fn remove(at: &mut Value, path: &[String]) {
    let (Value::Object(fields), Some((name, below))) = (at, path.split_first()) else { return };
    if below.is_empty() {
        fields.remove(name);
    } else if let Some(field) = fields.get_mut(name) {
        remove(field, below);
    }
}

/// Bytes of JSON that a path takes.
fn written(path: &FieldPath) -> usize {
    path.steps().iter().map(|step| step.len() + 6).sum()
}
