//! From the clauses of a SELECT, as they are written, to what they mean together.
//!
//! A name that a column was given with AS stands for that column in GROUP BY, HAVING and ORDER BY. What
//! is computed of a group may be made of the keys of the group and of aggregates only. DISTINCT is a
//! GROUP BY of all columns.
//!
//! Every expression comes with where it stood: what is wrong with it is told with its place.

use std::collections::{BTreeSet, HashMap};

use super::super::aggregate::Aggregate;
use super::super::error::{Location, QueryError, QueryErrorCode};
use super::super::expr::{Expr, Step};
use super::super::parse::shorten;
use super::super::predicate::Predicate;
use super::super::{MAX_FILTER_BYTES, text};
use super::{Columns, Grouping, Select};
use crate::ids::Collection;

/// How many expressions rows are grouped by at most: all that is computed of a group is compared
/// with each of them.
const MAX_KEYS: usize = 1_000;

/// The clauses of a SELECT.
#[derive(Default)]
pub(in super::super) struct Clauses {
    pub(in super::super) is_distinct: bool,
    pub(in super::super) items: Vec<Item>,
    pub(in super::super) filter: Option<Predicate>,
    pub(in super::super) group_by: Vec<Part>,
    pub(in super::super) having: Option<Part>,
    pub(in super::super) order_by: Vec<(Part, Direction)>,
    pub(in super::super) limit: Option<u64>,
    pub(in super::super) offset: u64,
}

/// What is selected.
pub(in super::super) enum Item {
    /// `*`.
    Document(Location),
    /// `expression [AS name]`.
    Column { part: Part, name: Option<String> },
}

/// An expression, and where it stood.
#[derive(Clone)]
pub(in super::super) struct Part {
    pub(in super::super) expr: Expr,
    pub(in super::super) location: Location,
}

impl Part {
    /// The same with what `change` makes of the expression; what it finds wrong is wrong here.
    fn try_map(
        self,
        change: impl FnOnce(Expr) -> Result<Expr, QueryError>,
    ) -> Result<Self, QueryError> {
        let Part { expr, location } = self;
        let expr = change(expr).map_err(|error| error.at(location))?;
        Ok(Part { expr, location })
    }
}

/// How rows are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Direction {
    Ascending,
    Descending,
}

impl Select {
    pub(in super::super) fn new(
        collection: Collection,
        clauses: Clauses,
    ) -> Result<Self, QueryError> {
        let Clauses { is_distinct, items, filter, group_by, having, order_by, limit, offset } =
            clauses;
        let mut aliases = Aliases::of(&items);
        let mut replace = |part: Part| part.try_map(|expr| aliases.replace(expr));
        let group_by = group_by.into_iter().map(&mut replace).collect::<Result<Vec<_>, _>>()?;
        let having = having.map(&mut replace).transpose()?;
        let mut order = Vec::with_capacity(order_by.len());
        for (key, direction) in order_by {
            order.push((replace(key)?, direction));
        }
        group_by.iter().try_for_each(check_group_key)?;
        order.iter().try_for_each(|(key, _)| check_key(key, "ORDER BY"))?;
        let (document, columns) = columns(items)?;
        let mut written = columns.iter().map(|(_, column)| column);
        let is_grouped = !group_by.is_empty()
            || having.is_some()
            || written.any(|column| has_aggregate(&column.expr))
            || order.iter().any(|(key, _)| has_aggregate(&key.expr));
        // Documents differ in their ids, so with all of them nothing comes twice.
        let has_id = document.is_some() && !columns.iter().any(|(name, _)| name == "_id");
        if !is_grouped && (!is_distinct || has_id) {
            let computed = columns.into_iter().map(|(name, column)| (name, column.expr)).collect();
            let columns = Columns { has_document: document.is_some(), computed };
            let order = order.into_iter().map(|(key, direction)| (key.expr, direction)).collect();
            let (grouping, readable) = (None, None);
            return Ok(Select {
                collection,
                filter,
                readable,
                limit,
                offset,
                columns,
                grouping,
                order,
            });
        }
        if let Some(location) = document {
            let message = "'*' is of documents, but the rows are groups of them";
            return Err(QueryError::new(QueryErrorCode::InvalidArgument, message)
                .at(location)
                .with_hint("name what to select: what stands in GROUP BY, and aggregates"));
        }
        let (by, keys) = if is_grouped {
            (By::GroupBy, group_by)
        } else {
            (By::Distinct, columns.iter().map(|(_, column)| column.clone()).collect())
        };
        let keys = by.keys(keys)?;
        let mut slots = Slots { keys: &keys, aggregates: Vec::new(), places: HashMap::new(), by };
        let mut take = |part: Part| part.try_map(|expr| slots.take(expr)).map(|part| part.expr);
        let mut computed = Vec::with_capacity(columns.len());
        for (name, column) in columns {
            computed.push((name, take(column)?));
        }
        let having = having.map(&mut take).transpose()?;
        let mut ordered = Vec::with_capacity(order.len());
        for (key, direction) in order {
            ordered.push((take(key)?, direction));
        }
        let aggregates = slots.aggregates;
        let is_distinct = is_distinct && is_grouped;
        let grouping = Some(Grouping { keys, aggregates, having, is_distinct });
        let columns = Columns { has_document: false, computed };
        let (readable, order) = (None, ordered);
        Ok(Select { collection, filter, readable, limit, offset, columns, grouping, order })
    }
}

