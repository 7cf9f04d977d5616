//! Expressions over a document, in a normal form: nested ANDs, ORs and chains of operators are one
//! list, the values of a constant IN are sorted, what is made of constants alone is one. Equal
//! meaning in different words often gives equal expressions, and the text of an expression reads
//! back as the same one.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeSet;

use super::MAX_DEPTH;
use super::aggregate::Aggregate;
use super::budget::Budget;
use super::eval::Scope;
use super::function::Function;
use super::order::total_cmp;
use super::path::FieldPath;
use super::pattern::Pattern;
use crate::Value;

/// One expression. The constructors keep the normal form.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Expr {
    /// A constant.
    Literal(Value),
    /// A field.
    Path(FieldPath),
    /// What lies inside a value, one step or more.
    Access(Box<Expr>, Vec<Step>),
    /// What is known about the row beside its document: of a group its keys, then its aggregates.
    Slot(usize),
    /// Computed over a group's documents; before [`Select`](super::Select) gives it a slot.
    Aggregate(Box<Aggregate>),
    /// `NOT`.
    Not(Box<Expr>),
    /// Two or more, none of them an `And`.
    And(Vec<Expr>),
    /// Two or more, none of them an `Or`.
    Or(Vec<Expr>),
    /// A comparison.
    Compare(Comparison, Box<[Expr; 2]>),
    /// `IS NULL`: unknown if missing.
    IsNull(Box<Expr>),
    /// `IS MISSING`: never unknown.
    IsMissing(Box<Expr>),
    /// `IN` constants; sorted by the total order, no two values equal.
    InList(Box<Expr>, Vec<Value>),
    /// `IN` an array that is computed; what is no array is the only one in it.
    InArray(Box<[Expr; 2]>),
    /// `BETWEEN`, both ends included.
    Between(Box<[Expr; 3]>),
    /// `LIKE`.
    Like(Box<Expr>, Pattern),
    /// Operators of one precedence, from left to right: one or more, behind the first operand.
    Chain(Box<Expr>, Vec<(Operator, Expr)>),
    /// `-`.
    Negate(Box<Expr>),
    /// `CASE`.
    Case(Box<Case>),
    /// A function of its arguments.
    Call(&'static Function, Vec<Expr>),
    /// `[..]` with something in it that is computed.
    Array(Vec<Expr>),
    /// `{..}` with something in it that is computed.
    Object(Vec<(String, Expr)>),
}

/// A step into a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Of an object.
    Field(String),
    /// Of an array, from 0; from its end if it is below.
    Element(i64),
}

/// `CASE [operand] WHEN .. THEN .. [ELSE ..] END`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Case {
    /// What is compared with each WHEN; without it they are conditions.
    pub(super) operand: Option<Expr>,
    /// WHEN and THEN, at least one.
    pub(super) arms: Vec<(Expr, Expr)>,
    /// NULL if there is none.
    pub(super) otherwise: Option<Expr>,
}

/// A comparison operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// An operator that computes a value from two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Concatenate,
}

impl Comparison {
    /// Whether operands in this order satisfy it.
    pub(super) fn accepts(self, order: Ordering) -> bool {
        match self {
            Comparison::Equal => order.is_eq(),
            Comparison::NotEqual => order.is_ne(),
            Comparison::Less => order.is_lt(),
            Comparison::LessOrEqual => order.is_le(),
            Comparison::Greater => order.is_gt(),
            Comparison::GreaterOrEqual => order.is_ge(),
        }
    }

    /// The same with the operands in the other order.
    pub(super) fn mirrored(self) -> Self {
        match self {
            Comparison::Equal | Comparison::NotEqual => self,
            Comparison::Less => Comparison::Greater,
            Comparison::LessOrEqual => Comparison::GreaterOrEqual,
            Comparison::Greater => Comparison::Less,
            Comparison::GreaterOrEqual => Comparison::LessOrEqual,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Comparison::Equal => "=",
            Comparison::NotEqual => "<>",
            Comparison::Less => "<",
            Comparison::LessOrEqual => "<=",
            Comparison::Greater => ">",
            Comparison::GreaterOrEqual => ">=",
        }
    }
}

