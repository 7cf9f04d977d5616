//! What a SELECT finds in this store: rows as they are found, or those that are sorted by something
//! else than their document, or groups, for which all documents have to be looked at before the first.
//!
//! Each page looks at so many documents at most, so whoever waits sees that the node is at work also
//! while nothing comes of it.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::vec::IntoIter;

use anabranch_core::ids::{AppId, DocumentKey, TxnId};
use anabranch_core::query::{Group, Groups, Select, SortedRow, SortedRows, place};
use anabranch_schemas::store as proto;

use super::find::Find;
use super::page::{Page, Used};
use crate::error::Error;
use crate::storage::Storage;
use crate::wishes::Wishes;

/// What a query keeps before its first row, in bytes.
pub(crate) const MAX_KEPT_BYTES: usize = 64 << 20;
/// What the place of a group begins with.
const GROUP: u8 = 1;
/// About what a sorted row takes beside its texts.
const ROW_BYTES: usize = 96;

/// A query that has come somewhere.
#[derive(Debug)]
pub(super) struct QueryCursor {
    pub(super) find: Find,
    make: Make,
}

/// What becomes of them.
#[derive(Debug)]
enum Make {
    /// A row each; so many more are needed.
    Rows { left: u64 },
    /// The rows that come first, of those behind `after`.
    Sorted { rows: SortedRows<String, String>, after: Vec<u8>, bytes: usize },
    /// Groups, of which those behind `after` are given.
    Grouped { groups: Groups, after: Vec<u8> },
    /// All was looked at: these are given.
    Give(std::iter::Peekable<IntoIter<proto::QueryItem>>),
}

impl QueryCursor {
    /// From the first row on, or from the one that follows the place `after`.
    pub(super) fn new(
        app: AppId,
        select: Arc<Select>,
        after: Vec<u8>,
        at: TxnId,
        wishes: Arc<Wishes>,
    ) -> Result<Self, Error> {
        let needed = select.needed();
        let (make, from) = if select.is_grouped() {
            (Make::Grouped { groups: Groups::new(Arc::clone(&select)), after }, None)
        } else if select.is_sorted() {
            (Make::Sorted { rows: SortedRows::new(needed), after, bytes: 0 }, None)
        } else {
            (Make::Rows { left: needed.unwrap_or(u64::MAX) }, key_at(&after)?)
        };
        let find = Find::new(app, select, from, at, wishes);
        Ok(QueryCursor { find, make })
    }

    /// All of it, if it is known where that is and there is little; `None` if it has to be read page by
    /// page, from the start.
    pub(super) fn at_once(
        mut self,
        storage: &Storage,
    ) -> Result<Option<Vec<proto::QueryItem>>, Error> {
        let all = if self.find.is_narrow(storage) { self.short(storage) } else { Ok(None) };
        if !matches!(all, Ok(Some(_))) {
            self.find.say_nothing();
        }
        all
    }

    /// All of it, if there is little.
    fn short(&mut self, storage: &Storage) -> Result<Option<Vec<proto::QueryItem>>, Error> {
        let (mut used, mut items) = (Used::at_once(), Vec::new());
        while !used.is_full() {
            let page = self.page(storage, &mut used)?;
            if used.meter.is_over() {
                break;
            }
            items.extend(page.items);
            if page.is_last {
                return Ok(Some(items));
            }
        }
        Ok(None)
    }

    /// The next page.
    pub(super) fn next(&mut self, storage: &Storage) -> Result<Page<proto::QueryItem>, Error> {
        self.page(storage, &mut Used::of_page())
    }

    fn page(
        &mut self,
        storage: &Storage,
        used: &mut Used,
    ) -> Result<Page<proto::QueryItem>, Error> {
        let mut page = Page::new();
        match &mut self.make {
            Make::Rows { left } => {
                page.is_last = rows(&mut self.find, storage, left, used, &mut page.items)?;
            }
            Make::Sorted { rows, after, bytes } => {
                page.is_last = false;
                if sort(&mut self.find, storage, (rows, bytes), after, used)? {
                    let rows = std::mem::replace(rows, SortedRows::new(None)).into_sorted();
                    self.make = Make::give(rows.map(sorted_item).collect());
                }
            }
            Make::Grouped { groups, after } => {
                page.is_last = false;
                let select = Arc::clone(&self.find.select);
                let is_over = self.find.next(storage, used, |used, _, document| {
                    groups.add(&document, &used.meter);
                    check("the groups", groups.bytes()).map(ControlFlow::Continue)
                })?;
                if is_over {
                    let groups = std::mem::replace(groups, Groups::new(select)).into_groups();
                    let behind = |item: &proto::QueryItem| after.is_empty() || item.place > *after;
                    self.make = Make::give(groups.map(group_item).filter(behind).collect());
                }
            }
            Make::Give(items) => {
                for item in items.by_ref() {
                    used.items += 1;
                    used.bytes += item.item.len() + item.place.len();
                    page.items.push(item);
                    if used.is_full() {
                        break;
                    }
                }
                page.is_last = items.peek().is_none();
            }
        }
        Ok(page)
    }
}

