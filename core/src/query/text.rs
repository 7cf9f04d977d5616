//! The text of expressions and values, in the grammar that the parser reads.

use std::fmt::{self, Display, Write};

use super::aggregate::Aggregate;
use super::expr::{Case, Expr, Precedence, Step};
use super::path::write_name;
use super::predicate::Predicate;
use crate::Value;

impl Display for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_expr(f, self.root())
    }
}

impl Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_expr(f, self)
    }
}

/// How long an expression's text is, in bytes.
pub(super) fn length(expr: &Expr) -> usize {
    struct Counter(usize);

    impl Write for Counter {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0 += text.len();
            Ok(())
        }
    }

    let mut counter = Counter(0);
    write_expr(&mut counter, expr).expect("counting does not fail");
    counter.0
}

/// Writes an operand: in parentheses if its outermost operator binds less tightly than this.
fn write_operand(out: &mut impl Write, expr: &Expr, at_least: Precedence) -> fmt::Result {
    if expr.precedence() >= at_least {
        return write_expr(out, expr);
    }
    out.write_str("(")?;
    write_expr(out, expr)?;
    out.write_str(")")
}

fn write_expr(out: &mut impl Write, expr: &Expr) -> fmt::Result {
    match expr {
        Expr::Literal(value) => write_value(out, value),
        Expr::Path(path) => write!(out, "{path}"),
        Expr::Access(base, steps) => {
            write_base(out, base)?;
            steps.iter().try_for_each(|step| match step {
                // Behind a bracket the tokenizer takes `._` for a number that is none.
                Step::Field(name) if name.starts_with('_') => {
                    write!(out, ".`{}`", name.replace('`', "``"))
                }
                Step::Field(name) => {
                    out.write_str(".")?;
                    write_name(out, name)
                }
                Step::Element(index) => write!(out, "[{index}]"),
            })
        }
        Expr::Slot(slot) => write!(out, "${slot}"),
        Expr::Aggregate(aggregate) => write_aggregate(out, aggregate),
        Expr::Not(inner) => write_test(out, inner, "NOT "),
        Expr::And(parts) => {
            write_list(out, parts, " AND ", |out, part| write_operand(out, part, Precedence::Not))
        }
        Expr::Or(parts) => {
            write_list(out, parts, " OR ", |out, part| write_operand(out, part, Precedence::And))
        }
        Expr::Compare(comparison, pair) => {
            write_operand(out, &pair[0], Precedence::Sum)?;
            write!(out, " {} ", comparison.as_str())?;
            write_operand(out, &pair[1], Precedence::Sum)
        }
        Expr::IsNull(_)
        | Expr::IsMissing(_)
        | Expr::InList(..)
        | Expr::InArray(_)
        | Expr::Between(_)
        | Expr::Like(..) => write_test(out, expr, ""),
        Expr::Chain(first, rest) => {
            let precedence = expr.precedence();
            write_operand(out, first, precedence)?;
            rest.iter().try_for_each(|(operator, part)| {
                write!(out, " {} ", operator.as_str())?;
                write_operand(out, part, precedence.tighter())
            })
        }
        Expr::Negate(inner) => {
            // Two signs in a row would begin a comment.
            out.write_str(if matches!(**inner, Expr::Negate(_)) { "- " } else { "-" })?;
            write_operand(out, inner, Precedence::Sign)
        }
        Expr::Case(case) => write_case(out, case),
        Expr::Call(function, arguments) => {
            write!(out, "{}(", function.name)?;
            write_list(out, arguments, ", ", write_expr)?;
            out.write_str(")")
        }
        Expr::Array(items) => {
            out.write_str("[")?;
            write_list(out, items, ", ", write_expr)?;
            out.write_str("]")
        }
        Expr::Object(fields) => {
            out.write_str("{")?;
            write_list(out, fields, ", ", |out, (name, field)| {
                write_string(out, name)?;
                out.write_str(": ")?;
                write_expr(out, field)
            })?;
            out.write_str("}")
        }
    }
}

