//! The rows of a SELECT, from what its partitions found: without those that OFFSET leaves out and those
//! past LIMIT, or made of the groups of all partitions.
//!
//! The place of a row that is made of a group is its number: the same snapshot always gives the same
//! rows in the same order, so that another node goes on behind it.

use std::sync::Arc;

use anabranch_core::query::{Groups, Select};
use anabranch_schemas::store as proto;
use futures::{StreamExt, TryStreamExt, stream};
use tonic::Status;

use super::merge::{Items, REPLY_ITEMS};
use crate::error::Error;
use crate::read::{MAX_KEPT_BYTES, blocking, check_kept, group_of};
use crate::rpc::{refuse, refused};

/// How many bytes of rows that are all there one reply has.
const REPLY_BYTES: usize = 256 << 10;

/// The rows behind the place `after`; there is at least one reply, which may be empty.
pub(super) fn finish(
    select: Arc<Select>,
    after: &[u8],
    found: Items<proto::QueryItem>,
) -> Items<proto::QueryItem> {
    if select.is_grouped() {
        let after = after.to_vec();
        let rows = stream::once(grouped(select, after, found))
            .map_ok(|replies| stream::iter(replies.into_iter().map(Ok)))
            .try_flatten();
        // At once one that is empty: the rows take their time.
        return stream::once(async { Ok(Vec::new()) }).chain(rows).boxed();
    }
    // Who has come behind a row has passed what is left out.
    let skipped = if after.is_empty() { select.offset } else { 0 };
    let left = select.limit.unwrap_or(u64::MAX);
    stream::try_unfold(
        (found, skipped, left, false),
        |(mut found, skipped, left, began)| async move {
            if began && left == 0 {
                return Ok(None);
            }
            let Some(mut items) = found.try_next().await? else {
                return Ok((!began).then(|| (Vec::new(), (found, skipped, left, true))));
            };
            let out = skipped.min(items.len() as u64);
            items.drain(..usize::try_from(out).unwrap_or(usize::MAX));
            items.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            let left = left - items.len() as u64;
            Ok(Some((items, (found, skipped - out, left, true))))
        },
    )
    .boxed()
}

/// The replies of rows that are made of groups.
async fn grouped(
    select: Arc<Select>,
    after: Vec<u8>,
    mut found: Items<proto::QueryItem>,
) -> Result<Vec<Vec<proto::QueryItem>>, Status> {
    let mut groups = Groups::new(select);
    while let Some(items) = found.try_next().await? {
        for item in items {
            let merged = group_of(item).and_then(|group| groups.merge(&group));
            let foreign = || Error::InvalidRequest("a replica gave what is no group".to_owned());
            merged.ok_or_else(|| refuse(&foreign()))?;
            refused(check_kept("the groups", groups.bytes()))?;
        }
    }
    // To sort them takes a moment, in which others are to go on.
    let rows = blocking(move || {
        let too_large = |_| Error::RowsTooLarge(MAX_KEPT_BYTES);
        groups.into_rows(MAX_KEPT_BYTES).map_err(too_large)
    });
    let rows = (1_u64..).zip(refused(rows.await)?).map(|(number, item)| proto::QueryItem {
        key: String::new(),
        item,
        place: number.to_be_bytes().to_vec().into(),
    });
    let mut replies = vec![Vec::new()];
    let mut bytes = 0;
    for item in rows.skip_while(|item| !after.is_empty() && item.place <= after) {
        if bytes >= REPLY_BYTES || replies.last().is_some_and(|reply| reply.len() >= REPLY_ITEMS) {
            replies.push(Vec::new());
            bytes = 0;
        }
        bytes += item.item.len();
        replies.last_mut().expect("there is at least one").push(item);
    }
    Ok(replies)
}
