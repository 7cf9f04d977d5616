//! What can go wrong with a bridge, and what the caller must do.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anabranch_core::ErrorKind;
use anabranch_runtime::tls::TlsError;
use anabranch_schemas::RecordError;

use crate::link::RefusalCode;

/// An error of the bridge. [`Error::kind`] says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address to listen on cannot be used.
    #[error("listen for other clusters on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// Certificates or keys of this cluster cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An address to dial makes no sense.
    #[error("cannot dial '{address}': {reason}")]
    Address {
        /// The address.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The other cluster cannot be reached, or the connection broke.
    #[error("{what} {peer}: {source}")]
    Connection {
        /// What was being done.
        what: &'static str,
        /// With whom.
        peer: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// One side did not accept the other's certificate.
    #[error("{reason}; {hint}")]
    Untrusted {
        /// Who did not accept what.
        reason: String,
        /// What to do about it.
        hint: String,
    },
    /// The other cluster will not go on.
    #[error("the other cluster refused the link ({code}): {reason}")]
    Refused {
        /// The stable code.
        code: String,
        /// Its words.
        reason: String,
    },
    /// This cluster will not go on.
    #[error("refused the link ({}): {reason}", code.as_str())]
    Refusing {
        /// The stable code.
        code: RefusalCode,
        /// Why.
        reason: String,
    },
    /// Nothing was heard for too long.
    #[error("nothing was heard from the other cluster for {0:?}")]
    Silent(Duration),
    /// The other cluster closed the link.
    #[error("the other cluster closed the link")]
    Closed,
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] anabranch_journal::Error),
    /// A record of this cluster's topics cannot be read.
    #[error("read {what}: {source}")]
    Record {
        /// Which record.
        what: String,
        /// Why not.
        source: RecordError,
    },
    /// Records of this cluster's topics contradict each other.
    #[error("{0}")]
    Corrupt(String),
    /// The store node failed.
    #[error("read a snapshot from the store node: {0}")]
    Store(String),
    /// Certificates cannot be made.
    #[error("make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// A file of an identity cannot be read or written.
    #[error("{what} '{}': {source}", path.display())]
    File {
        /// What was being done.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A file of an identity is there already.
    #[error("'{}' exists; it is not overwritten: remove it or choose another directory", .0.display())]
    Exists(PathBuf),
    /// A setting is wrong.
    #[error("{0}")]
    Invalid(String),
    /// The process is stopping.
    #[error("the bridge is shutting down")]
    Shutdown,
}

impl Error {
    /// What the caller must do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Connection { .. }
            | Error::Refused { .. }
            | Error::Silent(_)
            | Error::Closed
            | Error::Store(_)
            // It passes once somebody has set the clock.
            | Error::Refusing { code: RefusalCode::ClockDrift, .. } => ErrorKind::Retry,
            Error::Listen { .. }
            | Error::Tls(_)
            | Error::Address { .. }
            | Error::Untrusted { .. }
            | Error::Refusing { .. }
            | Error::Certificate(_)
            | Error::File { .. }
            | Error::Exists(_)
            | Error::Invalid(_) => ErrorKind::Invalid,
            Error::Journal(error) => error.kind(),
            Error::Record { .. } | Error::Corrupt(_) => ErrorKind::Corrupt,
            Error::Shutdown => ErrorKind::Shutdown,
        }
    }

    /// A peer that breaks the protocol is told so.
    pub(crate) fn protocol(reason: impl Into<String>) -> Self {
        Error::Refusing { code: RefusalCode::Protocol, reason: reason.into() }
    }
}