/// A condition, negated if so: some are by a word inside them.
fn write_test(out: &mut impl Write, test: &Expr, not: &str) -> fmt::Result {
    match test {
        Expr::IsNull(operand) => {
            write_operand(out, operand, Precedence::Sum)?;
            write!(out, " IS {not}NULL")
        }
        Expr::IsMissing(operand) => {
            write_operand(out, operand, Precedence::Sum)?;
            write!(out, " IS {not}MISSING")
        }
        Expr::InList(operand, values) => {
            write_operand(out, operand, Precedence::Sum)?;
            write!(out, " {not}IN (")?;
            write_list(out, values, ", ", write_value)?;
            out.write_str(")")
        }
        Expr::InArray(pair) => {
            write_operand(out, &pair[0], Precedence::Sum)?;
            write!(out, " {not}IN ")?;
            // After IN a parenthesis begins a list, so all of the array has to stand in one.
            if begins_bare(&pair[1]) {
                return write_expr(out, &pair[1]);
            }
            out.write_str("(")?;
            write_expr(out, &pair[1])?;
            out.write_str(")")
        }
        Expr::Between(three) => {
            write_operand(out, &three[0], Precedence::Sum)?;
            write!(out, " {not}BETWEEN ")?;
            write_operand(out, &three[1], Precedence::Sum)?;
            out.write_str(" AND ")?;
            write_operand(out, &three[2], Precedence::Sum)
        }
        Expr::Like(operand, pattern) => {
            write_operand(out, operand, Precedence::Sum)?;
            write!(out, " {not}LIKE ")?;
            write_string(out, pattern.text())
        }
        other => {
            out.write_str(not)?;
            write_operand(out, other, Precedence::Not)
        }
    }
}

/// What steps lead into. A number would take the point behind it for its own.
fn write_base(out: &mut impl Write, base: &Expr) -> fmt::Result {
    if !matches!(base, Expr::Literal(_)) {
        return write_operand(out, base, Precedence::Primary);
    }
    out.write_str("(")?;
    write_expr(out, base)?;
    out.write_str(")")
}

/// Whether the text of an array does not begin with a parenthesis.
fn begins_bare(array: &Expr) -> bool {
    match array {
        Expr::Path(_) | Expr::Array(_) | Expr::Call(..) => true,
        Expr::Access(base, _) => begins_bare(base),
        _ => false,
    }
}

fn write_aggregate(out: &mut impl Write, aggregate: &Aggregate) -> fmt::Result {
    let Aggregate { function, is_distinct, operand } = aggregate;
    write!(out, "{}(", function.as_str())?;
    if *is_distinct {
        out.write_str("DISTINCT ")?;
    }
    match operand {
        Some(operand) => write_expr(out, operand)?,
        None => out.write_str("*")?,
    }
    out.write_str(")")
}

fn write_case(out: &mut impl Write, case: &Case) -> fmt::Result {
    let Case { operand, arms, otherwise } = case;
    out.write_str("CASE")?;
    if let Some(operand) = operand {
        out.write_str(" ")?;
        write_expr(out, operand)?;
    }
    for (when, then) in arms {
        out.write_str(" WHEN ")?;
        write_expr(out, when)?;
        out.write_str(" THEN ")?;
        write_expr(out, then)?;
    }
    if let Some(otherwise) = otherwise {
        out.write_str(" ELSE ")?;
        write_expr(out, otherwise)?;
    }
    out.write_str(" END")
}

fn write_value(out: &mut impl Write, value: &Value) -> fmt::Result {
    match value {
        Value::Null => out.write_str("NULL"),
        Value::String(text) => write_string(out, text),
        Value::Array(items) => {
            out.write_str("[")?;
            write_list(out, items, ", ", write_value)?;
            out.write_str("]")
        }
        Value::Object(fields) => {
            out.write_str("{")?;
            write_list(out, fields, ", ", |out, (key, value)| {
                write_string(out, key)?;
                out.write_str(": ")?;
                write_value(out, value)
            })?;
            out.write_str("}")
        }
        Value::Bool(_) | Value::Int(_) | Value::Float(_) => write!(out, "{value}"),
    }
}

fn write_string(out: &mut impl Write, text: &str) -> fmt::Result {
    write!(out, "'{}'", text.replace('\'', "''"))
}

fn write_list<W: Write, I: IntoIterator>(
    out: &mut W,
    items: I,
    separator: &str,
    mut write_item: impl FnMut(&mut W, I::Item) -> fmt::Result,
) -> fmt::Result {
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.write_str(separator)?;
        }
        write_item(out, item)?;
    }
    Ok(())
}