fn has_aggregate(expr: &Expr) -> bool {
    expr.any_part(&mut |part| matches!(part, Expr::Aggregate(_)))
}

/// Refuses what SQL takes for the number of a column, and what would be the same of every row.
fn check_key(key: &Part, clause: &str) -> Result<(), QueryError> {
    let Expr::Literal(value) = &key.expr else { return Ok(()) };
    let message = format!("{clause} {} is the same for all rows", shorten(&value.to_json()));
    Err(QueryError::new(QueryErrorCode::InvalidArgument, message)
        .at(key.location)
        .with_hint("name a column, or write what it is computed of"))
}

/// Refuses to group by that, too, and by what is of a group.
fn check_group_key(key: &Part) -> Result<(), QueryError> {
    check_key(key, "GROUP BY")?;
    if !has_aggregate(&key.expr) {
        return Ok(());
    }
    let by = shorten(&key.expr.to_string());
    let message = format!("rows cannot be grouped by '{by}', which is of a group");
    Err(QueryError::new(QueryErrorCode::InvalidArgument, message)
        .at(key.location)
        .with_hint("what is asked of groups stands in HAVING"))
}

/// The names that columns were given, and the columns.
struct Aliases {
    columns: HashMap<String, Expr>,
    /// How many bytes of text columns may still take the places of their names.
    left: usize,
}

impl Aliases {
    fn of(items: &[Item]) -> Self {
        let given = items.iter().filter_map(|item| match item {
            Item::Column { part, name: Some(name) } => Some((name.clone(), part.expr.clone())),
            _ => None,
        });
        Aliases { columns: given.collect(), left: MAX_FILTER_BYTES }
    }

    /// An expression with the columns in the place of their names.
    fn replace(&mut self, expr: Expr) -> Result<Expr, QueryError> {
        match expr {
            // What stands in an aggregate is of documents, which know nothing of columns.
            Expr::Aggregate(_) => Ok(expr),
            Expr::Path(path) => {
                let Some(column) = self.columns.get(&path.steps()[0]) else {
                    return Ok(Expr::Path(path));
                };
                let Some(left) = self.left.checked_sub(text::length(column)) else {
                    let message =
                        "the columns whose names are used elsewhere are too long together";
                    return Err(QueryError::new(QueryErrorCode::TooLong, message)
                        .with_hint("give large values as arguments, and sort by fewer columns"));
                };
                self.left = left;
                Ok(inside(column.clone(), &path.steps()[1..]))
            }
            other => other.try_map(&mut |part| self.replace(part)),
        }
    }
}

/// What lies inside an expression.
fn inside(expr: Expr, names: &[String]) -> Expr {
    Expr::access(expr, names.iter().cloned().map(Step::Field).collect())
}

/// What rows are grouped by, for messages.
#[derive(Clone, Copy)]
enum By {
    GroupBy,
    Distinct,
}