impl Operator {
    /// How tightly it binds; those of one chain are equal.
    pub(super) fn precedence(self) -> Precedence {
        match self {
            Operator::Add | Operator::Subtract => Precedence::Sum,
            Operator::Multiply | Operator::Divide | Operator::Remainder => Precedence::Product,
            Operator::Concatenate => Precedence::Concatenation,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Operator::Add => "+",
            Operator::Subtract => "-",
            Operator::Multiply => "*",
            Operator::Divide => "/",
            Operator::Remainder => "%",
            Operator::Concatenate => "||",
        }
    }
}

/// How tightly the outermost operator of an expression binds, the loosest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Precedence {
    Or,
    And,
    Not,
    Test,
    Sum,
    Product,
    Concatenation,
    Sign,
    Primary,
}

impl Precedence {
    /// Of what stands on the right of an operator of this one: it is not part of its chain.
    pub(super) fn tighter(self) -> Self {
        match self {
            Precedence::Sum => Precedence::Product,
            Precedence::Product => Precedence::Concatenation,
            _ => Precedence::Sign,
        }
    }
}

impl Expr {
    /// The AND of some conditions, at least one.
    pub(super) fn all(conditions: Vec<Expr>) -> Expr {
        let mut flat = Vec::with_capacity(conditions.len());
        for condition in conditions {
            match condition {
                Expr::And(inner) => flat.extend(inner),
                other => flat.push(other),
            }
        }
        single(flat).unwrap_or_else(Expr::And)
    }

    /// The OR of some conditions, at least one.
    pub(super) fn any(conditions: Vec<Expr>) -> Expr {
        let mut flat = Vec::with_capacity(conditions.len());
        for condition in conditions {
            match condition {
                Expr::Or(inner) => flat.extend(inner),
                other => flat.push(other),
            }
        }
        single(flat).unwrap_or_else(Expr::Or)
    }

    /// Membership in a list. Sorted, it is searched in logarithmic time.
    pub(super) fn is_in(operand: Expr, mut values: Vec<Value>) -> Expr {
        values.sort_by(total_cmp);
        values.dedup_by(|left, right| total_cmp(left, right).is_eq());
        Expr::InList(Box::new(operand), values)
    }

    /// An operator behind what was read before it.
    pub(super) fn operation(left: Expr, operator: Operator, right: Expr) -> Expr {
        match left {
            Expr::Chain(first, mut rest) if rest[0].0.precedence() == operator.precedence() => {
                rest.push((operator, right));
                Expr::Chain(first, rest)
            }
            left => Expr::Chain(Box::new(left), vec![(operator, right)]).folded(),
        }
    }

    /// What lies some steps inside. Fields of a field are its path.
    pub(super) fn access(base: Expr, mut steps: Vec<Step>) -> Expr {
        let base = match base {
            Expr::Access(base, mut before) => {
                before.extend(steps);
                return Expr::Access(base, before);
            }
            Expr::Path(path) => {
                let fields = steps.iter().take_while(|step| matches!(step, Step::Field(_))).count();
                let names = steps.drain(..fields).filter_map(|step| match step {
                    Step::Field(name) => Some(name),
                    Step::Element(_) => None,
                });
                Expr::Path(path.within(names))
            }
            other => other,
        };
        if steps.is_empty() { base } else { Expr::Access(Box::new(base), steps).folded() }
    }

    /// How many steps into a value it takes.
    pub(super) fn steps(&self) -> usize {
        match self {
            Expr::Path(path) => path.steps().len(),
            Expr::Access(base, steps) => base.steps() + steps.len(),
            _ => 0,
        }
    }

    /// How many expressions it is made of: about what it costs to evaluate.
    pub(super) fn size(&self) -> usize {
        1 + self.children().map(Expr::size).sum::<usize>()
    }

