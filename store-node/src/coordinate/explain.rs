//! How the whole cluster finds the documents of a query: what each partition says of its own.

use std::collections::BTreeSet;

use anabranch_core::Value;
use anabranch_core::query::Select;
use anabranch_core::slicing::PartitionId;
use anabranch_schemas::store as proto;
use futures::future::try_join_all;
use futures::{StreamExt, TryStreamExt, stream};
use tonic::Status;

use super::merge::Items;
use super::rows::RowsRequest;
use super::{Coordinator, Timestamp};
use crate::error::Error;
use crate::rpc::{Replies, refuse, refused, replies};

impl Coordinator {
    /// One row: an object.
    pub(super) async fn explain(
        &self,
        select: &Select,
        request: proto::QueryRequest,
    ) -> Result<Replies<proto::QueryReply>, Status> {
        if self.view.is_alone() {
            let request = proto::QueryRequest { at: self.alone_at(request.at), ..request };
            let mut found = refused(self.local.query(request).await.map(replies))?;
            let first = found.try_next().await?;
            let txn = first.as_ref().and_then(|first| first.txn);
            let found = stream::iter(first.map(Ok)).chain(found).map_ok(|reply| reply.items);
            let parts = vec![part(PartitionId(0), found.boxed()).await?];
            return Ok(row(select, parts, txn, txn.map(|txn| txn + 1)));
        }
        let partitions: BTreeSet<PartitionId> = self.needed(&request, select)?;
        let (partitions, asked) = (&partitions, &request);
        let read = |at: Timestamp| async move {
            let (txn, stable) = (Some(at.txn.0), at.stable_next());
            let at = &at;
            let parts = partitions.iter().map(|partition| async move {
                let open = |replica| asked.clone().ask(replica, at.read_at());
                part(*partition, self.stream(*partition, at.txn, open).await?).await
            });
            Ok(row(select, try_join_all(parts).await?, txn, stable))
        };
        let explained = self.read(request.at, read).await?;
        // Nothing is there yet, and nobody has to be asked for it.
        Ok(explained.unwrap_or_else(|| row(select, Vec::new(), None, None)))
    }
}

/// What a partition says, with its number.
async fn part(partition: PartitionId, mut found: Items<proto::QueryItem>) -> Result<Value, Status> {
    let mut last = None;
    while let Some(items) = found.try_next().await? {
        last = items.into_iter().next_back().or(last);
    }
    let json = last.map(|item| item.item).unwrap_or_default();
    let Ok(Value::Object(mut fields)) = Value::from_json(json.as_bytes()) else {
        let foreign = "a replica gave what is no explanation".to_owned();
        return Err(refuse(&Error::InvalidRequest(foreign)));
    };
    fields.insert("partition".to_owned(), Value::Int(partition.0.into()));
    Ok(Value::Object(fields))
}

fn row(
    select: &Select,
    parts: Vec<Value>,
    txn: Option<u64>,
    stable: Option<u64>,
) -> Replies<proto::QueryReply> {
    let examined = parts.iter().filter_map(|part| match part.get(&["examined"]) {
        Some(Value::Int(count)) => Some(*count),
        _ => None,
    });
    let examined = examined.reduce(i64::saturating_add).map(Value::Int);
    let order = match (select.is_grouped(), select.is_sorted()) {
        (true, _) => "the groups of all partitions are merged, then sorted",
        (false, true) => "each partition sorts its rows, which are merged",
        (false, false) => "each partition has its rows in the order of _id, and they are merged",
    };
    let fields = [
        ("order", Some(order.into())),
        ("examined", examined),
        ("partitions", Some(Value::Array(parts))),
    ];
    let fields = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    let item = fields.collect::<Value>().to_json();
    let items = vec![proto::QueryItem { key: String::new(), item, place: Default::default() }];
    stream::iter([Ok(proto::QueryReply { txn, items, stable })]).boxed()
}

