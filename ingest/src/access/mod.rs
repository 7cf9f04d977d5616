//! Who asks, and what they may do.
//!
//! What is not allowed is denied. A read is sent to the store nodes with the condition of what may be
//! read, and is answered as if there were nothing else; a write carries both conditions in its round, and
//! the store nodes decide when they apply it, in the order of the log. So nothing here depends on
//! documents: whoever may read nothing of a collection is told so whatever is in it.

mod api_key;
mod audit;
mod caller;
mod issuer;
mod keys;
mod queue;
mod shown;
mod signatures;
mod tokens;

pub use api_key::{ApiToken, NoToken};
pub use audit::Audit;
pub use shown::{JsonWebToken, NoKey, ShownKey};

pub(crate) use audit::{Asked, Sender, of_kind};
pub(crate) use caller::{Caller, Readable};
#[cfg(test)]
pub(crate) use caller::{Permissions, Validity};
pub(crate) use keys::{Keys, check_usable, shown as shown_key};
