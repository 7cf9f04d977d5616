//! Conditions on documents and on who asks: what permissions are made of.

use super::error::{QueryError, QueryErrorCode};
use super::parse::{BoundRule, bind_rule, parse_filter};
use super::predicate::Predicate;
use super::statement::Args;
use super::{MAX_RULE_BYTES, text};

/// A condition on a document and on the claims of whoever asks, which it names as a statement names
/// its arguments: `store = :store`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule(String);

/// Which documents of a collection somebody is let at.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Allowed {
    /// None.
    #[default]
    Nothing,
    /// All.
    Everything,
    /// Those of which this holds.
    Where(Predicate),
}

impl Rule {
    /// Reads a rule.
    ///
    /// # Errors
    /// If it is no condition, whatever the claims.
    pub fn new(text: impl Into<String>) -> Result<Self, QueryError> {
        let rule = Rule(text.into());
        let BoundRule { condition, lacks_claims } = bind_rule(&rule.0, &Args::new())?;
        match condition {
            // With claims in the places that are empty it may be one.
            Err(error) if lacks_claims && is_of_values(&error) => Ok(rule),
            condition => condition.map(|_| rule),
        }
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Which documents it lets whoever has these claims at. Whoever lacks a claim that it names is let
    /// at none: `banned != :name` is no way in for those who have no name.
    ///
    /// # Errors
    /// If it is no condition with these claims, or too long.
    pub fn bind(&self, claims: &Args) -> Result<Allowed, QueryError> {
        let BoundRule { condition, lacks_claims } = bind_rule(&self.0, claims)?;
        if lacks_claims {
            return Ok(Allowed::Nothing);
        }
        let condition = condition?;
        let bytes = text::length(condition.root());
        if bytes > MAX_RULE_BYTES {
            let message = format!(
                "the rule is {bytes} bytes long with the claims in place; the limit is \
                 {MAX_RULE_BYTES}"
            );
            return Err(QueryError::new(QueryErrorCode::TooLong, message));
        }
        // It goes as text to those who have to heed it.
        if parse_filter(&condition.to_string()).as_ref() != Ok(&condition) {
            let message = "the rule nests too deeply with the claims in place";
            return Err(QueryError::new(QueryErrorCode::TooDeep, message));
        }
        Ok(Allowed::of(condition))
    }
}

/// Whether other values in its places could make it right.
fn is_of_values(error: &QueryError) -> bool {
    error.error_code() == QueryErrorCode::InvalidArgument
}

impl Allowed {
    /// What a condition lets at.
    pub fn of(condition: Predicate) -> Self {
        match condition.constant() {
            Some(true) => Allowed::Everything,
            Some(false) => Allowed::Nothing,
            None => Allowed::Where(condition),
        }
    }

    /// The same as a condition.
    pub fn into_condition(self) -> Predicate {
        match self {
            Allowed::Nothing => Predicate::always(false),
            Allowed::Everything => Predicate::always(true),
            Allowed::Where(condition) => condition,
        }
    }
}