#[cfg(test)]
mod tests {
    use anabranch_core::query::{Args, Statement, parse};

    use super::*;

    /// Two partitions of one cluster, as their replicas tell of themselves after a run.
    const RUN: [&str; 2] = [
        r#"{"access":"index","why":"a","index":"by_n (n)","examined":4,"matched":3,"rows":2,
            "elapsedMs":1.5}"#,
        r#"{"access":"scan","why":"b","examined":700,"matched":1,"rows":1,"elapsedMs":0.25}"#,
    ];
    const NOT_RUN: [&str; 2] =
        [r#"{"access":"ids","why":"a"}"#, r#"{"access":"scan","why":"there is no condition"}"#];

    fn said(text: &str) -> Items<proto::QueryItem> {
        let item = proto::QueryItem { item: text.to_owned(), ..Default::default() };
        // While a replica is at work it says so with replies that have nothing in them.
        stream::iter([Ok(vec![]), Ok(vec![]), Ok(vec![item]), Ok(vec![])]).boxed()
    }

    /// What the cluster says of a statement of which its partitions say this.
    async fn explained(statement: &str, of_parts: [&str; 2]) -> String {
        let parsed = parse(statement, &Args::new());
        let Ok(Statement::Select(select)) = parsed else { panic!("{parsed:?}") };
        let mut parts = Vec::new();
        for (number, text) in (3..).zip(of_parts) {
            parts.push(part(PartitionId(number), said(text)).await.unwrap());
        }
        let replies = row(&select, parts, Some(7), Some(8)).try_collect::<Vec<_>>().await.unwrap();
        let [proto::QueryReply { txn: Some(7), stable: Some(8), items }] = &replies[..] else {
            panic!("one reply, with its timestamps: {replies:?}")
        };
        assert_eq!(items.len(), 1, "one row");
        items[0].item.clone()
    }

    #[tokio::test]
    async fn what_each_partition_says_is_there_and_what_all_looked_at_together() {
        let found = explained("SELECT * FROM c WHERE n = 1", RUN).await;
        let expected = [
            r#"{"examined":704,"#,
            r#""order":"each partition has its rows in the order of _id, and they are merged","#,
            r#""partitions":[{"access":"index","elapsedMs":1.5,"examined":4,"index":"by_n (n)","#,
            r#""matched":3,"partition":3,"rows":2,"why":"a"},"#,
            r#"{"access":"scan","elapsedMs":0.25,"examined":700,"matched":1,"partition":4,"#,
            r#""rows":1,"why":"b"}]}"#,
        ];
        assert_eq!(found, expected.concat());
        let found = explained("SELECT * FROM c", NOT_RUN).await;
        let expected = [
            r#"{"order":"each partition has its rows in the order of _id, and they are merged","#,
            r#""partitions":[{"access":"ids","partition":3,"why":"a"},"#,
            r#"{"access":"scan","partition":4,"why":"there is no condition"}]}"#,
        ];
        assert_eq!(found, expected.concat(), "nothing was looked at");
    }

    #[tokio::test]
    async fn it_is_told_how_rows_are_put_in_order() {
        let grouped = "the groups of all partitions are merged, then sorted";
        for (statement, order) in [
            ("SELECT a FROM c ORDER BY a", "each partition sorts its rows, which are merged"),
            ("SELECT a FROM c GROUP BY a", grouped),
            ("SELECT DISTINCT a FROM c ORDER BY a", grouped),
        ] {
            let found = Value::from_json(explained(statement, RUN).await.as_bytes()).unwrap();
            assert_eq!(found.get(&["order"]), Some(&order.into()), "{statement}");
        }
    }

    #[tokio::test]
    async fn what_is_no_explanation_is_refused() {
        let nothing = stream::iter([Ok(vec![])]).boxed();
        for found in [said("[]"), said("{"), nothing] {
            let status = part(PartitionId(0), found).await.unwrap_err();
            assert!(status.message().contains("what is no explanation"), "{status}");
        }
    }
}
