//! Keeps the store's indexes as they are wished for, a small step at a time, between batches of the log:
//! so what is added to an index that is being built is never older than what the log has added.
//!
//! Between two steps everything is on disk or comes again, as with the log: see `storage::indexes`.

use std::ops::ControlFlow;

use anabranch_core::ids::{DocumentId, TxnId};

use super::applier::Applier;
use super::moves::Image;
use crate::error::Error;
use crate::metrics;
use crate::read::decode_id;
use crate::storage::{Batch, Catalog, Index, IndexState, decode_state};
use crate::wishes::Step;

/// How many documents are looked at at once for an index that is being built, and how many bytes of them:
/// a few milliseconds' worth, in which nothing else is applied.
pub(super) const PAGE: u64 = 1_000;
const PAGE_BYTES: usize = 512 << 10;

impl Applier {
    /// Makes one step, if there is one to make. Whether there was.
    pub(super) fn tend_indexes(&mut self) -> Result<bool, Error> {
        let catalog = self.storage.indexes();
        let Some(step) = self.wishes.step(&catalog) else { return Ok(false) };
        match step {
            Step::Begin(over, name) => {
                let number = self.storage.next_index()?;
                let index = Index::begun(number, over, name);
                tracing::info!(number = number.0, paths = %index.over.paths, "an index is begun");
                let mut batch = Batch::new(&self.storage, 1024);
                batch.take_index_number(number);
                self.put_index(batch, index, &catalog)?;
            }
            Step::Rename(index) => {
                self.put_index(Batch::new(&self.storage, 1024), index, &catalog)?;
            }
            Step::Drop(number) => {
                // First here: whoever finds it here has seen all that was in it.
                let without = catalog.without(number);
                metrics::set_indexes(&without);
                self.storage.set_indexes(without);
                let mut batch = Batch::new(&self.storage, 1024);
                batch.drop_index(number);
                self.persistence.write(batch, &self.progress)?;
                tracing::info!(number = number.0, "an index is given up");
            }
            Step::Fill(index) => self.fill(index, &catalog)?,
        }
        Ok(true)
    }

    /// Adds the next documents to an index that is being built.
    fn fill(&mut self, mut index: Index, catalog: &Catalog) -> Result<(), Error> {
        let IndexState::Building { after, mut documents } = index.state else { return Ok(()) };
        let prefix = DocumentId::collection_prefix(index.over.app, &index.over.collection);
        let start = after.map(|key| [&prefix[..], key.as_bytes()].concat());
        let until = documents + self.indexed_at_once;
        let (mut bytes, mut last) = (0, None);
        let mut batch = Batch::new(&self.storage, PAGE_BYTES);
        index.state = IndexState::Built { from: self.progress.last };
        // What is newest, whatever that is: a change to come finds what it moves from.
        let newest = TxnId(u64::MAX);
        self.storage.documents(&prefix, start.as_deref(), newest, |id, _, state| {
            let id = decode_id(id)?;
            let document = decode_state(state)?;
            if let Some(values) = Image::of(Some(&document)).entry(&index, &id.key) {
                batch.add_entry(index.number, &values, id.key.as_str());
            }
            documents += 1;
            bytes += state.len();
            if documents < until && bytes < PAGE_BYTES {
                return Ok(ControlFlow::Continue(()));
            }
            last = Some(id.key.as_str().to_owned());
            Ok(ControlFlow::Break(()))
        })?;
        if last.is_some() {
            index.state = IndexState::Building { after: last, documents };
        } else {
            tracing::info!(number = index.number.0, documents, "an index is built");
        }
        self.put_index(batch, index, catalog)
    }

    /// Writes an index as it is now, with what else is in the batch.
    fn put_index(
        &self,
        mut batch: Batch<'_>,
        index: Index,
        catalog: &Catalog,
    ) -> Result<(), Error> {
        batch.put_index(&index);
        self.persistence.write(batch, &self.progress)?;
        let catalog = catalog.with(index);
        metrics::set_indexes(&catalog);
        self.storage.set_indexes(catalog);
        Ok(())
    }
}
