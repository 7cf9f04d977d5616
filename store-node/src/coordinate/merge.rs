//! Results of several partitions as one, in order of document id.
//!
//! Each partition's part comes from one of its replicas. If that one fails or falls silent, another
//! goes on behind the last item: all of them read the same snapshot (ST-4), so the result is the
//! same as from one.

use std::collections::VecDeque;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use tokio::time::{sleep, timeout};
use tonic::Status;

use anabranch_runtime::grpc;

/// A replica that says nothing for this long while it is waited for is given up. One that is at
/// work says so more often, also when it finds nothing.
const SILENCE: Duration = Duration::from_secs(1);
/// How long to wait before that, longer each time.
const DELAY: Duration = Duration::from_millis(10);
/// How often a part is taken up again by another replica.
const MOST_FAILURES: u32 = 8;
/// How many items one reply has at most.
pub(super) const REPLY_ITEMS: usize = 500;

/// An item of a result.
pub(super) trait Item: Send + 'static {
    /// What the result is in order of.
    fn key(&self) -> &[u8];
}

/// The items of a partition, reply by reply.
pub(super) type Items<T> = BoxStream<'static, Result<Vec<T>, Status>>;

/// Opens a part of the result behind an item.
pub(super) type Open<T> =
    Box<dyn Fn(Option<Vec<u8>>) -> BoxFuture<'static, Result<Items<T>, Status>> + Send + Sync>;

/// The part of one partition.
struct Source<T> {
    open: Open<T>,
    stream: Option<Items<T>>,
    items: VecDeque<T>,
    /// The key of the last item that came.
    last: Option<Vec<u8>>,
    failures: u32,
    is_over: bool,
}

impl<T: Item> Source<T> {
    fn new(open: Open<T>) -> Self {
        let (items, last, failures) = (VecDeque::new(), None, 0);
        Source { open, stream: None, items, last, failures, is_over: false }
    }

    /// Whether a reply has to come before it is known what is next of this part.
    fn is_awaited(&self) -> bool {
        self.items.is_empty() && !self.is_over
    }

    /// Waits for the first reply of a replica, which may be empty.
    async fn begin(&mut self) -> Result<(), Status> {
        while self.is_awaited() && self.stream.is_none() {
            self.take_reply().await?;
        }
        Ok(())
    }

    /// Waits until there is an item, or the end.
    async fn fill(&mut self) -> Result<(), Status> {
        while self.is_awaited() {
            self.take_reply().await?;
        }
        Ok(())
    }

    async fn take_reply(&mut self) -> Result<(), Status> {
        match self.next().await {
            Ok(Some(items)) => {
                self.failures = 0;
                self.last = items.last().map(|item| item.key().to_vec()).or(self.last.take());
                self.items.extend(items);
            }
            Ok(None) => self.is_over = true,
            Err(status) => {
                self.failures += 1;
                self.stream = None;
                if self.failures > MOST_FAILURES || !may_pass(&status) {
                    return Err(status);
                }
                tracing::debug!(%status, "a replica broke off; another goes on");
                sleep(DELAY * self.failures).await;
            }
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<Vec<T>>, Status> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => self.stream.insert((self.open)(self.last.clone()).await?),
        };
        match timeout(SILENCE, stream.next()).await {
            Ok(reply) => reply.transpose(),
            Err(_) => Err(Status::unavailable("a replica has fallen silent")),
        }
    }
}

/// Whether another replica may do better, or the same one a little later.
pub(super) fn may_pass(status: &Status) -> bool {
    match grpc::code_of(status) {
        // A block that cannot be read is bad on one disk.
        Some("storage_failed" | "corrupt") => true,
        Some(code) => matches!(code, "shutting_down" | "catching_up" | "not_here" | "read_untaken"),
        None => true,
    }
}

