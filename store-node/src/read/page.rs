//! Pages of a stream: bounded in items, bytes and documents looked at.

use std::ops::ControlFlow;
use std::vec::IntoIter;

use anabranch_core::ids::{AppId, DocumentId, DocumentKey, TxnId};
use anabranch_core::query::Select;
use anabranch_schemas::store as proto;
use bytes::Bytes;

use super::{Found, decode_id, find, with_id};
use crate::error::Error;
use crate::storage::{Storage, decode_state};

/// How much one page holds.
const PAGE_ITEMS: usize = 500;
const PAGE_BYTES: usize = 256 << 10;
/// How many documents are looked at for one page: a filter that seldom matches is to see between
/// pages whether anybody still waits.
const PAGE_DOCUMENTS: usize = 5_000;
/// And how many bytes of them: whoever waits is to hear from the node within a second.
const PAGE_LOOKED_BYTES: usize = 8 << 20;

/// A part of a result.
#[derive(Debug)]
pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    /// Whether this was the last.
    pub(crate) is_last: bool,
}

impl<T> Page<T> {
    fn new() -> Self {
        Page { items: Vec::new(), is_last: true }
    }
}

/// How much of a page is used.
#[derive(Debug, Default)]
struct Used {
    items: usize,
    bytes: usize,
    documents: usize,
    looked_bytes: usize,
}

impl Used {
    fn is_full(&self) -> bool {
        self.items >= PAGE_ITEMS
            || self.bytes >= PAGE_BYTES
            || self.documents >= PAGE_DOCUMENTS
            || self.looked_bytes >= PAGE_LOOKED_BYTES
    }
}

/// A query that has come somewhere.
#[derive(Debug)]
pub(super) struct QueryCursor {
    app: AppId,
    select: Select,
    at: TxnId,
    left: u64,
    from: QueryFrom,
}

#[derive(Debug)]
enum QueryFrom {
    /// The condition pins the ids: these are left.
    Keys(IntoIter<DocumentKey>),
    /// The collection after this document.
    Collection(Option<Vec<u8>>),
}

impl QueryCursor {
    /// From the first document on, or from the one that follows `after`.
    pub(super) fn new(app: AppId, select: Select, after: Option<DocumentKey>, at: TxnId) -> Self {
        let from = match select.filter.as_ref().and_then(|filter| filter.key()) {
            Some(mut keys) => {
                keys.retain(|key| after.as_ref().is_none_or(|after| key > after));
                QueryFrom::Keys(keys.into_iter())
            }
            None => QueryFrom::Collection(after.map(|key| {
                DocumentId { app, collection: select.collection.clone(), key }.to_bytes()
            })),
        };
        QueryCursor { app, left: select.limit.unwrap_or(u64::MAX), select, at, from }
    }

    /// The next page.
    pub(super) fn next(&mut self, storage: &Storage) -> Result<Page<proto::QueryItem>, Error> {
        let QueryCursor { app, select, at, left, from } = self;
        let mut page = Page::new();
        if *left == 0 {
            return Ok(page);
        }
        let mut used = Used::default();
        let mut take =
            |found: Option<Found>, id: &DocumentId, looked: usize, page: &mut Page<_>| {
                used.documents += 1;
                used.looked_bytes += looked;
                let filter = select.filter.as_ref();
                let matching =
                    found.filter(|found| filter.is_none_or(|filter| filter.matches(&found.value)));
                if let Some(found) = matching {
                    let item = select.project(&found.value).to_json();
                    used.items += 1;
                    used.bytes += item.len();
                    *left -= 1;
                    page.items.push(proto::QueryItem { key: id.key.as_str().to_owned(), item });
                }
                page.is_last = *left == 0;
                page.is_last || used.is_full()
            };
        match from {
            QueryFrom::Keys(keys) => {
                for key in keys.by_ref() {
                    let id = DocumentId { app: *app, collection: select.collection.clone(), key };
                    if take(find(storage, &id, *at)?, &id, 0, &mut page) {
                        return Ok(page);
                    }
                }
                page.is_last = true;
            }
            QueryFrom::Collection(after) => {
                let prefix = DocumentId::collection_prefix(*app, &select.collection);
                let start = after.take();
                let mut full = false;
                storage.documents(&prefix, start.as_deref(), *at, |bytes, txn, state| {
                    let id = decode_id(bytes)?;
                    let value = decode_state(state)?.value();
                    let found = value.map(|value| Found { value: with_id(value, &id), txn });
                    full = take(found, &id, state.len(), &mut page);
                    if full {
                        *after = Some(bytes.to_vec());
                        return Ok(ControlFlow::Break(()));
                    }
                    Ok(ControlFlow::Continue(()))
                })?;
                page.is_last |= !full;
            }
        }
        Ok(page)
    }
}

/// A scan that has come somewhere.
#[derive(Debug)]
pub(super) struct ScanCursor {
    prefix: Vec<u8>,
    after: Option<Vec<u8>>,
    at: TxnId,
}

impl ScanCursor {
    pub(super) fn new(prefix: Vec<u8>, after: Option<Vec<u8>>, at: TxnId) -> Self {
        ScanCursor { prefix, after, at }
    }

    /// The next page.
    pub(super) fn next(&mut self, storage: &Storage) -> Result<Page<proto::ScanItem>, Error> {
        let mut page = Page::new();
        let mut used = Used::default();
        let start = self.after.take();
        storage.documents(&self.prefix, start.as_deref(), self.at, |id, _, state| {
            used.items += 1;
            used.bytes += id.len() + state.len();
            page.items.push(proto::ScanItem {
                document_id: Bytes::copy_from_slice(id),
                state: Bytes::copy_from_slice(state),
            });
            if used.is_full() {
                self.after = Some(id.to_vec());
                return Ok(ControlFlow::Break(()));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        page.is_last = self.after.is_none();
        Ok(page)
    }
}
