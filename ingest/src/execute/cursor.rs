//! Where a SELECT that is read page by page goes on: after which row, and as of which transaction, so
//! that all pages together are one result. A client keeps it and gives it back as it is: one that was
//! altered is refused.

use std::time::Duration;

use anabranch_core::ids::{ActorId, AppId, TxnId};
use anabranch_core::query::Args;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use bytes::{Buf, BufMut, Bytes};
use tokio::time::Instant;

use crate::access::Caller;
use crate::error::{Code, Refusal};
use crate::seal::{DIGEST_BYTES, Seal};
use crate::store::Rows;

/// In version 1 txn, count and place could be altered.
const VERSION: u8 = 2;

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
    /// The next rows of a statement whose cursors have this seal, of which so many came on pages before.
    ///
    /// A page that is full is not held back for long to see whether another row follows, and one for
    /// which the time is over has what came: so whoever asks on always gets on. Then the next one may
    /// be empty, and the last.
    pub(super) async fn read(
        mut rows: Rows,
        most: usize,
        came: u64,
        seal: &Seal,
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
        let cursor = txn.filter(|_| has_more).map(|txn| Cursor::new(seal, txn, came, place));
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
    /// Where the last row stands.
    pub(crate) place: Bytes,
    /// Of all of it, and of what it is a cursor of.
    digest: [u8; DIGEST_BYTES],
}

impl Cursor {
    fn new(seal: &Seal, txn: TxnId, came: u64, place: Bytes) -> Self {
        let mut cursor = Cursor { txn, came, place, digest: [0; DIGEST_BYTES] };
        cursor.digest = seal.digest(&cursor.covered());
        cursor
    }

    /// What its digest covers.
    fn covered(&self) -> Vec<u8> {
        let Cursor { txn, came, place, digest: _ } = self;
        let mut bytes = vec![VERSION];
        bytes.put_u64(txn.0);
        bytes.put_u64(*came);
        bytes.put_slice(place);
        bytes
    }

    /// As a client gets it.
    pub(crate) fn encode(&self) -> String {
        let Cursor { txn, came, place, digest } = self;
        let mut bytes = vec![VERSION];
        bytes.put_u64(txn.0);
        bytes.put_u64(*came);
        bytes.put_slice(digest);
        bytes.put_slice(place);
        BASE64.encode(bytes)
    }

    /// Reads what a client gives back.
    pub(crate) fn read(text: &str) -> Result<Self, Refusal> {
        Cursor::decode(text).ok_or_else(refused)
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
        let digest = *digest.first_chunk()?;
        Some(Cursor { txn, came, place: bytes, digest })
    }

    /// Refuses one that was not given out under this seal, or not as it is now.
    pub(super) fn check(&self, seal: &Seal) -> Result<(), Refusal> {
        if seal.is_of(&self.covered(), &self.digest) { Ok(()) } else { Err(refused()) }
    }
}

fn refused() -> Refusal {
    let message = "the cursor is damaged, or of another statement, other arguments, or another caller, \
                   app or cluster";
    Refusal::new(Code::InvalidCursor, message)
}

/// The seal of the cursors of a statement. A client, who is not told the cluster's actor, can make none
/// himself: neither of an older transaction nor of another place.
pub(super) fn seal(
    cluster: ActorId,
    app: AppId,
    caller: &Caller,
    statement: &str,
    args: &Args,
) -> Seal {
    let args = serde_json::to_vec(args).expect("arguments have string keys");
    let (app, caller) = (app.0.as_bytes(), caller.name().as_bytes());
    Seal::new(cluster, &[b"cursor", app, caller, statement.as_bytes(), &args])
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::access::{Permissions, Validity};
    use crate::doubles::EAST;

    fn some_seal() -> Seal {
        Seal::new(EAST, &[b"some"])
    }

    fn some_cursor(seal: &Seal) -> Cursor {
        Cursor::new(seal, TxnId(7), 1 << 40, Bytes::from_static(b"\x00place"))
    }

    #[test]
    fn it_is_of_one_statement_of_one_caller_of_one_cluster() {
        let west = ActorId(Uuid::from_u128(2));
        let [one, two] = [1, 2].map(|number| AppId(Uuid::from_u128(number)));
        let [ann, bob] = ["ann", "bob"]
            .map(|name| Caller::new(name.to_owned(), Permissions::default(), Validity::default()));
        let none = Args::new();
        let args = Args::from([("a".to_owned(), anabranch_core::Value::Null)]);
        let cursor = some_cursor(&seal(EAST, one, &ann, "SELECT * FROM c", &none));
        let check = |seal: &Seal| cursor.check(seal).map_err(|refusal| refusal.code());
        assert_eq!(check(&seal(EAST, one, &ann, "SELECT * FROM c", &none)), Ok(()));
        for other in [
            seal(west, one, &ann, "SELECT * FROM c", &none),
            seal(EAST, two, &ann, "SELECT * FROM c", &none),
            seal(EAST, one, &bob, "SELECT * FROM c", &none),
            seal(EAST, one, &ann, "SELECT * FROM d", &none),
            seal(EAST, one, &ann, "SELECT * FROM c", &args),
        ] {
            assert_eq!(check(&other), Err(Code::InvalidCursor));
        }
    }

    #[test]
    fn one_that_was_altered_is_refused() {
        let seal = some_seal();
        let cursor = some_cursor(&seal);
        assert!(cursor.check(&seal).is_ok());
        for altered in [
            Cursor { txn: TxnId(6), ..cursor.clone() },
            Cursor { came: 0, ..cursor.clone() },
            Cursor { place: Bytes::from_static(b"\x00plac"), ..cursor.clone() },
            Cursor { digest: [0; DIGEST_BYTES], ..cursor },
        ] {
            assert!(altered.check(&seal).is_err(), "{altered:?}");
        }
    }

    #[test]
    fn it_reads_back_and_nothing_else_is_one() {
        let cursor = some_cursor(&some_seal());
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
