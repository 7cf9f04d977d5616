//! Evaluation. A value that is `None` is MISSING; a truth that is `None` is unknown.
//!
//! Recursion follows the nesting of the expression, which the parser bounds, and of literals and
//! documents, which are bounded too.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::MAX_DEPTH;
use super::budget::Budget;
use super::expr::{Case, Comparison, Expr, Operator, Step};
use super::order::type_rank;
use crate::Value;

/// What an expression is evaluated over.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    /// The document; of a group it is null.
    pub(super) document: &'a Value,
    /// What else is known about the row.
    pub(super) slots: &'a [Option<Value>],
    pub(super) budget: &'a Budget,
}

impl<'a> Scope<'a> {
    pub(super) fn of(document: &'a Value, budget: &'a Budget) -> Self {
        Scope { document, slots: &[], budget }
    }

    /// Where only constants have a value.
    pub(super) fn of_nothing(budget: &'a Budget) -> Self {
        Scope::of(&Value::Null, budget)
    }
}

type Found<'a> = Option<Cow<'a, Value>>;

impl Expr {
    /// Its value; `None` is MISSING. What is unknown is NULL, and so is all that is computed once
    /// the work is used up.
    pub(super) fn value<'a>(&'a self, scope: &Scope<'a>) -> Found<'a> {
        match self {
            Expr::Literal(value) => Some(Cow::Borrowed(value)),
            Expr::Path(path) => scope.document.get(path.steps()).map(Cow::Borrowed),
            Expr::Slot(slot) => scope.slots.get(*slot)?.as_ref().map(Cow::Borrowed),
            computed => {
                let value = scope.budget.within(|| computed.computed(scope));
                value.unwrap_or(Some(Cow::Owned(Value::Null)))
            }
        }
    }

    /// The value of what is not there as it is.
    fn computed<'a>(&'a self, scope: &Scope<'a>) -> Found<'a> {
        match self {
            Expr::Access(base, steps) => access(base.value(scope)?, steps),
            Expr::Chain(first, rest) => {
                let first = first.value(scope);
                rest.iter().fold(first, |left, (operator, right)| {
                    operate(*operator, left, right.value(scope), scope.budget)
                })
            }
            Expr::Negate(inner) => Some(Cow::Owned(negated(&*inner.value(scope)?))),
            Expr::Case(case) => case.value(scope),
            Expr::Call(function, arguments) => {
                let values: Vec<_> =
                    arguments.iter().map(|argument| argument.value(scope)).collect();
                if !function.charge(&values, scope.budget) {
                    return None;
                }
                let made = function.call(&values)?;
                Some(Cow::Owned(scope.budget.keep(made)))
            }
            Expr::Array(items) => {
                let items = items.iter().map(|item| match item.value(scope) {
                    Some(item) => scope.budget.own(item),
                    None => Some(Value::Null),
                });
                let made: Option<Vec<Value>> = items.collect();
                let array = |made| shallow(Value::Array(made), scope.budget);
                Some(Cow::Owned(made.map_or(Value::Null, array)))
            }
            Expr::Object(fields) => {
                let fields = fields.iter().filter_map(|(name, field)| {
                    let field = scope.budget.own(field.value(scope)?);
                    Some(field.map(|field| (name.clone(), field)))
                });
                let made: Option<Vec<(String, Value)>> = fields.collect();
                let object = |made: Vec<_>| shallow(made.into_iter().collect(), scope.budget);
                Some(Cow::Owned(made.map_or(Value::Null, object)))
            }
            // What is left are conditions; an aggregate has a slot by now.
            Expr::Literal(_)
            | Expr::Path(_)
            | Expr::Slot(_)
            | Expr::Aggregate(_)
            | Expr::Not(_)
            | Expr::And(_)
            | Expr::Or(_)
            | Expr::Compare(..)
            | Expr::IsNull(_)
            | Expr::IsMissing(_)
            | Expr::InList(..)
            | Expr::InArray(_)
            | Expr::Between(_)
            | Expr::Like(..) => {
                Some(Cow::Owned(self.truth(scope).map_or(Value::Null, Value::Bool)))
            }
        }
    }

