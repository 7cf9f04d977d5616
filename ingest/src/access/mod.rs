//! Who asks, and what they may do.
//!
//! What is not allowed is denied. A read is sent to the store nodes with the condition of what may be
//! read, and is answered as if there were nothing else; a write carries both conditions in its round, and
//! the store nodes decide when they apply it, in the order of the log. So nothing here depends on
//! documents: whoever may read nothing of a collection is told so whatever is in it.

mod api_key;
mod audit;
mod caller;
mod keys;

pub use api_key::{ApiToken, NoToken};
pub use audit::Audit;

pub(crate) use api_key::ApiKeyHash;
pub(crate) use audit::{Asked, of_kind};
pub(crate) use caller::{Caller, Permissions, Readable};
pub(crate) use keys::{Keys, token as shown_token};