/// The items of all parts, in order, at most `limit`. Once it gives its first reply, which may be
/// empty, a replica of every part is at work: whoever waits then knows that it only takes its time.
pub(super) fn merge<T: Item>(parts: Vec<Open<T>>, limit: u64) -> Items<T> {
    let sources: Vec<_> = parts.into_iter().map(Source::new).collect();
    let merged =
        stream::try_unfold((sources, limit, false), |(mut sources, left, began)| async move {
            if left == 0 && began {
                return Ok(None);
            }
            if !began {
                futures::future::try_join_all(sources.iter_mut().map(Source::begin)).await?;
                if sources.iter().any(Source::is_awaited) {
                    return Ok(Some((Vec::new(), (sources, left, true))));
                }
            }
            futures::future::try_join_all(sources.iter_mut().map(Source::fill)).await?;
            let mut items = Vec::new();
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(REPLY_ITEMS);
            while items.len() < most {
                let with_item = sources.iter_mut().filter(|source| !source.items.is_empty());
                let Some(first) = with_item.min_by(|a, b| a.items[0].key().cmp(b.items[0].key()))
                else {
                    break;
                };
                items.extend(first.items.pop_front());
                // What comes next of this part may come before what is here of the others.
                if first.items.is_empty() && !first.is_over {
                    break;
                }
            }
            if items.is_empty() && began {
                return Ok(None);
            }
            let left = left - items.len() as u64;
            Ok(Some((items, (sources, left, true))))
        });
    merged.boxed()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures::{FutureExt, TryStreamExt};
    use proptest::prelude::*;
    use tokio::runtime::{Builder, Runtime};

    use super::*;

    impl Item for Vec<u8> {
        fn key(&self) -> &[u8] {
            self
        }
    }

    /// A part with these items, in replies of `page`; every reply whose number is in `breaks`
    /// breaks off.
    fn part(items: BTreeSet<Vec<u8>>, page: usize, breaks: Vec<u32>) -> Open<Vec<u8>> {
        let replies = Arc::new(AtomicU32::new(0));
        Box::new(move |after| {
            let left: Vec<_> = items
                .iter()
                .filter(|item| after.as_ref().is_none_or(|after| *item > after))
                .cloned()
                .collect();
            let pages: Vec<_> = left.chunks(page).map(<[Vec<u8>]>::to_vec).collect();
            let (replies, breaks) = (Arc::clone(&replies), breaks.clone());
            let stream = stream::iter(pages).map(move |page| {
                match breaks.contains(&replies.fetch_add(1, Ordering::Relaxed)) {
                    true => Err(Status::unavailable("broken")),
                    false => Ok(page),
                }
            });
            async move { Ok(stream.boxed()) }.boxed()
        })
    }

    fn runtime() -> Runtime {
        Builder::new_current_thread().enable_time().build().unwrap()
    }

    fn items() -> impl Strategy<Value = BTreeSet<Vec<u8>>> {
        prop::collection::btree_set(prop::collection::vec(0_u8..4, 1..5), 0..30)
    }

    proptest! {
        #[test]
        fn all_items_come_once_and_in_order_however_often_replicas_break_off(
            items in items(),
            parts in 1_usize..5,
            page in 1_usize..7,
            breaks in prop::collection::btree_set(0_u32..20, 0..6),
            limit in prop_oneof![Just(u64::MAX), 0_u64..40],
        ) {
            let mut split = vec![BTreeSet::new(); parts];
            for (number, item) in items.iter().enumerate() {
                split[(number * 7 + item.len()) % parts].insert(item.clone());
            }
            let breaks: Vec<_> = breaks.into_iter().collect();
            let opened = split.into_iter().map(|items| part(items, page, breaks.clone())).collect();
            let replies: Vec<Vec<Vec<u8>>> =
                runtime().block_on(merge(opened, limit).try_collect()).unwrap();
            prop_assert!(!replies.is_empty(), "there is always a first reply");
            let found: Vec<_> = replies.concat();
            let most = usize::try_from(limit).unwrap_or(usize::MAX);
            let expected: Vec<_> = items.into_iter().take(most).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_part_that_always_fails_is_given_up() {
        let fails = part([vec![1]].into(), 1, (0..100).collect());
        let result = runtime().block_on(merge(vec![fails], u64::MAX).try_collect::<Vec<_>>());
        assert_eq!(result.unwrap_err().message(), "broken");
    }
}
