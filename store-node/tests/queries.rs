//! Statements whose rows are sorted or made of groups, over several partitions: the rows are those of
//! one store with all documents, whichever node is asked, and another node goes on behind any of them.

#![allow(clippy::unwrap_used, unreachable_pub)] // of a test, whose support is not a library's

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_core::Value;
use anabranch_core::ids::TxnId;
use anabranch_core::query::{Args, Groups, Meter, Select, SortedRow, SortedRows, Statement, parse};
use anabranch_schemas::store as proto;
use bytes::Bytes;

use self::support::cluster::Cluster;
use self::support::indexes::{declare, until_found_by};
use self::support::log::APP;
use self::support::model::Model;
use self::support::{Node, PATIENCE_MS, code, exactly, put};

const STATEMENTS: [&str; 17] = [
    "SELECT * FROM cars",
    "SELECT _id, n * 2 AS twice FROM cars WHERE n % 2 = 0 LIMIT 5 OFFSET 3",
    "SELECT _id FROM cars OFFSET 1000",
    "SELECT * FROM cars ORDER BY n % 4 DESC, name LIMIT 9 OFFSET 2",
    "SELECT name FROM cars WHERE n > 3 ORDER BY length(name), n DESC",
    "SELECT * FROM cars WHERE _id IN (1, 2, 3, 17, 99) ORDER BY n DESC",
    "SELECT COUNT(*), SUM(n) AS s, AVG(visits) AS v, MIN(name) AS a, MAX(name) AS z FROM cars",
    "SELECT n % 5 AS k, COUNT(*) AS c, SUM(n / 4) AS s FROM cars GROUP BY k ORDER BY k DESC",
    "SELECT n % 7 AS k, COUNT(DISTINCT n % 3) AS c FROM cars GROUP BY k HAVING k > 1 LIMIT 3 OFFSET 1",
    "SELECT DISTINCT n % 3 AS k, visits IS MISSING AS new FROM cars ORDER BY new, k",
    "SELECT COUNT(*) AS c FROM cars WHERE n < 0",
    "SELECT COUNT(*) AS c FROM cars WHERE _id IN (1, 2, 3) GROUP BY n",
    "SELECT * FROM cars WHERE n = 7",
    "SELECT _id FROM cars WHERE n IN (3, 5, 5.5, 33, 17) AND name LIKE 'car %' LIMIT 3 OFFSET 1",
    "SELECT _id FROM cars WHERE name = 'car xx'",
    "SELECT n, name FROM cars WHERE name = 'car xx' AND n BETWEEN 5 AND 30 ORDER BY n DESC LIMIT 4",
    "SELECT name, COUNT(*) AS c FROM cars WHERE name > 'car x' GROUP BY name",
];

/// Indexes that serve some of them.
const INDEXES: [(&str, &[&str]); 2] = [("by_n", &["n"]), ("by_name", &["name", "n"])];

/// The rows that one store with all documents gives.
fn expected(statement: &str, documents: &BTreeMap<String, Value>) -> Vec<Value> {
    let Ok(Statement::Select(select)) = parse(statement, &Args::new()) else { panic!() };
    let select: Arc<Select> = Arc::new(select);
    let matching =
        || documents.iter().filter(|(_, document)| select.matches(document, &Meter::new()));
    if select.is_grouped() {
        let mut groups = Groups::new(Arc::clone(&select));
        matching().for_each(|(_, document)| groups.add(document, &Meter::new()));
        let rows = groups.into_rows(usize::MAX).unwrap();
        return rows.iter().map(|row| Value::from_json(row.as_bytes()).unwrap()).collect();
    }
    let mut rows = SortedRows::new(None);
    for (id, document) in matching() {
        rows.add(SortedRow {
            key: select.sort_key(document, &Meter::new()),
            id,
            row: select.row(document, &Meter::new()),
        });
    }
    let count = |count: u64| usize::try_from(count).unwrap();
    let rows = rows.into_sorted().map(|row| row.row).skip(count(select.offset));
    rows.take(select.limit.map_or(usize::MAX, count)).collect()
}

/// The rows behind a place, of which so many are taken.
async fn page(
    node: &Node,
    statement: &str,
    at: TxnId,
    after: Bytes,
    most: Option<u64>,
) -> Result<Vec<proto::QueryItem>, tonic::Status> {
    let request = proto::QueryRequest {
        app: APP.0.as_bytes().to_vec().into(),
        statement: statement.to_owned(),
        args: String::new(),
        at: Some(exactly(at)),
        after,
        readable: String::new(),
        most,
    };
    let mut stream = node.client.clone().query(request).await?.into_inner();
    let mut items = Vec::new();
    while let Some(reply) = stream.message().await? {
        assert_eq!(reply.txn, Some(at.0));
        items.extend(reply.items);
    }
    Ok(items)
}

/// All rows behind a place.
async fn rows(node: &Node, statement: &str, at: TxnId, after: Bytes) -> Vec<proto::QueryItem> {
    page(node, statement, at, after, None).await.unwrap()
}

