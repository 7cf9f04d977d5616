//! What can go wrong, and how a client is told.
//!
//! A [`Refusal`] is why a request was not done: a stable [`Code`], a message and a hint. All codes
//! stand in one table, in `code`; the HTTP status of each belongs to it. An [`Error`] is why the service
//! cannot start or go on.

mod code;

use std::borrow::Cow;

use anabranch_core::ids::{IdError, TxnId};
use anabranch_core::query::QueryError;
use anabranch_core::{ErrorKind, JsonError, JsonFault};
use anabranch_journal as journal;
use anabranch_journal::metadata::MetadataError;

use crate::store::Conflict;

pub(crate) use code::Code;

/// What to do about documents that are too many for a statement.
pub(crate) const BULK: &str = "send many documents to the bulk endpoint, \
                               POST /apps/{app}/api/v1/collections/{collection}/documents";

/// Why the service cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting cannot be used.
    #[error("setting '{setting}': {reason}")]
    Setting {
        /// Its name.
        setting: &'static str,
        /// Why not.
        reason: String,
    },
    /// The journal failed.
    #[error("use the journal: {0}")]
    Journal(#[from] journal::Error),
    /// Connections cannot be accepted.
    #[error("accept connections: {0}")]
    Listen(#[from] std::io::Error),
}

impl Error {
    /// What the caller must do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Setting { .. } => ErrorKind::Invalid,
            Error::Journal(error) => error.kind(),
            Error::Listen(_) => ErrorKind::Retry,
        }
    }
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Refusal {
    code: Code,
    message: String,
    hint: Option<Cow<'static, str>>,
    txn: Option<TxnId>,
    conflicts: Vec<Conflict>,
}

impl Refusal {
    /// One with the hint that belongs to the code.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        let (hint, txn, conflicts) = (None, None, Vec::new());
        Refusal { code, message: message.into(), hint, txn, conflicts }
    }

    /// Why nothing is begun, and nothing gone on with: the server is being stopped.
    pub(crate) fn stopping() -> Self {
        Refusal::new(Code::ShuttingDown, "the server is being stopped")
    }

    /// With another message.
    #[must_use]
    pub(crate) fn with_message(mut self, message: String) -> Self {
        self.message = message;
        self
    }

    /// The same, of a part of what was sent.
    #[must_use]
    pub(crate) fn within(self, part: &str) -> Self {
        let message = format!("{part}: {}", self.message);
        self.with_message(message)
    }

    /// With the documents of which a condition did not hold.
    #[must_use]
    pub(crate) fn with_conflicts(mut self, conflicts: Vec<Conflict>) -> Self {
        self.conflicts = conflicts;
        self
    }

    /// With a more precise hint.
    #[must_use]
    pub(crate) fn with_hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With the transaction that was written although the request as a whole was not done.
    #[must_use]
    pub(crate) fn with_txn(mut self, txn: TxnId) -> Self {
        self.txn = Some(txn);
        self
    }

    /// Its code.
    pub(crate) fn code(&self) -> Code {
        self.code
    }

    /// What happened.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// What to do about it.
    pub(crate) fn hint(&self) -> &str {
        self.hint.as_deref().unwrap_or_else(|| self.code.hint())
    }

    /// The documents of which a condition did not hold.
    pub(crate) fn conflicts(&self) -> &[Conflict] {
        &self.conflicts
    }

    /// The transaction that was written nevertheless.
    pub(crate) fn txn(&self) -> Option<TxnId> {
        self.txn
    }

    /// What the caller must do.
    pub(crate) fn kind(&self) -> ErrorKind {
        self.code.kind()
    }
}

impl From<QueryError> for Refusal {
    fn from(error: QueryError) -> Self {
        let refusal = Refusal::new(error.error_code().into(), error.to_string());
        match error.hint() {
            Some(hint) => refusal.with_hint(hint.to_owned()),
            None => refusal,
        }
    }
}

impl Refusal {
    /// For text that is no JSON, or holds what a document cannot.
    pub(crate) fn of_json(error: &JsonError) -> Self {
        match error.fault() {
            JsonFault::TooDeep => Refusal::new(Code::TooDeep, "the document nests too deeply"),
            JsonFault::Syntax => Refusal::new(Code::InvalidJson, format!("not JSON: {error}")),
            JsonFault::Unusable => Refusal::new(Code::InvalidValue, error.to_string()),
        }
    }

    /// For an `_id` that cannot be used.
    pub(crate) fn of_id(error: &IdError) -> Self {
        Refusal::new(Code::InvalidId, error.to_string())
    }

    /// For an error of the metadata store.
    pub(crate) fn of_metadata(error: &MetadataError) -> Self {
        match error {
            MetadataError::Conflict { .. } => {
                Refusal::new(Code::ResourceChanged, error.to_string())
            }
            MetadataError::Journal(error) => Refusal::of_journal(error),
        }
    }

    /// For an error of the journal about something that was to be written or read.
    pub(crate) fn of_journal(error: &journal::Error) -> Self {
        let code = match error {
            journal::Error::DiskFull(_) => Code::DiskFull,
            journal::Error::TooLarge { .. } => Code::RoundTooLarge,
            journal::Error::Busy { .. } => Code::Overloaded,
            other => match other.kind() {
                // A fenced writer is made anew by the round writer; until then it is down.
                ErrorKind::Retry | ErrorKind::Fenced => Code::JournalUnavailable,
                ErrorKind::Unknown => Code::OutcomeUnknown,
                ErrorKind::Shutdown => Code::ShuttingDown,
                ErrorKind::Invalid | ErrorKind::Corrupt => Code::Internal,
            },
        };
        Refusal::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_are_distinct_and_all_have_a_hint() {
        let texts: BTreeSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(texts.len(), Code::ALL.len());
        assert!(Code::ALL.iter().all(|code| !code.hint().is_empty()));
    }

    #[test]
    fn codes_of_statements_are_those_of_the_query_language() {
        let error = anabranch_core::query::parse("SELEC", &Default::default()).unwrap_err();
        let code = error.code();
        assert_eq!(Refusal::from(error).code().as_str(), code);
    }
}
