//! Rows that are kept are those that a query would find, and whoever follows the changes has them.

use anabranch_core::Value;
use anabranch_core::query::{self, Args, Meter, Select, Statement};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::live::row_set::{Made, RowChange, RowSet};

/// A document: its id, and its fields if it is there.
type Given = (u8, Option<(u8, u8)>);

fn select(statement: &str) -> Select {
    match query::parse(statement, &Args::new()).unwrap() {
        Statement::Select(select) => select,
        other => panic!("{other:?}"),
    }
}

fn id(number: u8) -> String {
    format!("{number}")
}

/// The row of a document, if it has one.
fn made(select: &Select, (number, fields): &Given) -> Made {
    let id = id(*number);
    let document = fields.map(|(a, b)| {
        let text = format!(r#"{{"_id":{id},"a":{a},"b":{b}}}"#);
        Value::from_json(text.as_bytes()).unwrap()
    });
    let document = document.filter(|document| select.matches(document, &Meter::new()));
    let row = document.map(|document| {
        (
            select.place(&document, &id, &Meter::new()),
            select.row(&document, &Meter::new()).to_json().into(),
        )
    });
    Made { id: id.into(), row }
}

/// What a query finds in these documents.
fn found(select: &Select, documents: &[Given]) -> RowSet {
    let mut rows = RowSet::default();
    for given in documents {
        let Made { id, row } = made(select, given);
        if let Some((place, item)) = row {
            rows.insert(id, place, item);
        }
    }
    rows
}

/// A client, which knows rows by their documents' ids only.
#[derive(Default)]
struct Client(Vec<(String, String)>);

impl Client {
    fn apply(&mut self, changes: &[RowChange], is_sorted: bool) {
        let named = |change: &RowChange| match change {
            RowChange::Removed(id) | RowChange::Set { id, .. } => id.to_string(),
        };
        let named: Vec<_> = changes.iter().map(named).collect();
        self.0.retain(|(id, _)| !named.contains(id));
        for change in changes {
            let RowChange::Set { id, item, after } = change else { continue };
            let place = match after {
                _ if !is_sorted => self.0.partition_point(|(other, _)| **other < **id),
                None => 0,
                Some(after) => {
                    1 + self
                        .0
                        .iter()
                        .position(|(other, _)| **other == **after)
                        .expect("it is there")
                }
            };
            self.0.insert(place, (id.to_string(), item.to_string()));
        }
    }

    fn items(&self) -> Vec<&str> {
        self.0.iter().map(|(_, item)| item.as_str()).collect()
    }
}

fn items(rows: &RowSet) -> Vec<&str> {
    rows.items().map(|item| &**item).collect()
}

fn statements() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "SELECT * FROM c",
        "SELECT a FROM c WHERE b > 1",
        "SELECT a, a + b AS sum FROM c WHERE a != b",
        "SELECT * FROM c ORDER BY a",
        "SELECT b FROM c WHERE a < 3 ORDER BY b DESC, a",
    ])
}

fn given() -> impl Strategy<Value = Given> {
    (0..12_u8, prop::option::weighted(0.8, (0..4_u8, 0..4_u8)))
}

proptest! {
    #[test]
    fn they_are_those_that_a_query_finds(
        statement in statements(),
        transactions in vec(vec(given(), 1..5), 1..20),
    ) {
        let select = select(statement);
        let (mut rows, mut client) = (RowSet::default(), Client::default());
        let mut documents = std::collections::BTreeMap::new();
        for transaction in transactions {
            let before = found(&select, &documents.clone().into_iter().collect::<Vec<_>>());
            documents.extend(transaction.iter().copied());
            let now = found(&select, &documents.clone().into_iter().collect::<Vec<_>>());
            // A transaction changes a document once, but may be told of in any order.
            let changes = rows.apply(transaction.iter().map(|given| made(&select, given)));
            prop_assert!(rows.is_same_as(&now));
            prop_assert_eq!(rows.bytes(), now.bytes());
            client.apply(&changes, select.is_sorted());
            prop_assert_eq!(client.items(), items(&now));
            // Rows that were read again differ by what a client needs to know, and no more.
            let mut other = Client::default();
            other.apply(&before.since(&RowSet::default()), select.is_sorted());
            prop_assert_eq!(other.items(), items(&before));
            let difference = now.since(&before);
            other.apply(&difference, select.is_sorted());
            prop_assert_eq!(other.items(), items(&now));
            prop_assert_eq!(difference.is_empty(), now.is_same_as(&before));
        }
    }
}

#[test]
fn what_stays_as_it_is_is_not_told() {
    let select = select("SELECT a FROM c ORDER BY a");
    let mut rows = found(&select, &[(1, Some((1, 0))), (2, Some((2, 0)))]);
    assert!(rows.apply([made(&select, &(1, Some((1, 3))))]).is_empty(), "b is not selected");
    assert!(rows.apply([made(&select, &(3, None))]).is_empty());
    let moved = rows.apply([made(&select, &(1, Some((3, 3))))]);
    let after = Some("2".into());
    assert_eq!(moved, [RowChange::Set { id: "1".into(), item: r#"{"a":3}"#.into(), after }]);
    assert_eq!(rows.apply([made(&select, &(2, None))]), [RowChange::Removed("2".into())]);
}
