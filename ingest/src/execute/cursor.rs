//! Where a SELECT that is read page by page goes on: after which row, and as of which transaction, so
//! that all pages together are one result. A client keeps it and gives it back as it is.

use anabranch_core::ids::{AppId, TxnId};
use anabranch_core::query::Args;
use anabranch_schemas::store::QueryItem;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use bytes::{Buf, BufMut, Bytes};
use tokio::time::Instant;

use crate::error::{Code, Refusal};
use crate::idempotency::Digest;
use crate::store::Rows;

const VERSION: u8 = 1;
const DIGEST_BYTES: usize = 16;

/// How many rows a page may have.
pub(crate) const MAX_ROWS: usize = 10_000;
/// And how many it has if that is not said.
pub(crate) const USUAL_ROWS: usize = 1_000;
/// A page that has so many bytes of rows ends, too: all of it is in memory at once.
const FULL_BYTES: usize = 4 << 20;

/// How much of a result is wanted.
#[derive(Debug)]
pub(crate) struct Page {
    /// So many rows at most.
    pub(crate) rows: usize,
    /// After those that came before; from the first without it.
    pub(crate) cursor: Option<Cursor>,
}

/// The rows of a page.
pub(crate) struct Paged {
    /// The snapshot.
    pub(crate) txn: Option<TxnId>,
    pub(crate) items: Vec<QueryItem>,
    /// Where the next page begins; `None` if this is the last.
    pub(crate) cursor: Option<Cursor>,
}

impl Paged {
    /// The next rows of a statement of this digest, of which so many came on pages before.
    pub(super) async fn read(
        mut rows: Rows,
        most: usize,
        came: u64,
        digest: Vec<u8>,
        deadline: Instant,
    ) -> Result<Self, Refusal> {
        let txn = rows.txn;
        let (mut items, mut bytes, mut has_more) = (Vec::new(), 0, false);
        'page: while let Some(next) = rows.next(deadline).await? {
            for item in next {
                if items.len() >= most || bytes >= FULL_BYTES {
                    has_more = true;
                    break 'page;
                }
                bytes += item.item.len();
                items.push(item);
            }
        }
        let last = items.last().filter(|_| has_more);
        let cursor = txn.zip(last).map(|(txn, last)| Cursor {
            txn,
            came: came + items.len() as u64,
            digest,
            place: Bytes::copy_from_slice(last.stands_at()),
        });
        Ok(Paged { txn, items, cursor })
    }
}

/// A place between two rows of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// As of which transaction the result is.
    pub(crate) txn: TxnId,
    /// How many rows came before.
    pub(crate) came: u64,
    /// Of which statement, with its arguments.
    pub(crate) digest: Vec<u8>,
    /// Where the last row stands ([`QueryItem::stands_at`]).
    pub(crate) place: Bytes,
}

impl Cursor {
    /// As a client gets it.
    pub(crate) fn encode(&self) -> String {
        let Cursor { txn, came, digest, place } = self;
        let mut bytes = vec![VERSION];
        bytes.put_u64(txn.0);
        bytes.put_u64(*came);
        bytes.put_slice(digest);
        bytes.put_slice(place);
        BASE64.encode(bytes)
    }

    /// Reads what a client gives back.
    pub(crate) fn read(text: &str) -> Result<Self, Refusal> {
        let unreadable = || Refusal::new(Code::InvalidCursor, "that is no cursor of a reply");
        Cursor::decode(text).ok_or_else(unreadable)
    }

    fn decode(text: &str) -> Option<Self> {
        let mut bytes = Bytes::from(BASE64.decode(text).ok()?);
        if bytes.try_get_u8().ok()? != VERSION {
            return None;
        }
        let (txn, came) = (TxnId(bytes.try_get_u64().ok()?), bytes.try_get_u64().ok()?);
        // Behind it stands a place, which is never empty.
        let digest = (bytes.len() > DIGEST_BYTES).then(|| bytes.split_to(DIGEST_BYTES))?;
        Some(Cursor { txn, came, digest: digest.to_vec(), place: bytes })
    }

    /// Refuses to go on with another statement, which has other places.
    pub(super) fn check(&self, digest: &[u8]) -> Result<(), Refusal> {
        if self.digest == digest {
            return Ok(());
        }
        let message = "the cursor is of another statement, or of other arguments";
        Err(Refusal::new(Code::InvalidCursor, message))
    }
}

/// What says which statement of which app a cursor is of.
pub(super) fn digest(app: AppId, statement: &str, args: &Args) -> Vec<u8> {
    let args = serde_json::to_vec(args).expect("arguments have string keys");
    Digest::default().with(app.0.as_bytes()).with(statement.as_bytes()).with(&args).finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_back_and_nothing_else_is_one() {
        let cursor = Cursor {
            txn: TxnId(7),
            came: 1 << 40,
            digest: vec![9; DIGEST_BYTES],
            place: Bytes::from_static(b"\x00place"),
        };
        let text = cursor.encode();
        assert_eq!(Cursor::decode(&text), Some(cursor.clone()));
        let without = Cursor { place: Bytes::new(), ..cursor }.encode();
        for other in ["", "x", "AQ", "!", &text[..20], &without, &text.replacen('A', "B", 1)] {
            assert_eq!(Cursor::decode(other), None, "{other}");
        }
    }
}
