//! The codes of refusals: one table.

use anabranch_core::ErrorKind;
use anabranch_core::query::QueryErrorCode;

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
    UnknownArgument "unknown_argument" 400 Invalid
        "give a value in 'args' for each ':name' in the statement";
    InvalidArgument "invalid_argument" 400 Invalid "give a value of the type that belongs there";
    InvalidCollection "invalid_collection" 400 Invalid
        "use a letter or '_' first, then letters, digits, '_', '-' or '.'";
    InvalidIndex "invalid_index" 400 Invalid "name fields that documents have, each once";
    MissingWhere "missing_where" 400 Invalid "to mean every document, write WHERE true";
    ImmutableId "immutable_id" 400 Invalid
        "insert the document under the new id and delete the old one";
    ConflictingPaths "conflicting_paths" 400 Invalid "change each field once";
    DuplicateName "duplicate_name" 400 Invalid "use each name once";
    TooLong "too_long" 400 Invalid "give large values as arguments";
    TooDeep "too_deep" 400 Invalid "nest objects and arrays at most 64 deep";
    InvalidCursor "invalid_cursor" 400 Invalid
        "send the 'cursor' of the reply before as it is, with the same statement and arguments";
    InvalidRequest "invalid_request" 400 Invalid "see /openapi.json for the shape of requests";
    InvalidApp "invalid_app" 400 Invalid
        "an app is named by a UUID, such as 2164bef3-37c0-489c-9ac6-c94b034525d7";
    InvalidId "invalid_id" 400 Invalid
        "use a string, an integer or an object without fractions as '_id', not empty and at most \
         1024 bytes as JSON";
    MissingId "missing_id" 400 Invalid
        "name the field that is the id with ?id=FIELD, or leave it out to have ids drawn";
    InvalidHeader "invalid_header" 400 Invalid "see /openapi.json for the headers and their values";
    InvalidParameter "invalid_parameter" 400 Invalid
        "see /openapi.json for the parameters and their values";
    InvalidJson "invalid_json" 400 Invalid "send JSON text in UTF-8";
    InvalidValue "invalid_value" 400 Invalid
        "send integers beyond 64 bits as strings, and each key of an object once";
    InvalidDocument "invalid_document" 400 Invalid "a document is a JSON object";
    Unauthenticated "unauthenticated" 401 Invalid
        "send a key of the app with -H 'Authorization: Bearer KEY'; 'anabranch key create' makes one";
    HostNotAllowed "host_not_allowed" 403 Invalid
        "ask by IP address or as localhost, or add the name to the setting ingest.allowed_hosts";
    Forbidden "forbidden" 403 Invalid
        "ask whoever manages the keys of the app for one that may do this";
    DocumentNotFound "document_not_found" 404 Invalid
        "an id in the path is a string; ask for others with ?key= and percent-encoded JSON";
    IndexNotFound "index_not_found" 404 Invalid "say IF EXISTS if there need not be one";
    UnknownRoute "unknown_route" 404 Invalid "see /openapi.json for the routes";
    MethodNotAllowed "method_not_allowed" 405 Invalid
        "see /openapi.json for the methods of each route";
    RequestTimeout "request_timeout" 408 Retry "send the body without long pauses";
    IdConflict "id_conflict" 409 Invalid
        "use other ids, or say ON ID CONFLICT DO NOTHING or DO UPDATE";
    IndexExists "index_exists" 409 Invalid
        "say IF NOT EXISTS if one over the same fields is good enough, or DROP INDEX first";
    DocumentChanged "document_changed" 409 Invalid
        "read the documents again, decide anew, and send the ETag or transaction of that reading, not \
         the one of this reply";
    SnapshotGone "snapshot_gone" 410 Invalid
        "begin again without a cursor: what was so long ago can no longer be read";
    BodyTooLarge "body_too_large" 413 Invalid
        "send less at once; the bulk endpoint takes large loads";
    DocumentTooLarge "document_too_large" 413 Invalid "split the document";
    UnsupportedMediaType "unsupported_media_type" 415 Invalid
        "send the body uncompressed, with the Content-Type that the route takes";
    DuplicateId "duplicate_id" 422 Invalid "give each document its own id";
    NotANumber "not_a_number" 422 Invalid
        "leave these documents out with WHERE, or SET the field to a number first";
    TooManyDocuments "too_many_documents" 422 Invalid
        "narrow the WHERE and change the documents in several statements";
    QueryTooLarge "query_too_large" 422 Invalid
        "ask for less: narrow the WHERE, add a LIMIT to an ORDER BY, or group by fewer values";
    TooManyIndexes "too_many_indexes" 422 Invalid "give up one that queries need less, with DROP INDEX";
    RoundTooLarge "round_too_large" 422 Invalid "change fewer documents in one statement";
    NotAtomic "not_atomic" 422 Invalid
        "leave out 'atomic', and each document is decided by itself, or send one request for each";
    KeyReused "idempotency_key_reused" 422 Invalid "use a new Idempotency-Key for each new request";
    KeyRefused "idempotency_key_refused" 422 Invalid
        "send the request under a new Idempotency-Key once what was in its way is gone";
    Internal "internal" 500 Corrupt "look into the server's log";
    StoreHalted "store_halted" 500 Corrupt
        "an operator has to look into the log of the store node: it does not go on by itself";
    Overloaded "overloaded" 503 Retry "send the request again after the time in Retry-After";
    JournalUnavailable "journal_unavailable" 503 Retry
        "nothing was written; send the request again later";
    StoreUnavailable "store_unavailable" 503 Retry
        "nothing was done; send the request again later";
    TimestampNotReached "timestamp_not_reached" 503 Retry
        "the store is behind this transaction; ask again later";
    TransactionUnknown "transaction_unknown" 409 Invalid
        "send the transaction of a reply of this cluster, or none";
    DeadlineExceeded "deadline_exceeded" 504 Retry
        "nothing was done; ask for less at once, or allow more time in X-Anabranch-Timeout-Ms";
    OutcomeUnknown "outcome_unknown" 503 Unknown
        "repeat the request with the same Idempotency-Key, or read back what became of it";
    ShuttingDown "shutting_down" 503 Shutdown
        "send the request again; another server or this one, restarted, will take it";
    DiskFull "disk_full" 507 Retry
        "nothing was written; free space on the server's disk and send the request again";
    InvalidResource "invalid_resource" 422 Invalid "correct the part of the resource that is named";
    ResourceNotFound "resource_not_found" 404 Invalid
        "list what there is with GET /api/v1/resources";
    ResourceExists "resource_exists" 409 Invalid
        "take another name, or change the one that is there; 'anabranch key rotate' gives a key a new \
         secret if nobody has the old one";
    ClusterInUse "cluster_in_use" 409 Invalid
        "keep the partitions, their weights and the partition of each node; to divide data \
         otherwise, declare a new cluster before anything is written to it";
    MayLose "may_lose" 409 Invalid
        "wait until a store node that stays has everything, or say that it may be lost";
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
            QueryErrorCode::InvalidIndex => Code::InvalidIndex,
            QueryErrorCode::MissingWhere => Code::MissingWhere,
            QueryErrorCode::ImmutableId => Code::ImmutableId,
            QueryErrorCode::ConflictingPaths => Code::ConflictingPaths,
            QueryErrorCode::DuplicateName => Code::DuplicateName,
            QueryErrorCode::TooLong => Code::TooLong,
            QueryErrorCode::TooDeep => Code::TooDeep,
        }
    }
}
