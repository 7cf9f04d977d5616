//! Queries of the whole cluster: what its parts find, made into the rows of the statement.

use std::collections::BTreeSet;
use std::sync::Arc;

use anabranch_core::ids::DocumentId;
use anabranch_core::query::Select;
use anabranch_core::slicing::PartitionId;
use anabranch_schemas::store as proto;
use futures::{StreamExt, TryStreamExt, stream};
use tonic::Status;

use super::finish::finish;
use super::{Coordinator, Timestamp};
use crate::read::{Question, parse_question};
use crate::rpc::{Replies, app, refused, replies};

impl Coordinator {
    pub(crate) async fn query(
        &self,
        request: proto::QueryRequest,
    ) -> Result<Replies<proto::QueryReply>, Status> {
        let select = match refused(parse_question(&request))? {
            Question::Select(select) => select,
            Question::Explain(select, _) => return self.explain(&select, request).await,
        };
        if self.view.is_alone() {
            return self.query_alone(select, request).await;
        }
        let partitions = self.needed(&request, &select)?;
        let most = select.needed().filter(|_| !select.is_grouped()).unwrap_or(u64::MAX);
        let (at, after, asked) = (request.at, request.after.clone(), of_parts(&select, request));
        let (partitions, after, asked, select) = (&partitions, &after, &asked, &select);
        let read = |at: Timestamp| async move {
            let (txn, stable) = (Some(at.txn.0), at.stable_next());
            let found = self.rows(partitions, at, asked, most).await?;
            let rows = finish(Arc::clone(select), after, found);
            Ok(rows.map_ok(move |items| proto::QueryReply { txn, items, stable }).boxed())
        };
        if let Some(replies) = self.read(at, read).await? {
            return Ok(replies);
        }
        // Of nothing, too, there may be a row: how many there are.
        let rows = finish(Arc::clone(select), after, stream::empty().boxed());
        Ok(rows.map_ok(|items| proto::QueryReply { items, ..Default::default() }).boxed())
    }

    async fn query_alone(
        &self,
        select: Arc<Select>,
        request: proto::QueryRequest,
    ) -> Result<Replies<proto::QueryReply>, Status> {
        let after = request.after.clone();
        let request = of_parts(&select, request);
        let request = proto::QueryRequest { at: self.alone_at(request.at), ..request };
        let found = self.local.select(Arc::clone(&select), &request).await;
        let mut found = refused(found.map(replies))?;
        let first = found.try_next().await?;
        let txn = first.as_ref().and_then(|first| first.txn);
        let found = stream::iter(first.map(Ok)).chain(found).map_ok(|reply| reply.items).boxed();
        let stable = txn.map(|txn| txn + 1);
        let rows = finish(select, &after, found);
        Ok(rows.map_ok(move |items| proto::QueryReply { txn, items, stable }).boxed())
    }

    /// The partitions that a query has to be asked of.
    pub(super) fn needed(
        &self,
        request: &proto::QueryRequest,
        select: &Select,
    ) -> Result<BTreeSet<PartitionId>, Status> {
        let app = refused(app(&request.app))?;
        let membership = self.view.membership();
        let configuration = membership.configuration();
        let Some(keys) = select.condition().and_then(|condition| condition.key()) else {
            return Ok(configuration.partitions().collect());
        };
        let collection = &select.collection;
        let positions = keys
            .into_iter()
            .map(|key| DocumentId { app, collection: collection.clone(), key }.position());
        Ok(positions.map(|position| configuration.partition_of(position)).collect())
    }
}

/// What the parts of a query are asked: rows that are made of groups have places of their own, which the
/// groups know nothing of.
fn of_parts(select: &Select, request: proto::QueryRequest) -> proto::QueryRequest {
    if !select.is_grouped() {
        return request;
    }
    proto::QueryRequest { after: Default::default(), ..request }
}