impl By {
    /// What rows are grouped by, unless that is too much.
    fn keys(self, keys: Vec<Part>) -> Result<Vec<Expr>, QueryError> {
        let Some(key) = keys.get(MAX_KEYS) else {
            return Ok(keys.into_iter().map(|key| key.expr).collect());
        };
        let (message, hint) = match self {
            By::GroupBy => (
                format!("GROUP BY has more than {MAX_KEYS} expressions"),
                "group by an object that has the fields in it",
            ),
            By::Distinct => (
                format!("DISTINCT is of more than {MAX_KEYS} columns"),
                "select an object that has the fields in it, or leave DISTINCT out",
            ),
        };
        let error = QueryError::new(QueryErrorCode::TooLong, message);
        Err(error.at(key.location).with_hint(hint))
    }
}

/// The slots of a group: its keys, then its aggregates.
struct Slots<'a> {
    keys: &'a [Expr],
    aggregates: Vec<Aggregate>,
    /// Where among them the one of a text is: there may be thousands.
    places: HashMap<String, usize>,
    by: By,
}

impl Slots<'_> {
    /// An expression with slots in the place of what is known of the group.
    fn take(&mut self, expr: Expr) -> Result<Expr, QueryError> {
        if let Some(slot) = self.keys.iter().position(|key| *key == expr) {
            return Ok(Expr::Slot(slot));
        }
        match expr {
            Expr::Aggregate(_) => {
                let next = self.aggregates.len();
                let place = *self.places.entry(expr.to_string()).or_insert(next);
                if place == next
                    && let Expr::Aggregate(aggregate) = expr
                {
                    self.aggregates.push(*aggregate);
                }
                Ok(Expr::Slot(self.keys.len() + place))
            }
            Expr::Path(path) => {
                // A key may be the object that the field lies in.
                let around = self.keys.iter().enumerate().find_map(|(slot, key)| match key {
                    Expr::Path(around) if around.contains(&path) => {
                        Some((slot, around.steps().len()))
                    }
                    _ => None,
                });
                if let Some((slot, steps)) = around {
                    return Ok(inside(Expr::Slot(slot), &path.steps()[steps..]));
                }
                let (message, hint) = match self.by {
                    By::GroupBy => (
                        format!("'{path}' is of documents, but the rows are groups of them"),
                        format!("put it into GROUP BY, or into an aggregate: MIN({path})"),
                    ),
                    By::Distinct => (
                        format!(
                            "with DISTINCT rows are not sorted by '{path}', which is not selected"
                        ),
                        "select it, or sort by what is selected".to_owned(),
                    ),
                };
                let code = QueryErrorCode::InvalidArgument;
                Err(QueryError::new(code, message).with_hint(hint))
            }
            other => other.try_map(&mut |part| self.take(part)),
        }
    }
}

/// A column with its name.
type Column = (String, Part);

/// Where the document itself is selected, if it is, and the columns.
fn columns(items: Vec<Item>) -> Result<(Option<Location>, Vec<Column>), QueryError> {
    let (mut document, mut columns, mut names) = (None, Vec::new(), BTreeSet::new());
    for item in items {
        match item {
            Item::Document(location) => {
                if document.replace(location).is_some() {
                    let error = QueryError::new(QueryErrorCode::DuplicateName, "'*' stands twice");
                    return Err(error.at(location));
                }
            }
            Item::Column { part, name } => {
                let name = name.unwrap_or_else(|| name_of(&part.expr));
                if !names.insert(name.clone()) {
                    let message = format!("two columns have the name '{}'", shorten(&name));
                    return Err(QueryError::new(QueryErrorCode::DuplicateName, message)
                        .at(part.location)
                        .with_hint("give one another name: AS .."));
                }
                columns.push((name, part));
            }
        }
    }
    Ok((document, columns))
}

/// What a column is called that was given no name: like its field, else like it is written.
fn name_of(expr: &Expr) -> String {
    match expr {
        Expr::Path(path) => path.name().to_owned(),
        Expr::Access(_, steps) => match steps.last() {
            Some(Step::Field(name)) => name.clone(),
            _ => expr.to_string(),
        },
        other => other.to_string(),
    }
}
