//! UPDATE and DELETE: the documents are found first, one that is named by its id without looking
//! for others, then each gets a mutation of its own.
//!
//! What was read decides which documents change; what becomes of them is decided by the store
//! node in the order of the log. So an increment counts whatever was written in between.

use anabranch_core::Value;
use anabranch_core::document::{MAX_DEPTH, Mutation, WARN_BYTES};
use anabranch_core::ids::{Collection, DocumentId, DocumentKey, TxnId};
use anabranch_core::query::{Args, Delete, FieldPath, Predicate, Update};
use anabranch_schemas::records::DocumentMutation;
use anabranch_schemas::store::QueryItem;

use super::{Executor, Plan, Request, select};
use crate::document::{Warnings, check_size, too_deep};
use crate::error::{Code, Refusal};

/// What every document of a statement is to become.
struct Change {
    columns: &'static str,
    collection: Collection,
    filter: Predicate,
    mutation: Mutation,
    /// Bytes of JSON that it adds to each document at most.
    bytes: usize,
}

impl Executor {
    pub(super) async fn plan_update(
        &self,
        request: &Request,
        update: Update,
        read: &mut Option<TxnId>,
    ) -> Result<Plan, Refusal> {
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
        let change = Change { columns, collection, filter, mutation, bytes };
        self.plan_change(request, &change, read).await
    }

    pub(super) async fn plan_delete(
        &self,
        request: &Request,
        delete: Delete,
        read: &mut Option<TxnId>,
    ) -> Result<Plan, Refusal> {
        let Delete { collection, filter } = delete;
        let mutation = Mutation::Delete;
        let change = Change { columns: "_id", collection, filter, mutation, bytes: 0 };
        self.plan_change(request, &change, read).await
    }

    async fn plan_change(
        &self,
        request: &Request,
        change: &Change,
        read: &mut Option<TxnId>,
    ) -> Result<Plan, Refusal> {
        let Request { app, statement, args, at_least, deadline, .. } = request;
        let Change { columns, collection, filter, .. } = change;
        let mut plan = Plan::default();
        let mut total = 0;
        if let Some([key]) = filter.key().as_deref() {
            let (collection, key) = (collection.clone(), key.clone());
            let id = DocumentId { app: *app, collection, key };
            let found = self.store.get(&id, *at_least, *deadline).await?;
            *read = found.txn;
            if let Some((text, _)) = found.document
                && filter.matches(&stored(&text)?)
            {
                let key = id.key.as_str().to_owned();
                let item = QueryItem { key, item: text, place: Default::default() };
                self.add(&mut plan, &mut total, change, &item)?;
            }
            return Ok(plan);
        }
        let none = Args::new();
        let (text, args) = select::text(columns, collection, filter, statement, args)?;
        let args = args.unwrap_or(&none);
        let mut rows = self.store.query(*app, &text, args, *at_least, *deadline).await?;
        *read = rows.txn;
        while let Some(items) = rows.next(*deadline).await? {
            for item in items {
                self.add(&mut plan, &mut total, change, &item)?;
            }
        }
        Ok(plan)
    }

    /// Adds the change of one document that was found.
    fn add(
        &self,
        plan: &mut Plan,
        total: &mut usize,
        change: &Change,
        item: &QueryItem,
    ) -> Result<(), Refusal> {
        let Change { collection, mutation, bytes, .. } = change;
        let key = key(item)?;
        check(&key, item, mutation, *bytes, &mut plan.warnings)?;
        *total += key.as_str().len() + collection.as_str().len() + bytes;
        self.check_round(plan.mutations.len() + 1, *total)?;
        let (collection, mutation) = (collection.clone(), mutation.clone());
        plan.mutations.push(DocumentMutation { collection, key, mutation });
        Ok(())
    }

    /// A statement is one transaction, which must not get too large.
    pub(super) fn check_round(&self, documents: usize, bytes: usize) -> Result<(), Refusal> {
        if documents > self.max_changed_documents {
            let limit = self.max_changed_documents;
            let message = format!("the statement would write more than {limit} documents");
            return Err(Refusal::new(Code::TooManyDocuments, message));
        }
        if bytes > self.max_round_bytes {
            let limit = self.max_round_bytes;
            let message = format!("the statement would write more than {limit} bytes of mutations");
            return Err(Refusal::new(Code::RoundTooLarge, message));
        }
        Ok(())
    }
}

/// The id of a row.
pub(super) fn key(item: &QueryItem) -> Result<DocumentKey, Refusal> {
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
