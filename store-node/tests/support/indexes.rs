//! Declares indexes, and asks how documents are found.

use std::sync::Arc;
use std::time::Duration;

use anabranch_core::Value;
use anabranch_core::query::{FieldPath, IndexPaths};
use anabranch_journal::Journal;
use anabranch_journal::metadata::{Created, MetadataStore};
use anabranch_schemas::store as proto;

use super::log::{APP, car, identity};
use super::{Node, PATIENCE, PATIENCE_MS};

pub fn declare(journal: &Arc<dyn Journal>, name: &str, fields: &[&str]) {
    let store = MetadataStore::open(Arc::clone(journal), &identity().name).unwrap();
    let path = |field: &&str| FieldPath::new(vec![(*field).to_owned()]).unwrap();
    let paths = IndexPaths::new(fields.iter().map(path).collect()).unwrap();
    let created = store.create_index(APP, &car(0).collection, &name.parse().unwrap(), &paths);
    assert_eq!(created.unwrap(), Created::New);
}

pub fn give_up(journal: &Arc<dyn Journal>, name: &str) {
    let store = MetadataStore::open(Arc::clone(journal), &identity().name).unwrap();
    assert!(store.drop_index(APP, &car(0).collection, &name.parse().unwrap()).unwrap());
}

pub async fn rows(node: &Node, statement: &str, at: proto::ReadAt) -> Vec<Value> {
    let replies = node.query(statement, "", at).await.unwrap();
    let items = replies.into_iter().flat_map(|reply| reply.items);
    items.map(|item| Value::from_json(item.item.as_bytes()).unwrap()).collect()
}

/// What each partition says of how it finds documents.
pub async fn explain(node: &Node, statement: &str, at: proto::ReadAt) -> Vec<Value> {
    let mut rows = rows(node, &format!("EXPLAIN {statement}"), at).await;
    assert_eq!(rows.len(), 1);
    let Value::Object(mut row) = rows.remove(0) else { panic!("an object") };
    let Some(Value::Array(parts)) = row.remove("partitions") else { panic!("partitions") };
    parts
}

pub fn text<'a>(part: &'a Value, name: &str) -> &'a str {
    match part.get(&[name]) {
        Some(Value::String(text)) => text,
        other => panic!("{name} is {other:?}"),
    }
}

pub fn count(part: &Value, name: &str) -> i64 {
    match part.get(&[name]) {
        Some(Value::Int(count)) => *count,
        other => panic!("{name} is {other:?}"),
    }
}

/// Waits until every partition finds what a statement asks for in this way.
pub async fn until_found_by(node: &Node, statement: &str, access: &str) {
    let waiting = async {
        loop {
            let newest = proto::ReadAt { wait_ms: PATIENCE_MS, ..Default::default() };
            let parts = explain(node, statement, newest).await;
            if parts.iter().all(|part| text(part, "access") == access) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("it is found so in time");
}
