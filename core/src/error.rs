//! What a caller can do about an error.

/// The kinds of error, by what the caller must do. Every crate's error has a `kind()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Nothing happened; the same call may succeed later.
    Retry,
    /// It may have happened: repeat it only under the same id, or read back.
    Unknown,
    /// A newer holder of the same id took over: stop.
    Fenced,
    /// The input is wrong; the same call will fail again.
    Invalid,
    /// Stored data makes no sense: stop and call a person.
    Corrupt,
    /// The process is stopping.
    Shutdown,
}
