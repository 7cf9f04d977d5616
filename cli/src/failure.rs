//! How a command ends that did not succeed: with which exit code, and what the user can do.

use std::fmt;
use std::process::ExitCode;

/// Shown under `--help`.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed; the message says why
  2  wrong usage or wrong settings
  3  the server refused the input, or part of it: sending it again does not help
  4  not reachable or overloaded: nothing was done, try again later
  5  the outcome is unknown: it may have been done";

/// The sort of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Failed,
    Usage,
    Refused,
    Unavailable,
    Unknown,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(match exit {
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Refused => 3,
            Exit::Unavailable => 4,
            Exit::Unknown => 5,
        })
    }
}

/// A failure that says more than its message.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Failure { exit, message: message.into(), hint: None }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Failure::new(Exit::Usage, message)
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// An error as it is shown: once, with its causes, and with a hint if there is one.
pub(crate) struct Shown<'a>(pub(crate) &'a anyhow::Error);

impl Shown<'_> {
    fn failure(&self) -> Option<&Failure> {
        self.0.chain().find_map(|cause| cause.downcast_ref())
    }

    pub(crate) fn exit(&self) -> Exit {
        self.failure().map_or(Exit::Failed, |failure| failure.exit)
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Libraries often repeat their source in their own text.
        let mut said = String::new();
        for cause in self.0.chain() {
            let text = cause.to_string();
            if !said.contains(&text) {
                said = if said.is_empty() { text } else { format!("{said}: {text}") };
            }
        }
        write!(f, "error: {said}")?;
        match self.failure().and_then(|failure| failure.hint.as_ref()) {
            Some(hint) => write!(f, "\nhint:  {hint}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn an_error_is_shown_once_with_its_causes_and_hint() {
        let failure = Failure::new(Exit::Refused, "no such thing").with_hint("look elsewhere");
        let error = Err::<(), _>(failure).context("find the thing").unwrap_err();
        let shown = Shown(&error);
        assert_eq!(
            shown.to_string(),
            "error: find the thing: no such thing\nhint:  look elsewhere"
        );
        assert_eq!(shown.exit(), Exit::Refused);
        let repeated = anyhow::anyhow!("broken").context("it is broken");
        assert_eq!(Shown(&repeated).to_string(), "error: it is broken");
    }
}
