//! Where a SELECT that is read page by page goes on: after which row, and as of which transaction, so
//! that all pages together are one result. A client keeps it and gives it back as it is.

use std::time::Duration;

use anabranch_core::ids::{ActorId, AppId, TxnId};
use anabranch_core::query::Args;
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
/// About what a row takes beside its text.
const ROW_BYTES: usize = 64;
/// How long a page that is full waits for the row behind it, which tells whether it is the last.
const GRACE: Duration = Duration::from_millis(100);
/// How long the place of a row may be in a cursor, which may have to fit a header.
const MAX_PLACE_BYTES: usize = 3 * 1024;
/// More rows than anybody reads.
const MOST_CAME: u64 = 1 << 53;

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
    /// As JSON.
    pub(crate) items: Vec<String>,
    /// Where the next page begins; `None` if this is the last.
    pub(crate) cursor: Option<Cursor>,
}

impl Paged {
    /// The next rows of a statement of this digest, of which so many came on pages before.
    ///
    /// A page that is full is not held back for long to see whether another row follows, and one for
    /// which the time is over has what came: so whoever asks on always gets on. Then the next one may
    /// be empty, and the last.
    pub(super) async fn read(
        mut rows: Rows,
        most: usize,
        came: u64,
        digest: Vec<u8>,
        deadline: Instant,
    ) -> Result<Self, Refusal> {
        let txn = rows.txn;
        let (mut items, mut bytes, mut place) = (Vec::new(), 0, Bytes::new());
        let has_more = 'page: loop {
            let is_full = items.len() >= most || bytes >= FULL_BYTES;
            let until = if is_full { deadline.min(Instant::now() + GRACE) } else { deadline };
            let next = match rows.next(until).await {
                Ok(Some(next)) => next,
                Ok(None) => break false,
                Err(late) if late.code() == Code::DeadlineExceeded && !items.is_empty() => {
                    break true;
                }
                Err(refusal) => return Err(refusal),
            };
            for item in next {
                if items.len() >= most || bytes >= FULL_BYTES {
                    break 'page true;
                }
                bytes += item.item.len() + ROW_BYTES;
                place = Bytes::copy_from_slice(item.stands_at());
                items.push(item.item);
            }
        };
        if has_more && place.len() > MAX_PLACE_BYTES {
            let bytes = place.len();
            let message = format!("the last row of the page is sorted by {bytes} bytes");
            let refusal = Refusal::new(Code::QueryTooLarge, message);
            return Err(refusal.with_hint(
                "a cursor names the last row by what it is sorted by: ORDER BY something shorter, \
                 such as substr(field, 0, 100), or leave out 'pageSize'",
            ));
        }
        let came = came + items.len() as u64;
        let cursor = txn.filter(|_| has_more).map(|txn| Cursor { txn, came, digest, place });
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
    /// Where the last row stands.
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
        if came > MOST_CAME {
            return None;
        }
        // Behind it stands a place, which is never empty.
        let digest = (bytes.len() > DIGEST_BYTES).then(|| bytes.split_to(DIGEST_BYTES))?;
        Some(Cursor { txn, came, digest: digest.to_vec(), place: bytes })
    }

    /// Refuses to go on with another statement, which has other places.
    pub(super) fn check(&self, digest: &[u8]) -> Result<(), Refusal> {
        if self.digest == digest {
            return Ok(());
        }
        let message =
            "the cursor is of another statement, of other arguments or of another cluster";
        Err(Refusal::new(Code::InvalidCursor, message))
    }
}

/// What says which statement of which cluster and app a cursor is of.
pub(super) fn digest(cluster: ActorId, app: AppId, statement: &str, args: &Args) -> Vec<u8> {
    let args = serde_json::to_vec(args).expect("arguments have string keys");
    let digest = Digest::default().with(cluster.0.as_bytes()).with(app.0.as_bytes());
    digest.with(statement.as_bytes()).with(&args).finish()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use uuid::Uuid;

    use super::*;

    #[test]
    fn it_is_of_one_statement_of_one_cluster() {
        let (east, west) = (ActorId(Uuid::from_u128(1)), ActorId(Uuid::from_u128(2)));
        let (one, two) = (AppId(Uuid::from_u128(1)), AppId(Uuid::from_u128(2)));
        let args = Args::from([("a".to_owned(), anabranch_core::Value::Null)]);
        let digests = [
            digest(east, one, "SELECT * FROM c", &Args::new()),
            digest(west, one, "SELECT * FROM c", &Args::new()),
            digest(east, two, "SELECT * FROM c", &Args::new()),
            digest(east, one, "SELECT * FROM d", &Args::new()),
            digest(east, one, "SELECT * FROM c", &args),
        ];
        let different: HashSet<_> = digests.iter().collect();
        assert_eq!(different.len(), digests.len());
    }

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
        let many = Cursor { came: u64::MAX, ..cursor.clone() }.encode();
        let without = Cursor { place: Bytes::new(), ..cursor }.encode();
        assert_eq!(Cursor::decode(&many), None);
        for other in ["", "x", "AQ", "!", &text[..20], &without, &text.replacen('A', "B", 1)] {
            assert_eq!(Cursor::decode(other), None, "{other}");
        }
    }
}
