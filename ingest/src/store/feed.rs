//! What the store nodes applied, in order, as it happens.

use anabranch_core::ids::TxnId;
use anabranch_runtime::grpc;
use anabranch_schemas::store as proto;
use tokio::time::Instant;
use tonic::{Status, Streaming};

use super::{Client, Store, refusal};
use crate::error::{Code, Refusal};

/// A reply has at least one change, and those of a transaction that is cut are much smaller.
const MAX_REPLY_BYTES: usize = 256 << 20;

/// The changes of all collections.
pub(crate) struct Feed(Streaming<proto::FeedReply>);

impl Store {
    /// Everything below this is applied, by the node that answers.
    pub(crate) async fn applied(&self, deadline: Instant) -> Result<TxnId, Refusal> {
        let status =
            |mut client: Client| async move { client.status(proto::StatusRequest {}).await };
        let reply = self.ask(deadline, status).await?.into_inner();
        Ok(TxnId(reply.applied_next))
    }

    /// What was applied from a transaction on. If that is not there any more, it is
    /// [`Code::SnapshotGone`].
    pub(crate) async fn feed(&self, from: TxnId, deadline: Instant) -> Result<Feed, Refusal> {
        let open = |client: Client| async move {
            let request = proto::FeedRequest { slices: Vec::new(), from: from.0, has_part: false };
            let mut client = client.max_decoding_message_size(MAX_REPLY_BYTES);
            client.feed(request).await
        };
        Ok(Feed(self.ask_or(deadline, refuse, open).await?.into_inner()))
    }
}

impl Feed {
    /// The next reply.
    pub(crate) async fn next(&mut self) -> Result<proto::FeedReply, Refusal> {
        let reply = self.0.message().await.map_err(|status| refuse(&status))?;
        reply.ok_or_else(|| Refusal::new(Code::StoreUnavailable, "the feed of changes has ended"))
    }
}

fn refuse(status: &Status) -> Refusal {
    match grpc::code_of(status) {
        Some("feed_trimmed") => Refusal::new(Code::SnapshotGone, status.message()),
        _ => refusal(status),
    }
}
