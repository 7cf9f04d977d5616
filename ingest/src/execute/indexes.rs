//! Indexes: declared in the metadata store, made by each store node by itself. And how documents are
//! found, which is asked of the store nodes.

use std::sync::Arc;

use anabranch_core::query::{CreateIndex, DropIndex, Explain, Statement};
use anabranch_journal::metadata::{
    Created, MAX_INDEXES, MetadataError, MetadataStore, OpenedLater,
};
use anabranch_runtime::tasks::blocking;
use tokio::time::timeout_at;

use super::{Asked, Executed, Executor, Parsed, Request, Written, select};
use crate::access::Readable;
use crate::document::Warning;
use crate::error::{Code, Refusal};

impl Executor {
    /// Declares an index or gives one up.
    pub(super) async fn declare(&self, request: Parsed) -> Result<Written, Refusal> {
        let Parsed { asked, statements, name, .. } = request;
        let [statement] = &statements[..] else { unreachable!("it stands alone") };
        asked.caller.check_owns(statement.collection())?;
        check_plain(&asked, statement.kind())?;
        if name.has_key() {
            let message = "an index is declared once however often it is asked for";
            let refusal = Refusal::new(Code::InvalidRequest, message);
            return Err(refusal.with_hint(
                "leave out the Idempotency-Key, and say IF NOT EXISTS or IF EXISTS to repeat",
            ));
        }
        let (app, query_type) = (asked.app, statement.kind());
        let statement = statement.clone();
        let work = move |store: &MetadataStore| match statement {
            Statement::CreateIndex(create) => {
                let CreateIndex { name, collection, paths, .. } = &create;
                let created = store.create_index(app, collection, name, paths)?;
                Ok(created_or(&create, created))
            }
            Statement::DropIndex(drop) => {
                let dropped = store.drop_index(app, &drop.collection, &drop.name)?;
                Ok(dropped_or(&drop, dropped))
            }
            _ => unreachable!("it is of an index"),
        };
        let warnings = self.in_metadata(&asked, work).await??.into_iter().collect();
        let (txn, documents) = (None, Vec::new());
        Ok(Written { query_type, txn, documents, warnings, decided: None, refusal: None })
    }

    /// Tells how documents are found.
    pub(super) async fn explain(&self, request: Parsed) -> Result<Executed, Refusal> {
        let Parsed { mut asked, statements, .. } = request;
        let Some(Statement::Explain(Explain { statement, .. })) = statements.into_iter().next()
        else {
            unreachable!("it is an EXPLAIN")
        };
        let found = match &*statement {
            Statement::Update(update) => Some((&update.collection, &update.filter)),
            Statement::Delete(delete) => Some((&delete.collection, &delete.filter)),
            Statement::Evict(evict) => Some((&evict.collection, &evict.filter)),
            _ => None,
        };
        if let Some((collection, filter)) = found {
            let Asked { statement, args, .. } = &mut asked.statements[0];
            let (text, needed) = select::text("_id", collection, filter, statement, args)?;
            if needed.is_none() {
                args.clear();
            }
            *statement = format!("EXPLAIN {text}");
        }
        self.select(asked, &Readable::ALL, "explain").await
    }

    /// What is done in the metadata store, on a thread that may block.
    async fn in_metadata<T: Send + 'static>(
        &self,
        asked: &Request,
        work: impl FnOnce(&MetadataStore) -> Result<T, MetadataError> + Send + 'static,
    ) -> Result<T, Refusal> {
        let metadata: Arc<OpenedLater> = Arc::clone(&self.metadata);
        let working = blocking(move || metadata.get().and_then(work));
        let late = |_| {
            let message = "the journal did not answer in time; it may have been done";
            let refusal = Refusal::new(Code::OutcomeUnknown, message);
            refusal.with_hint("send it again, with IF NOT EXISTS or IF EXISTS")
        };
        match timeout_at(asked.deadline, working).await.map_err(late)? {
            Ok(done) => done.map_err(|error| Refusal::of_metadata(&error)),
            Err(_) => Err(Refusal::stopping()),
        }
    }
}

/// What makes no sense beside a statement that changes no documents.
pub(super) fn check_plain(asked: &Request, kind: &str) -> Result<(), Refusal> {
    if asked.statements[0].unchanged_since.is_none() && !asked.atomic {
        return Ok(());
    }
    let message = format!("{kind} changes no documents, so it has no conditions");
    let refusal = Refusal::new(Code::InvalidRequest, message);
    Err(refusal.with_hint("leave out X-Anabranch-If-Match and 'atomic'"))
}

fn created_or(create: &CreateIndex, created: Created) -> Result<Option<Warning>, Refusal> {
    let CreateIndex { name, collection, paths, if_not_exists } = create;
    let exists = |message: String| Err(Refusal::new(Code::IndexExists, message));
    match created {
        Created::New => Ok(None),
        Created::Same if *if_not_exists => {
            let text = format!("'{collection}' has the index '{name}' ({paths}) already");
            Ok(Some(Warning::new("index_exists", text)))
        }
        Created::Same => exists(format!("'{collection}' has an index '{name}' already")),
        Created::NameTaken(other) => {
            exists(format!("'{collection}' has an index '{name}' already, over {other}"))
        }
        Created::PathsTaken(other) => {
            exists(format!("'{collection}' has an index over {paths} already: '{other}'"))
        }
        Created::TooMany(count) => {
            let whose = if count > MAX_INDEXES {
                "the app or cluster".to_owned()
            } else {
                format!("'{collection}'")
            };
            let message = format!("{whose} has {count} indexes already");
            Err(Refusal::new(Code::TooManyIndexes, message))
        }
    }
}

fn dropped_or(drop: &DropIndex, dropped: bool) -> Result<Option<Warning>, Refusal> {
    let DropIndex { name, collection, if_exists } = drop;
    let text = || format!("'{collection}' has no index '{name}'");
    match (dropped, if_exists) {
        (true, _) => Ok(None),
        (false, true) => Ok(Some(Warning::new("index_not_found", text()))),
        (false, false) => Err(Refusal::new(Code::IndexNotFound, text())),
    }
}