/// A page of two rows, or of more where that is no more work, has the first of these.
fn begins_with(page: &[proto::QueryItem], rows: &[proto::QueryItem], statement: &str) {
    assert!(page.len() >= rows.len().min(2), "{statement}: {}", page.len());
    assert_eq!(page, &rows[..page.len()], "{statement}");
}

async fn check(cluster: &mut Cluster) {
    cluster.write_some();
    let named = (0..40_u8).map(|n| {
        let fields = format!(r#"{{"n": {n}, "name": "car {}"}}"#, "x".repeat(usize::from(n) % 6));
        (i64::from(n), put(&fields))
    });
    let last = cluster.write(named.collect());
    let model = Model::of(&*cluster.log.journal());
    let documents: BTreeMap<String, Value> = model
        .documents
        .iter()
        .filter_map(|(id, document)| {
            let Value::Object(mut fields) = document.value()? else { return None };
            fields.insert("_id".to_owned(), id.key.to_value());
            Some((id.key.as_str().to_owned(), Value::Object(fields)))
        })
        .collect();
    for statement in STATEMENTS {
        let expected = expected(statement, &documents);
        let mut nodes = cluster.nodes.values().cycle();
        let all = rows(nodes.next().unwrap(), statement, last, Bytes::new()).await;
        let values: Vec<_> =
            all.iter().map(|item| Value::from_json(item.item.as_bytes()).unwrap()).collect();
        assert_eq!(values, expected, "{statement}");
        let first = page(nodes.next().unwrap(), statement, last, Bytes::new(), Some(2)).await;
        begins_with(&first.unwrap(), &all, statement);
        for (number, item) in all.iter().enumerate() {
            let after = Bytes::copy_from_slice(item.stands_at());
            let rest = rows(nodes.next().unwrap(), statement, last, after.clone()).await;
            let next = page(nodes.next().unwrap(), statement, last, after, Some(2)).await;
            begins_with(&next.unwrap(), &rest, statement);
            // Whoever goes on counts by itself how many rows a LIMIT still lets come.
            let has_limit = statement.contains("LIMIT");
            let left = if has_limit { all.len() - number - 1 } else { rest.len() };
            assert_eq!(rest[..left.min(rest.len())], all[number + 1..], "{statement} {number}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_several_partitions_are_those_of_one_store() {
    let mut cluster = Cluster::start().await;
    check(&mut cluster).await;
    // Of other documents, and now with indexes.
    for (name, fields) in INDEXES {
        declare(&cluster.log.journal(), name, fields);
    }
    for statement in ["SELECT * FROM cars WHERE n = 7", "SELECT * FROM cars WHERE name = 'car xx'"]
    {
        for node in cluster.nodes.values() {
            until_found_by(node, statement, "index").await;
        }
    }
    check(&mut cluster).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_a_node_alone_are_the_same() {
    let mut cluster = Cluster::start_with(1, 1, |_| {}).await;
    let node = cluster.nodes.values().next().unwrap();
    let newest = proto::ReadAt { wait_ms: PATIENCE_MS, ..Default::default() };
    let nothing = node.query("SELECT COUNT(*) AS n FROM cars", "", newest).await;
    let rows: Vec<_> = nothing.unwrap().into_iter().flat_map(|reply| reply.items).collect();
    assert_eq!(rows.iter().map(|row| &row.item).collect::<Vec<_>>(), [r#"{"n":0}"#]);
    check(&mut cluster).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_take_too_much_memory_is_refused() {
    let mut cluster = Cluster::start_with(1, 1, |_| {}).await;
    // 30 MB, of which a sort would keep four times as much.
    let text = "x".repeat(1 << 20);
    let mut last = TxnId(0);
    for number in 0..30 {
        last = cluster.write(vec![(number, put(&format!(r#"{{"text": "{text}"}}"#)))]);
    }
    let node = cluster.nodes.values().next().unwrap();
    for (statement, is_refused) in [
        ("SELECT text || text || text AS t FROM cars ORDER BY t", true),
        ("SELECT text || text || text AS t FROM cars ORDER BY t LIMIT 5", false),
        ("SELECT text || text || text || to_string(_id) AS t FROM cars GROUP BY t", true),
        ("SELECT COUNT(*) AS n FROM cars GROUP BY text", false),
    ] {
        match node.query(statement, "", exactly(last)).await {
            Ok(_) => assert!(!is_refused, "{statement}"),
            Err(status) => {
                assert!(is_refused, "{statement}: {status}");
                assert_eq!(code(&status), "query_too_large");
            }
        }
    }
    // Page by page it is not.
    let statement = "SELECT text || text || text AS t FROM cars ORDER BY t";
    let (mut after, mut count) = (Bytes::new(), 0);
    loop {
        let rows = page(node, statement, last, after, Some(5)).await.unwrap();
        let Some(item) = rows.last() else { break };
        after = Bytes::copy_from_slice(item.stands_at());
        count += rows.len();
    }
    assert_eq!(count, 30);
    cluster.stop().await;
}
