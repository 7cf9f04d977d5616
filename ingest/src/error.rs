//! What can go wrong, and how a client is told.
//!
//! A [`Refusal`] is why a request was not done: a stable [`Code`], a message and a hint. All codes
//! stand in one table here; the HTTP status of each belongs to it. An [`Error`] is why the service
//! cannot start or go on.

use std::borrow::Cow;

use anabranch_core::ErrorKind;
use anabranch_core::ids::{IdError, TxnId};
use anabranch_core::query::{QueryError, QueryErrorCode};
use anabranch_journal as journal;
use anabranch_runtime::grpc::GrpcError;

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
    /// The address of the store node, or the certificates for it, cannot be used.
    #[error("reach the store node: {0}")]
    StoreNode(#[from] GrpcError),
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
            Error::Setting { .. } | Error::StoreNode(_) => ErrorKind::Invalid,
            Error::Journal(error) => error.kind(),
            Error::Listen(_) => ErrorKind::Retry,
        }
    }
}

/// Defines [`Code`]: name, code as sent, HTTP status, kind, hint.
macro_rules! codes {
    ($($name:ident $text:literal $status:literal $kind:ident $hint:literal;)*) => {
        /// The sort of a [`Refusal`]. Codes never change their meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(crate) enum Code {
            $(#[doc = $hint] $name,)*
        }

        impl Code {
            /// Every code.
            pub(crate) const ALL: &[Code] = &[$(Code::$name,)*];

            /// The code as clients see it.
            pub(crate) fn as_str(self) -> &'static str {
                match self { $(Code::$name => $text,)* }
            }

            /// The HTTP status it is sent with.
            pub(crate) fn status(self) -> u16 {
                match self { $(Code::$name => $status,)* }
            }

            /// What the caller must do.
            pub(crate) fn kind(self) -> ErrorKind {
                match self { $(Code::$name => ErrorKind::$kind,)* }
            }

            /// What to do about it, unless there is something more precise to say.
            pub(crate) fn hint(self) -> &'static str {
                match self { $(Code::$name => $hint,)* }
            }
        }
    };
}

codes! {
    SyntaxError "syntax_error" 400 Invalid "correct the statement at the place named";
    Unsupported "unsupported" 400 Invalid "rewrite the statement without this part of the language";
    UnknownArgument "unknown_argument" 400 Invalid "give a value in 'args' for each ':name' in the statement";
    InvalidArgument "invalid_argument" 400 Invalid "give a value of the type that belongs there";
    InvalidCollection "invalid_collection" 400 Invalid "use a letter or '_' first, then letters, digits, '_', '-' or '.'";
    MissingWhere "missing_where" 400 Invalid "to mean every document, write WHERE true";
    ImmutableId "immutable_id" 400 Invalid "insert the document under the new id and delete the old one";
    ConflictingPaths "conflicting_paths" 400 Invalid "change each field once";
    DuplicateName "duplicate_name" 400 Invalid "use each name once";
    TooLong "too_long" 400 Invalid "give large values as arguments";
    TooDeep "too_deep" 400 Invalid "nest objects and arrays at most 64 deep";
    InvalidRequest "invalid_request" 400 Invalid "see /openapi.json for the shape of requests";
    InvalidApp "invalid_app" 400 Invalid "an app is named by a UUID, such as 2164bef3-37c0-489c-9ac6-c94b034525d7";
    InvalidId "invalid_id" 400 Invalid "use a string, an integer or an object of such as '_id', at most 1024 bytes as JSON";
    MissingId "missing_id" 400 Invalid "name the field that is the id with ?id=FIELD, or leave it out to have ids drawn";
    InvalidHeader "invalid_header" 400 Invalid "see /openapi.json for the headers and their values";
    InvalidParameter "invalid_parameter" 400 Invalid "see /openapi.json for the parameters and their values";
    InvalidJson "invalid_json" 400 Invalid "send JSON text in UTF-8";
    InvalidDocument "invalid_document" 400 Invalid "a document is a JSON object";
    DocumentNotFound "document_not_found" 404 Invalid "an id in the path is a string; ask for others with ?key=JSON";
    UnknownRoute "unknown_route" 404 Invalid "see /openapi.json for the routes";
    MethodNotAllowed "method_not_allowed" 405 Invalid "see /openapi.json for the methods of each route";
    RequestTimeout "request_timeout" 408 Retry "send the body without long pauses";
    IdConflict "id_conflict" 409 Invalid "use other ids, or say ON ID CONFLICT DO NOTHING or DO UPDATE";
    BodyTooLarge "body_too_large" 413 Invalid "send less at once; the bulk endpoint takes large loads";
    DocumentTooLarge "document_too_large" 413 Invalid "split the document";
    UnsupportedMediaType "unsupported_media_type" 415 Invalid "send application/json, or application/x-ndjson for one document a line";
    DuplicateId "duplicate_id" 422 Invalid "give each document its own id";
    NotANumber "not_a_number" 422 Invalid "leave these documents out with WHERE, or SET the field to a number first";
    TooManyDocuments "too_many_documents" 422 Invalid "narrow the WHERE and change the documents in several statements";
    RoundTooLarge "round_too_large" 422 Invalid "change fewer documents in one statement";
    KeyReused "idempotency_key_reused" 422 Invalid "use a new Idempotency-Key for each new request";
    Internal "internal" 500 Corrupt "look into the server's log";
    Overloaded "overloaded" 503 Retry "send the request again after the time in Retry-After";
    JournalUnavailable "journal_unavailable" 503 Retry "nothing was written; send the request again later";
    StoreUnavailable "store_unavailable" 503 Retry "nothing was written; send the request again later";
    TimestampNotReached "timestamp_not_reached" 503 Retry "the store is behind this transaction; ask again later";
    OutcomeUnknown "outcome_unknown" 503 Unknown "repeat the request with the same Idempotency-Key, or read back what became of it";
    ShuttingDown "shutting_down" 503 Shutdown "send the request again; another server or this one, restarted, will take it";
    DiskFull "disk_full" 507 Retry "nothing was written; free space on the server's disk and send the request again";
    InvalidResource "invalid_resource" 422 Invalid "correct the part of the resource that is named";
    ResourceNotFound "resource_not_found" 404 Invalid "list what there is with GET /api/v1/resources";
    ResourceChanged "resource_changed" 409 Retry "read the resource again and repeat the change";
}

impl From<QueryErrorCode> for Code {
    fn from(code: QueryErrorCode) -> Self {
        match code {
            QueryErrorCode::SyntaxError => Code::SyntaxError,
            QueryErrorCode::Unsupported => Code::Unsupported,
            QueryErrorCode::UnknownArgument => Code::UnknownArgument,
            QueryErrorCode::InvalidArgument => Code::InvalidArgument,
            QueryErrorCode::InvalidCollection => Code::InvalidCollection,
            QueryErrorCode::MissingWhere => Code::MissingWhere,
            QueryErrorCode::ImmutableId => Code::ImmutableId,
            QueryErrorCode::ConflictingPaths => Code::ConflictingPaths,
            QueryErrorCode::DuplicateName => Code::DuplicateName,
            QueryErrorCode::TooLong => Code::TooLong,
            QueryErrorCode::TooDeep => Code::TooDeep,
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
}

impl Refusal {
    /// One with the hint that belongs to the code.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Refusal { code, message: message.into(), hint: None, txn: None }
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
    /// For an `_id` that cannot be used.
    pub(crate) fn of_id(error: &IdError) -> Self {
        Refusal::new(Code::InvalidId, error.to_string())
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
