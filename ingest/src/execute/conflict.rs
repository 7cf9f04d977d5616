//! What is said of documents that were not written.

use std::collections::HashSet;

use anabranch_core::document::MAX_BYTES;

use super::run::Run;
use super::{Decided, Written};
use crate::document::DocumentName;
use crate::error::{Code, Refusal};
use crate::store::{Conflict, Outcome};

/// How many ids a message lists.
const MAX_LISTED: usize = 10;

impl Written {
    /// Takes out the documents that were not written, and says why if that is a failure.
    pub(super) fn settle(&mut self, run: &Run<'_>, outcome: Outcome) {
        let Outcome { txn, is_atomic, conflicts, kept, too_large, digest: _ } = outcome;
        if run.is_conditional {
            self.decided = Some(if is_atomic { Decided::Whole } else { Decided::PerDocument });
        }
        let has_failed = !conflicts.is_empty() || !too_large.is_empty();
        let left = conflicts.iter().map(|conflict| &conflict.document);
        let left: HashSet<_> = left.chain(&kept).chain(&too_large).collect();
        let is_none = has_failed && is_atomic;
        self.documents.retain(|name| !is_none && !left.contains(name));
        if !has_failed {
            return;
        }
        let refusal = if conflicts.is_empty() {
            Refusal::new(Code::DocumentTooLarge, outgrown(&too_large))
        } else {
            refusal(run.conflict, conflicts)
        };
        let others = match self.documents.len() {
            0 => "nothing was written".to_owned(),
            1 => "one other document was written".to_owned(),
            count => format!("{count} other documents were written"),
        };
        let message = format!("{}; {others}", refusal.message());
        self.refusal = Some(refusal.with_message(message).with_txn(txn));
    }
}

/// The refusal of documents of which a condition did not hold.
pub(super) fn refusal(code: Code, conflicts: Vec<Conflict>) -> Refusal {
    let taken = code == Code::IdConflict;
    let message = match &conflicts[..] {
        [Conflict { document, winner }] => {
            let key = &document.key;
            match (taken, winner) {
                (true, Some(txn)) => {
                    format!("a document with the _id {key} is there already, of transaction {txn}")
                }
                (true, None) => format!("a document with the _id {key} is there already"),
                (false, Some(txn)) => format!("document {key} was changed by transaction {txn}"),
                (false, None) => format!("there is no document with the _id {key}"),
            }
        }
        several => {
            let names = list(several.iter().map(|conflict| &conflict.document));
            match taken {
                true => format!("documents with these ids are there already: {names}"),
                false => format!("these documents are not as they were any more: {names}"),
            }
        }
    };
    Refusal::new(code, message).with_conflicts(conflicts)
}

fn outgrown(documents: &[DocumentName]) -> String {
    format!(
        "{} would become larger than {MAX_BYTES} bytes with what is there already, and what was \
         there stays",
        list(documents.iter())
    )
}

fn list<'a>(documents: impl ExactSizeIterator<Item = &'a DocumentName>) -> String {
    let more = documents.len() > MAX_LISTED;
    let names = documents.take(MAX_LISTED).map(|name| name.key.as_str());
    let mut text = names.collect::<Vec<_>>().join(", ");
    if more {
        text.push_str(" and others");
    }
    text
}
