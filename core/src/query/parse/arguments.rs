//! Arguments, on their way into a statement.
//!
//! An argument is copied wherever the statement names it. One that is named once costs no more than
//! the request that brought it; the copies of others are counted, and there is a limit to them.

use std::collections::HashMap;

use sqlparser::tokenizer::{Token, TokenWithSpan};

use super::super::MAX_COPIED_BYTES;
use super::super::error::{QueryError, QueryErrorCode};
use super::super::statement::Args;
use crate::Value;

/// The arguments that a text was given.
pub(super) enum Arguments<'a> {
    /// A filter has none at all.
    None,
    /// They are copied.
    Shared(&'a Args),
    /// They may be taken.
    Own(&'a mut Args),
    /// Claims, which may lack some that are named.
    Claims {
        /// Those that there are.
        given: &'a Args,
        /// Whether one was named that is not among them.
        lacks: bool,
    },
}

/// How often each argument is named, and what may still be copied.
#[derive(Debug)]
pub(super) struct Mentions {
    counts: HashMap<String, usize>,
    /// Bytes.
    left: usize,
}

impl Arguments<'_> {
    pub(super) fn all(&self) -> Option<&Args> {
        match self {
            Arguments::None => None,
            Arguments::Shared(args) => Some(args),
            Arguments::Own(args) => Some(args),
            Arguments::Claims { given, .. } => Some(given),
        }
    }

    /// Whether a value can be put in the place of this name.
    pub(super) fn have(&mut self, name: &str) -> bool {
        let is_given = self.get(name).is_some();
        if let Arguments::Claims { lacks, .. } = self {
            *lacks |= !is_given;
            return true;
        }
        is_given
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.all()?.get(name)
    }

    /// A copy of an argument's value, or the value itself.
    pub(super) fn value(
        &mut self,
        name: &str,
        may_take: bool,
        mentions: &mut Mentions,
    ) -> Result<Value, QueryError> {
        let is_named_once = mentions.counts.get(name) == Some(&1);
        if let Arguments::Own(args) = self
            && may_take
            && is_named_once
        {
            return Ok(args.get_mut(name).map(std::mem::take).unwrap_or_default());
        }
        let Some(value) = self.get(name) else { return Ok(Value::Null) };
        if !is_named_once {
            mentions.charge(value)?;
        }
        Ok(value.clone())
    }
}

impl Mentions {
    /// Counts what may be arguments: it may count too many, never too few.
    pub(super) fn new(tokens: &[TokenWithSpan]) -> Self {
        let mut counts = HashMap::new();
        for pair in tokens.windows(2) {
            if let Token::Colon | Token::DoubleColon = pair[0].token
                && let Token::Word(word) = &pair[1].token
            {
                *counts.entry(word.value.clone()).or_default() += 1;
            }
        }
        Mentions { counts, left: MAX_COPIED_BYTES }
    }

    /// Whether an argument is named.
    pub(super) fn have(&self, name: &str) -> bool {
        self.counts.contains_key(name)
    }

    /// Counts a copy of an argument, or what is computed of constants.
    pub(super) fn charge(&mut self, value: &Value) -> Result<(), QueryError> {
        if fits(value, &mut self.left) {
            return Ok(());
        }
        let message = format!(
            "the arguments that the statement names more than once, and what it computes of \
             constants, take more than {MAX_COPIED_BYTES} bytes"
        );
        Err(QueryError::new(QueryErrorCode::TooLong, message)
            .with_hint("name a large argument once"))
    }
}

/// Takes what a copy of a value needs out of `left`, unless that is too little.
fn fits(value: &Value, left: &mut usize) -> bool {
    let own = size_of::<Value>();
    let text = match value {
        Value::String(text) => text.len(),
        _ => 0,
    };
    let Some(rest) = left.checked_sub(own + text) else { return false };
    *left = rest;
    match value {
        Value::Array(items) => items.iter().all(|item| fits(item, left)),
        Value::Object(fields) => fields.iter().all(|(key, value)| {
            let rest = left.checked_sub(size_of::<String>() + key.len());
            rest.is_some_and(|rest| {
                *left = rest;
                fits(value, left)
            })
        }),
        _ => true,
    }
}