    /// The constant that an expression is if all that it is made of are. Conditions stay as they
    /// are written, and so does what is MISSING.
    pub(super) fn folded(self) -> Expr {
        if !self.children().all(|child| matches!(child, Expr::Literal(_))) {
            return self;
        }
        // What is written out is moved: a large argument would be copied at each level around it.
        let made = match self {
            Expr::Array(items) => {
                Value::Array(items.into_iter().filter_map(Expr::into_literal).collect())
            }
            Expr::Object(fields) => {
                let literal = |(name, field): (String, Expr)| Some((name, field.into_literal()?));
                fields.into_iter().filter_map(literal).collect()
            }
            other => {
                let value = other.value(&Scope::of_nothing(&Budget::new())).map(Cow::into_owned);
                return match value {
                    Some(value) if value.depth() <= MAX_DEPTH => Expr::Literal(value),
                    _ => other,
                };
            }
        };
        Expr::Literal(if made.depth() > MAX_DEPTH { Value::Null } else { made })
    }

    fn into_literal(self) -> Option<Value> {
        match self {
            Expr::Literal(value) => Some(value),
            _ => None,
        }
    }

    /// What it always is, if that does not depend on anything.
    pub(super) fn constant(&self, budget: &Budget) -> Option<Option<Value>> {
        let depends = self.any_part(&mut |part| {
            matches!(part, Expr::Path(_) | Expr::Slot(_) | Expr::Aggregate(_))
        });
        let value = || self.value(&Scope::of_nothing(budget)).map(Cow::into_owned);
        (!depends).then(value)
    }

    /// Whether it may be true or false.
    pub(super) fn may_be_condition(&self) -> bool {
        match self {
            Expr::Literal(value) => matches!(value, Value::Bool(_) | Value::Null),
            Expr::Chain(..) | Expr::Negate(_) | Expr::Array(_) | Expr::Object(_) => false,
            _ => true,
        }
    }

    pub(super) fn precedence(&self) -> Precedence {
        match self {
            Expr::Or(_) => Precedence::Or,
            Expr::And(_) => Precedence::And,
            Expr::Not(inner) if inner.has_inner_not() => Precedence::Test,
            Expr::Not(_) => Precedence::Not,
            Expr::Compare(..) | Expr::IsNull(_) | Expr::IsMissing(_) => Precedence::Test,
            Expr::InList(..) | Expr::InArray(_) | Expr::Between(_) | Expr::Like(..) => {
                Precedence::Test
            }
            Expr::Chain(_, rest) => rest[0].0.precedence(),
            Expr::Negate(_) => Precedence::Sign,
            Expr::Literal(Value::Int(number)) if *number < 0 => Precedence::Sign,
            Expr::Literal(Value::Float(number)) if number.is_sign_negative() => Precedence::Sign,
            Expr::Literal(_)
            | Expr::Path(_)
            | Expr::Access(..)
            | Expr::Slot(_)
            | Expr::Aggregate(_)
            | Expr::Case(_)
            | Expr::Call(..)
            | Expr::Array(_)
            | Expr::Object(_) => Precedence::Primary,
        }
    }

    /// Whether NOT stands inside it: `a NOT IN ..`.
    pub(super) fn has_inner_not(&self) -> bool {
        matches!(
            self,
            Expr::IsNull(_)
                | Expr::IsMissing(_)
                | Expr::InList(..)
                | Expr::InArray(_)
                | Expr::Between(_)
                | Expr::Like(..)
        )
    }

