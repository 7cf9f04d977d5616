//! Statements: parsed, planned and evaluated.

use std::sync::Arc;

use anabranch_core::Value;
use anabranch_core::query::{
    Groups, MAX_STATEMENT_BYTES, Meter, Select, SortedRow, SortedRows, Statement, parse,
    parse_taking,
};

use crate::Input;
use crate::condition::{check_condition, only};

/// How many bytes the rows of groups may take together, as on a store node.
const MAX_ROWS_BYTES: usize = 64 << 20;

/// A statement is refused with a reason, or does the same whichever way it is read, planned and divided.
pub fn check_statement(input: &Input) {
    let Input { text, args, documents } = input;
    let parsed = parse(text, args);
    let taken = parse_taking(text, &mut args.clone()).map(|taken| taken.statement);
    assert_eq!(taken, parsed, "whether arguments are copied or taken");
    match parsed {
        Ok(statement) => {
            assert!(text.len() <= MAX_STATEMENT_BYTES);
            check(&statement, documents);
        }
        Err(error) => {
            assert!(!error.to_string().is_empty() && !error.code().is_empty());
            // What is wrong with a part of it is told with its place.
            assert!(error.location().is_some() || text.len() > MAX_STATEMENT_BYTES, "{error}");
        }
    }
}

fn check(statement: &Statement, documents: &[Value]) {
    match statement {
        Statement::Select(select) => check_select(select, documents),
        Statement::Update(update) => check_condition(&update.filter, documents),
        Statement::Delete(delete) => check_condition(&delete.filter, documents),
        Statement::Evict(evict) => check_condition(&evict.filter, documents),
        Statement::Explain(explain) => check(&explain.statement, documents),
        Statement::Insert(insert) => {
            assert!(insert.documents.iter().all(|document| document.as_object().is_some()));
        }
        Statement::CreateIndex(create) => assert!(!create.paths.paths().is_empty()),
        Statement::DropIndex(_) => {}
    }
}

fn check_select(select: &Select, documents: &[Value]) {
    if let Some(filter) = &select.filter {
        check_condition(filter, documents);
    }
    let meter = Meter::new();
    let found: Vec<_> =
        documents.iter().filter(|document| select.matches(document, &meter)).collect();
    if select.is_grouped() {
        return check_groups(select, &found);
    }
    let fields = select.fields();
    let mut rows = SortedRows::new(select.needed());
    for (number, document) in found.into_iter().enumerate() {
        let (row, key) = (select.row(document, &meter), select.sort_key(document, &meter));
        assert!(row.as_object().is_some(), "a row is an object");
        if let Some(fields) = &fields {
            let needed = only(fields, document);
            let same = (select.row(&needed, &meter), select.sort_key(&needed, &meter));
            assert_eq!(same, (row.clone(), key.clone()));
        }
        let read = Value::from_json(row.to_json().as_bytes());
        assert_eq!(read.ok().as_ref(), Some(&row), "a row can be sent");
        rows.add(SortedRow { key, id: number, row });
    }
    let needed = select.needed().and_then(|needed| usize::try_from(needed).ok());
    assert!(rows.into_sorted().count() <= needed.unwrap_or(usize::MAX));
}

/// One node that has seen all and several that have seen a part each come to the same.
fn check_groups(select: &Select, documents: &[&Value]) {
    let select = Arc::new(select.clone());
    let of = |documents: &[&Value]| {
        let mut groups = Groups::new(select.clone());
        documents.iter().for_each(|document| groups.add(document, &Meter::new()));
        groups
    };
    let mut merged = Groups::new(select.clone());
    for part in documents.chunks(2).rev() {
        for group in of(part).into_groups() {
            merged.merge(&group).expect("it is of the same statement");
        }
    }
    assert_eq!(of(documents).into_rows(MAX_ROWS_BYTES), merged.into_rows(MAX_ROWS_BYTES));
}