    /// Whether it holds; `None` is unknown, which is what everything is that is neither true nor
    /// false, and everything once the work is used up: no condition holds of a document because it
    /// was too much work to find out.
    pub(super) fn truth(&self, scope: &Scope<'_>) -> Option<bool> {
        scope.budget.within(|| self.judged(scope)).flatten()
    }

    fn judged(&self, scope: &Scope<'_>) -> Option<bool> {
        let budget = scope.budget;
        match self {
            Expr::Not(inner) => inner.truth(scope).map(|holds| !holds),
            Expr::And(parts) => all(parts.iter().map(|part| part.truth(scope))),
            Expr::Or(parts) => {
                let negated = parts.iter().map(|part| part.truth(scope).map(|holds| !holds));
                all(negated).map(|none_holds| !none_holds)
            }
            Expr::Compare(comparison, pair) => {
                let order = order(&pair[0].value(scope), &pair[1].value(scope), budget)?;
                Some(comparison.accepts(order))
            }
            Expr::IsNull(inner) => inner.value(scope).map(|value| *value == Value::Null),
            Expr::IsMissing(inner) => Some(inner.value(scope).is_none()),
            Expr::InList(operand, values) => {
                is_in_sorted(operand.value(scope).as_deref(), values, budget)
            }
            Expr::InArray(pair) => match pair[1].value(scope)?.as_ref() {
                Value::Array(items) => is_in_any(&pair[0].value(scope), items, budget),
                only => budget.compare(pair[0].value(scope).as_deref()?, only).map(Ordering::is_eq),
            },
            Expr::Between(three) => {
                let value = three[0].value(scope);
                let accepts = |comparison: Comparison, bound: &Expr| {
                    let order = order(&value, &bound.value(scope), budget)?;
                    Some(comparison.accepts(order))
                };
                let above = accepts(Comparison::GreaterOrEqual, &three[1]);
                let below = accepts(Comparison::LessOrEqual, &three[2]);
                all([above, below].into_iter())
            }
            Expr::Like(operand, pattern) => match operand.value(scope)?.as_ref() {
                Value::String(text) => Some(pattern.matches(text, budget)),
                _ => None,
            },
            Expr::Literal(_)
            | Expr::Path(_)
            | Expr::Access(..)
            | Expr::Slot(_)
            | Expr::Case(_)
            | Expr::Call(..) => match self.value(scope)?.as_ref() {
                Value::Bool(value) => Some(*value),
                _ => None,
            },
            Expr::Aggregate(_)
            | Expr::Chain(..)
            | Expr::Negate(_)
            | Expr::Array(_)
            | Expr::Object(_) => None,
        }
    }
}

impl Case {
    fn value<'a>(&'a self, scope: &Scope<'a>) -> Found<'a> {
        let operand = self.operand.as_ref().map(|operand| operand.value(scope));
        let is_met = |when: &Expr| match &operand {
            Some(operand) => {
                order(operand, &when.value(scope), scope.budget).is_some_and(Ordering::is_eq)
            }
            None => when.truth(scope) == Some(true),
        };
        match (self.arms.iter().find(|(when, _)| is_met(when)), &self.otherwise) {
            (Some((_, then)), _) => then.value(scope),
            (None, Some(otherwise)) => otherwise.value(scope),
            (None, None) => Some(Cow::Owned(Value::Null)),
        }
    }
}

/// The value, or NULL if it nests deeper than documents may.
fn shallow(value: Value, budget: &Budget) -> Value {
    // Only its values are counted: its texts are not looked at.
    let fits = budget.walk(&value, 1, usize::MAX) && value.depth() <= MAX_DEPTH;
    if fits { value } else { Value::Null }
}

fn access<'a>(base: Cow<'a, Value>, steps: &[Step]) -> Found<'a> {
    match base {
        Cow::Borrowed(value) => step_into(value, steps).map(Cow::Borrowed),
        Cow::Owned(value) => step_into(&value, steps).cloned().map(Cow::Owned),
    }
}

fn step_into<'a>(value: &'a Value, steps: &[Step]) -> Option<&'a Value> {
    steps.iter().try_fold(value, |value, step| match (value, step) {
        (Value::Object(fields), Step::Field(name)) => fields.get(name),
        (Value::Array(items), Step::Element(index)) => {
            let from_end = items.len().checked_sub(usize::try_from(index.unsigned_abs()).ok()?);
            let index = usize::try_from(*index).ok().or(from_end)?;
            items.get(index)
        }
        _ => None,
    })
}

