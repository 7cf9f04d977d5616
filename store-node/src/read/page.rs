//! Pages of a stream: bounded in items, bytes and documents looked at.

use std::ops::ControlFlow;

use anabranch_core::ids::TxnId;
use anabranch_core::query::Meter;
use anabranch_schemas::store as proto;
use bytes::Bytes;

use crate::error::Error;
use crate::storage::Storage;

/// How much one page holds.
const PAGE_ITEMS: usize = 500;
const PAGE_BYTES: usize = 256 << 10;
/// How many documents are looked at for one page: a filter that seldom matches is to see between
/// pages whether anybody still waits.
const PAGE_DOCUMENTS: usize = 5_000;
/// And how many bytes of them: whoever waits is to hear from the node within a second.
const PAGE_LOOKED_BYTES: usize = 8 << 20;
/// And how many expressions are evaluated: a fifth of a second's worth.
const PAGE_EVALUATED: usize = 2_000_000;
/// And how many steps that takes: about as much, unless those for one document alone are more. In tests
/// so few that some pages have one document.
const PAGE_STEPS: usize = if cfg!(test) { 1 << 10 } else { 1 << 25 };
/// And how many entries of an index are passed; in tests so few that some pages have nothing else.
const PAGE_PASSED: usize = if cfg!(test) { 3 } else { 50_000 };

/// A part of a result.
#[derive(Debug)]
pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    /// Whether this was the last.
    pub(crate) is_last: bool,
}

impl<T> Page<T> {
    pub(super) fn new() -> Self {
        Page { items: Vec::new(), is_last: true }
    }
}

/// How much is looked at for an answer that comes at once: it keeps a thread from other things. Of what is
/// large, too, not more than one document.
const AT_ONCE: Most = Most {
    documents: 16,
    looked_bytes: 64 << 10,
    evaluated: 2_000,
    steps: AT_ONCE_STEPS,
    passed: 64,
};
/// How many steps evaluating may take for an answer that comes at once: less than a millisecond.
const AT_ONCE_STEPS: usize = if cfg!(test) { 1 << 8 } else { 1 << 17 };

const PAGE: Most = Most {
    documents: PAGE_DOCUMENTS,
    looked_bytes: PAGE_LOOKED_BYTES,
    evaluated: PAGE_EVALUATED,
    steps: PAGE_STEPS,
    passed: PAGE_PASSED,
};

/// How much is looked at at most.
#[derive(Clone, Copy, Debug)]
struct Most {
    documents: usize,
    looked_bytes: usize,
    evaluated: usize,
    steps: usize,
    passed: usize,
}

/// How much of a page is used.
#[derive(Debug)]
pub(super) struct Used {
    most: Most,
    pub(super) items: usize,
    pub(super) bytes: usize,
    pub(super) documents: usize,
    pub(super) looked_bytes: usize,
    pub(super) evaluated: usize,
    pub(super) meter: Meter,
    pub(super) passed: usize,
}

impl Used {
    /// Nothing of a page.
    pub(super) fn of_page() -> Self {
        Used::of(PAGE, Meter::new())
    }

    /// Nothing of what an answer may take that comes at once.
    pub(super) fn at_once() -> Self {
        Used::of(AT_ONCE, Meter::of(AT_ONCE_STEPS))
    }

    fn of(most: Most, meter: Meter) -> Self {
        Used {
            most,
            items: 0,
            bytes: 0,
            documents: 0,
            looked_bytes: 0,
            evaluated: 0,
            meter,
            passed: 0,
        }
    }

    /// Whether to go on.
    pub(super) fn flow(&self) -> ControlFlow<()> {
        if self.is_full() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    pub(super) fn is_full(&self) -> bool {
        self.items >= PAGE_ITEMS
            || self.bytes >= PAGE_BYTES
            || self.documents >= self.most.documents
            || self.looked_bytes >= self.most.looked_bytes
            || self.evaluated >= self.most.evaluated
            || self.meter.taken() >= self.most.steps
            || self.passed >= self.most.passed
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
        let mut used = Used::of_page();
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