    /// What it is directly made of.
    pub(super) fn children(&self) -> Box<dyn Iterator<Item = &Expr> + '_> {
        match self {
            Expr::Literal(_) | Expr::Path(_) | Expr::Slot(_) => Box::new(std::iter::empty()),
            Expr::Aggregate(aggregate) => Box::new(aggregate.operand.iter()),
            Expr::Access(inner, _)
            | Expr::Not(inner)
            | Expr::IsNull(inner)
            | Expr::IsMissing(inner)
            | Expr::InList(inner, _)
            | Expr::Like(inner, _)
            | Expr::Negate(inner) => Box::new(std::iter::once(&**inner)),
            Expr::Compare(_, pair) | Expr::InArray(pair) => Box::new(pair.iter()),
            Expr::Between(three) => Box::new(three.iter()),
            Expr::And(parts) | Expr::Or(parts) | Expr::Call(_, parts) | Expr::Array(parts) => {
                Box::new(parts.iter())
            }
            Expr::Chain(first, rest) => {
                Box::new(std::iter::once(&**first).chain(rest.iter().map(|(_, part)| part)))
            }
            Expr::Case(case) => Box::new(
                case.operand
                    .iter()
                    .chain(case.arms.iter().flat_map(|(when, then)| [when, then]))
                    .chain(&case.otherwise),
            ),
            Expr::Object(fields) => Box::new(fields.iter().map(|(_, value)| value)),
        }
    }

    /// The same of other parts: what `change` makes of each that it is directly made of.
    pub(super) fn try_map<E>(
        self,
        change: &mut impl FnMut(Expr) -> Result<Expr, E>,
    ) -> Result<Expr, E> {
        Ok(match self {
            Expr::Literal(_) | Expr::Path(_) | Expr::Slot(_) => self,
            Expr::Aggregate(mut aggregate) => {
                aggregate.operand = aggregate.operand.map(change).transpose()?;
                Expr::Aggregate(aggregate)
            }
            Expr::Access(inner, steps) => Expr::Access(Box::new(change(*inner)?), steps),
            Expr::Not(inner) => Expr::Not(Box::new(change(*inner)?)),
            Expr::IsNull(inner) => Expr::IsNull(Box::new(change(*inner)?)),
            Expr::IsMissing(inner) => Expr::IsMissing(Box::new(change(*inner)?)),
            Expr::InList(inner, values) => Expr::InList(Box::new(change(*inner)?), values),
            Expr::Like(inner, pattern) => Expr::Like(Box::new(change(*inner)?), pattern),
            Expr::Negate(inner) => Expr::Negate(Box::new(change(*inner)?)),
            Expr::Compare(comparison, pair) => {
                let [left, right] = *pair;
                Expr::Compare(comparison, Box::new([change(left)?, change(right)?]))
            }
            Expr::InArray(pair) => {
                let [left, right] = *pair;
                Expr::InArray(Box::new([change(left)?, change(right)?]))
            }
            Expr::Between(three) => {
                let [value, low, high] = *three;
                Expr::Between(Box::new([change(value)?, change(low)?, change(high)?]))
            }
            Expr::And(parts) => Expr::And(each(parts, change)?),
            Expr::Or(parts) => Expr::Or(each(parts, change)?),
            Expr::Call(function, parts) => Expr::Call(function, each(parts, change)?),
            Expr::Array(parts) => Expr::Array(each(parts, change)?),
            Expr::Chain(first, rest) => {
                let first = Box::new(change(*first)?);
                let rest = rest.into_iter().map(|(operator, part)| Ok((operator, change(part)?)));
                Expr::Chain(first, rest.collect::<Result<_, E>>()?)
            }
            Expr::Case(case) => {
                let Case { operand, arms, otherwise } = *case;
                let operand = operand.map(&mut *change).transpose()?;
                let arms = arms.into_iter().map(|(when, then)| Ok((change(when)?, change(then)?)));
                let arms = arms.collect::<Result<_, E>>()?;
                let otherwise = otherwise.map(change).transpose()?;
                Expr::Case(Box::new(Case { operand, arms, otherwise }))
            }
            Expr::Object(fields) => {
                let fields = fields.into_iter().map(|(name, value)| Ok((name, change(value)?)));
                Expr::Object(fields.collect::<Result<_, E>>()?)
            }
        })
    }

    /// The top-level fields of the document on which it depends.
    pub(super) fn fields<'a>(&'a self, into: &mut BTreeSet<&'a str>) {
        if let Expr::Path(path) = self {
            into.extend(path.steps().first().map(String::as_str));
        }
        self.children().for_each(|child| child.fields(into));
    }

    /// Whether this holds for it or for anything inside it.
    pub(super) fn any_part(&self, holds: &mut impl FnMut(&Expr) -> bool) -> bool {
        holds(self) || self.children().any(|child| child.any_part(holds))
    }
}

fn each<E>(
    parts: Vec<Expr>,
    change: &mut impl FnMut(Expr) -> Result<Expr, E>,
) -> Result<Vec<Expr>, E> {
    parts.into_iter().map(change).collect()
}

/// The vector back unless it holds exactly one.
fn single(mut parts: Vec<Expr>) -> Result<Expr, Vec<Expr>> {
    match parts.pop() {
        Some(only) if parts.is_empty() => Ok(only),
        Some(last) => {
            parts.push(last);
            Err(parts)
        }
        None => Err(parts),
    }
}