fn order(left: &Found<'_>, right: &Found<'_>, budget: &Budget) -> Option<Ordering> {
    budget.compare(left.as_deref()?, right.as_deref()?)
}

/// False as soon as one is false, else unknown if one is unknown, else true.
fn all(mut parts: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    parts
        .try_fold(Some(true), |all, part| match part {
            Some(false) => None,
            Some(true) => Some(all),
            None => Some(None),
        })
        .unwrap_or(Some(false))
}

/// The OR of `value = v` over sorted values: they are all comparable with the value exactly when
/// the first and the last are.
fn is_in_sorted(value: Option<&Value>, values: &[Value], budget: &Budget) -> Option<bool> {
    let (Some(first), Some(last)) = (values.first(), values.last()) else {
        return Some(false);
    };
    let value = value.filter(|value| **value != Value::Null)?;
    if values.binary_search_by(|candidate| budget.total_cmp(candidate, value)).is_ok() {
        return Some(true);
    }
    let rank = type_rank(value);
    (type_rank(first) == rank && type_rank(last) == rank).then_some(false)
}

/// The OR of `value = item`.
fn is_in_any(value: &Found<'_>, items: &[Value], budget: &Budget) -> Option<bool> {
    let differs = |item: &Value| {
        let order = budget.compare(value.as_deref()?, item)?;
        Some(order.is_ne())
    };
    let compared = items.iter().take_while(|_| !budget.is_used_up());
    all(compared.map(differs)).map(|all_differ| !all_differ)
}

/// MISSING if one of them is; NULL if they do not fit the operator.
fn operate<'a>(
    operator: Operator,
    left: Found<'_>,
    right: Found<'_>,
    budget: &Budget,
) -> Found<'a> {
    let (left, right) = (left?, right?);
    let result = match (left.as_ref(), right.as_ref()) {
        (Value::Int(left), Value::Int(right)) => of_integers(operator, *left, *right),
        (Value::Int(left), Value::Float(right)) => of_floats(operator, as_float(*left), *right),
        (Value::Float(left), Value::Int(right)) => of_floats(operator, *left, as_float(*right)),
        (Value::Float(left), Value::Float(right)) => of_floats(operator, *left, *right),
        (Value::String(left), Value::String(right)) if operator == Operator::Concatenate => {
            budget.join(left, right)
        }
        _ => Value::Null,
    };
    Some(Cow::Owned(result))
}

/// The nearest double, which is what arithmetic with doubles takes.
#[allow(clippy::cast_precision_loss)]
pub(super) fn as_float(integer: i64) -> f64 {
    integer as f64
}

/// What does not fit an integer becomes a double.
fn of_integers(operator: Operator, left: i64, right: i64) -> Value {
    let exact = match operator {
        Operator::Add => left.checked_add(right),
        Operator::Subtract => left.checked_sub(right),
        Operator::Multiply => left.checked_mul(right),
        Operator::Divide if right == 0 || left.checked_rem(right).unwrap_or(0) != 0 => None,
        Operator::Divide => left.checked_div(right),
        Operator::Remainder if right == 0 => return Value::Null,
        Operator::Remainder => Some(left.wrapping_rem(right)),
        Operator::Concatenate => return Value::Null,
    };
    match exact {
        Some(exact) => Value::Int(exact),
        None => of_floats(operator, as_float(left), as_float(right)),
    }
}

fn of_floats(operator: Operator, left: f64, right: f64) -> Value {
    finite(match operator {
        Operator::Add => left + right,
        Operator::Subtract => left - right,
        Operator::Multiply => left * right,
        Operator::Divide => left / right,
        Operator::Remainder => left % right,
        Operator::Concatenate => return Value::Null,
    })
}

fn negated(value: &Value) -> Value {
    match value {
        Value::Int(number) => of_integers(Operator::Subtract, 0, *number),
        Value::Float(number) => Value::Float(-number),
        _ => Value::Null,
    }
}

/// A double, or NULL if it is none that a document can hold: of a division by zero, or too large.
pub(super) fn finite(float: f64) -> Value {
    if float.is_finite() { Value::Float(float) } else { Value::Null }
}
