//! What is said of documents that were not written.

use std::collections::HashSet;

use anabranch_core::document::MAX_BYTES;

use super::run::Run;
use super::{Decided, Written};
use crate::document::DocumentName;
use crate::error::{Code, Refusal};
use crate::store::{Conflict, Outcome, Reason};

/// How many ids a message lists.
const MAX_LISTED: usize = 10;

impl Written {
    /// Says as which transaction it was applied; takes out the documents that were not written, and says
    /// why if that is a failure.
    pub(super) fn settle(&mut self, run: &Run<'_>, outcome: Outcome) {
        let Outcome { txn, is_atomic, conflicts, kept, too_large, digest: _ } = outcome;
        self.txn = Some(txn);
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
        let others = match self.documents.len() {
            0 => "nothing was written".to_owned(),
            1 => "one other document was written".to_owned(),
            count => format!("{count} other documents were written"),
        };
        let outgrown = (!too_large.is_empty()).then(|| outgrown(&too_large));
        let (code, reason) = match reason(&conflicts) {
            Some((code, reason)) => (code, Some(reason)),
            None => (Code::DocumentTooLarge, None),
        };
        let parts: Vec<_> = reason.into_iter().chain(outgrown).chain([others]).collect();
        let refusal = Refusal::new(code, parts.join("; ")).with_conflicts(conflicts);
        self.refusal = Some(refusal.with_txn(txn));
    }
}

/// The refusal of a document of which a condition cannot hold any more.
pub(super) fn refusal(conflict: Conflict) -> Refusal {
    let conflicts = vec![conflict];
    let (code, message) = reason(&conflicts).expect("there is one");
    Refusal::new(code, message).with_conflicts(conflicts)
}

/// What these conflicts are, if there are any.
fn reason(conflicts: &[Conflict]) -> Option<(Code, String)> {
    let are_taken = conflicts.iter().all(|conflict| conflict.reason == Reason::Exists);
    let is_forbidden = conflicts.iter().any(|conflict| conflict.reason == Reason::Forbidden);
    let code = if is_forbidden {
        Code::Forbidden
    } else if are_taken {
        Code::IdConflict
    } else {
        Code::DocumentChanged
    };
    let message = match conflicts {
        [] => return None,
        [one] => describe(one),
        several => {
            let names = list(several.iter().map(|conflict| &conflict.document));
            match code {
                Code::IdConflict => format!("documents with these ids are there already: {names}"),
                Code::Forbidden => format!("you may not write all of these documents: {names}"),
                _ => format!("these documents are not as they have to be: {names}"),
            }
        }
    };
    Some((code, message))
}

fn describe(conflict: &Conflict) -> String {
    let Conflict { document: DocumentName { key, .. }, winner, reason } = conflict;
    match (reason, winner) {
        (Reason::Exists, Some(txn)) => {
            format!("a document with the _id {key} is there already, of transaction {txn}")
        }
        (Reason::Exists, None) => format!("a document with the _id {key} is there already"),
        (Reason::Changed, Some(txn)) => format!("document {key} was changed by transaction {txn}"),
        (Reason::Changed, None) => format!("document {key} was changed"),
        (Reason::Missing, _) => format!("there is no document with the _id {key}"),
        (Reason::NotYet, _) => {
            format!("document {key} was to be unchanged since a transaction that is still to come")
        }
        (Reason::Forbidden, _) => {
            format!("you may not write document {key} as it is, or as it would become")
        }
    }
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