impl Make {
    fn give(items: Vec<proto::QueryItem>) -> Self {
        Make::Give(items.into_iter().peekable())
    }
}

/// The next rows, as documents are found. Whether these are the last.
fn rows(
    find: &mut Find,
    storage: &Storage,
    left: &mut u64,
    used: &mut Used,
    items: &mut Vec<proto::QueryItem>,
) -> Result<bool, Error> {
    if *left == 0 {
        return Ok(true);
    }
    let select = Arc::clone(&find.select);
    let is_over = find.next(storage, used, |used, key, document| {
        let item = select.row(&document, &used.meter).to_json();
        used.items += 1;
        used.bytes += item.len();
        *left -= 1;
        let key = key.as_str().to_owned();
        items.push(proto::QueryItem { key, item, place: Default::default() });
        Ok(if *left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    Ok(is_over || *left == 0)
}

/// Looks at more documents for the rows that come first, which take so many bytes. Whether there are
/// no more.
fn sort(
    find: &mut Find,
    storage: &Storage,
    (rows, bytes): (&mut SortedRows<String, String>, &mut usize),
    after: &[u8],
    used: &mut Used,
) -> Result<bool, Error> {
    let select = Arc::clone(&find.select);
    find.next(storage, used, |used, id, document| {
        let (key, id) = (select.sort_key(&document, &used.meter), id.as_str());
        if !after.is_empty() && place(&key, id).as_slice() <= after {
            return Ok(ControlFlow::Continue(()));
        }
        let id = id.to_owned();
        if !rows.needs(&key, &id) {
            return Ok(ControlFlow::Continue(()));
        }
        let row = SortedRow { key, id, row: select.row(&document, &used.meter).to_json() };
        *bytes += size(&row);
        if let Some(row) = rows.add(row) {
            *bytes -= size(&row);
        }
        check("the rows to sort", *bytes).map(ControlFlow::Continue)
    })
}

/// The document whose row is at this place; `None` if it is before the first.
fn key_at(place: &[u8]) -> Result<Option<DocumentKey>, Error> {
    let refuse = |reason: &dyn std::fmt::Display| {
        Error::InvalidRequest(format!("a query cannot start after this place: {reason}"))
    };
    match std::str::from_utf8(place).map_err(|error| refuse(&error))? {
        "" => Ok(None),
        key => DocumentKey::from_canonical(key).map(Some).map_err(|error| refuse(&error)),
    }
}

fn sorted_item(row: SortedRow<String, String>) -> proto::QueryItem {
    let SortedRow { key, id, row } = row;
    let place = place(&key, &id).into();
    proto::QueryItem { key: id, item: row, place }
}

/// The group of everything has an empty key, but a place behind the first.
fn group_item(group: Group) -> proto::QueryItem {
    let place = [&[GROUP], group.key.as_slice()].concat().into();
    proto::QueryItem { key: String::new(), item: group.state, place }
}

/// The group that an item is.
pub(crate) fn group_of(item: proto::QueryItem) -> Option<Group> {
    let key = item.place.strip_prefix(&[GROUP])?.to_vec();
    Some(Group { key, state: item.item })
}

fn size(row: &SortedRow<String, String>) -> usize {
    row.key.len() + row.id.len() + row.row.len() + ROW_BYTES
}

/// Refuses what takes too much memory.
pub(crate) fn check(what: &'static str, bytes: usize) -> Result<(), Error> {
    if bytes > MAX_KEPT_BYTES {
        return Err(Error::QueryTooLarge { what, limit: MAX_KEPT_BYTES });
    }
    Ok(())
}

/// The rows of a SELECT behind a place, as far as these indexes find them, and how many documents were
/// looked at.
#[cfg(test)]
pub(crate) fn all_rows(
    storage: &Storage,
    app: AppId,
    statement: &str,
    after: &[u8],
    at: TxnId,
    indexes: &crate::storage::Catalog,
) -> (Vec<proto::QueryItem>, u64) {
    let question = super::parse_with(statement, "").unwrap();
    let super::Question::Select(select) = question else { panic!("{statement} is no SELECT") };
    let wishes = Arc::new(Wishes::new(0));
    let cursor = || {
        let (select, after, wishes) = (Arc::clone(&select), after.to_vec(), Arc::clone(&wishes));
        let mut cursor = QueryCursor::new(app, select, after, at, wishes).unwrap();
        cursor.find.choose(indexes);
        cursor
    };
    let (mut paged, mut rows) = (cursor(), Vec::new());
    loop {
        let page = paged.next(storage).unwrap();
        rows.extend(page.items);
        if page.is_last {
            break;
        }
    }
    if let Some(at_once) = cursor().at_once(storage).unwrap() {
        assert_eq!(at_once, rows, "{statement} at once");
    }
    (rows, paged.find.counts.examined)
}
