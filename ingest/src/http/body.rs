//! Bodies that hold statements.
//!
//! What documents may hold is what a body may: it is read as one value.

use std::collections::BTreeMap;

use anabranch_core::ids::TxnId;
use anabranch_core::{JsonFault, Value};

use crate::error::{Code, Refusal};
use crate::execute::{Asked, Cursor, MAX_ROWS, MAX_STATEMENTS, Page, USUAL_ROWS};

/// A body above this many bytes is parsed on a thread where that keeps nobody waiting.
const LARGE_BYTES: usize = 64 * 1024;

/// What is asked for.
#[derive(Default)]
pub(super) struct Statements {
    pub(super) statements: Vec<Asked>,
    pub(super) atomic: bool,
    pub(super) page: Option<Page>,
}

/// Which of the two it is.
#[derive(Clone, Copy)]
pub(super) enum Shape {
    /// One statement.
    Execute,
    /// Several.
    Transaction,
}

impl Shape {
    /// Reads a body.
    pub(super) async fn read(self, body: bytes::Bytes) -> Result<Statements, Refusal> {
        if body.len() <= LARGE_BYTES {
            return self.parse(&body);
        }
        tokio::task::spawn_blocking(move || self.parse(&body))
            .await
            .map_err(|error| Refusal::new(Code::Internal, format!("parsing broke off: {error}")))?
    }

    fn parse(self, body: &[u8]) -> Result<Statements, Refusal> {
        let value = Value::from_json(body).map_err(|error| match error.fault() {
            JsonFault::Syntax => self.unusable(Code::InvalidJson, &error.to_string()),
            // Nothing else in a body may nest deeply.
            JsonFault::TooDeep => Refusal::new(Code::TooDeep, "the arguments nest too deeply"),
            JsonFault::Unusable => Refusal::of_json(&error),
        })?;
        let mut fields = self.object("it", value)?;
        let atomic = match fields.remove("atomic") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(atomic)) => atomic,
            Some(other) => return Err(self.mistyped("'atomic'", &other)),
        };
        let page = match self {
            Shape::Execute => self.page(&mut fields)?,
            Shape::Transaction => None,
        };
        let statements = match self {
            Shape::Execute => vec![self.statement("it", &mut fields)?],
            Shape::Transaction => self.statements(&mut fields)?,
        };
        self.end("it", &fields)?;
        Ok(Statements { statements, atomic, page })
    }

    /// How much of the rows is wanted, if it is said.
    fn page(self, fields: &mut BTreeMap<String, Value>) -> Result<Option<Page>, Refusal> {
        let rows = match fields.remove("pageSize") {
            None | Some(Value::Null) => None,
            Some(Value::Int(rows)) => {
                let rows = usize::try_from(rows).ok().filter(|rows| (1..=MAX_ROWS).contains(rows));
                let reason = format!("'pageSize' is not from 1 to {MAX_ROWS}");
                Some(rows.ok_or_else(|| self.wrong(&reason))?)
            }
            Some(other) => return Err(self.mistyped("'pageSize'", &other)),
        };
        let cursor = match fields.remove("cursor") {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(Cursor::read(&text)?),
            Some(other) => return Err(self.mistyped("'cursor'", &other)),
        };
        let is_said = rows.is_some() || cursor.is_some();
        Ok(is_said.then(|| Page { rows: rows.unwrap_or(USUAL_ROWS), cursor }))
    }

    fn statements(self, fields: &mut BTreeMap<String, Value>) -> Result<Vec<Asked>, Refusal> {
        let items = match fields.remove("statements") {
            Some(Value::Array(items)) => items,
            Some(other) => return Err(self.mistyped("'statements'", &other)),
            None => return Err(self.wrong("it lacks 'statements'")),
        };
        if !(1..=MAX_STATEMENTS).contains(&items.len()) {
            let count = items.len();
            let reason = format!("a transaction has 1 to {MAX_STATEMENTS} statements, not {count}");
            return Err(self.wrong(&reason));
        }
        let statement = |(number, item): (u32, Value)| {
            let part = format!("statement {number}");
            let mut fields = self.object(&part, item)?;
            let unchanged_since = match fields.remove("ifMatch") {
                None | Some(Value::Null) => None,
                Some(Value::Int(txn)) if txn >= 0 => Some(TxnId(txn.cast_unsigned())),
                Some(_) => {
                    let reason = format!("'ifMatch' of {part} is not a transaction id");
                    return Err(self.wrong(&reason));
                }
            };
            let asked = self.statement(&part, &mut fields)?;
            self.end(&part, &fields)?;
            Ok(Asked { unchanged_since, ..asked })
        };
        (1..).zip(items).map(statement).collect()
    }

    fn statement(self, part: &str, fields: &mut BTreeMap<String, Value>) -> Result<Asked, Refusal> {
        let statement = match fields.remove("statement") {
            Some(Value::String(text)) => text,
            Some(other) => return Err(self.mistyped("'statement'", &other)),
            None => return Err(self.wrong(&format!("{part} lacks 'statement'"))),
        };
        let args = match fields.remove("args") {
            Some(Value::Object(args)) => args,
            None | Some(Value::Null) => BTreeMap::new(),
            Some(other) => return Err(self.mistyped("'args'", &other)),
        };
        Ok(Asked { statement, args, unchanged_since: None })
    }

    fn object(self, part: &str, value: Value) -> Result<BTreeMap<String, Value>, Refusal> {
        match value {
            Value::Object(fields) => Ok(fields),
            other => Err(self.mistyped(part, &other)),
        }
    }

    /// Refuses fields that are left.
    fn end(self, part: &str, fields: &BTreeMap<String, Value>) -> Result<(), Refusal> {
        match fields.keys().next() {
            Some(name) => {
                let name: String = name.chars().take(40).collect();
                Err(self.wrong(&format!("{part} has a field '{name}', which means nothing here")))
            }
            None => Ok(()),
        }
    }

    fn mistyped(self, part: &str, value: &Value) -> Refusal {
        self.wrong(&format!("{part} is of type {}", value.type_name()))
    }

    fn wrong(self, reason: &str) -> Refusal {
        self.unusable(Code::InvalidRequest, reason)
    }

    fn unusable(self, code: Code, reason: &str) -> Refusal {
        Refusal::new(code, format!("the body cannot be used: {reason}")).with_hint(match self {
            Shape::Execute => r#"send {"statement": "..", "args": {..}}"#,
            Shape::Transaction => r#"send {"statements": [{"statement": "..", "args": {..}}, ..]}"#,
        })
    }
}
