//! One sequence of transactions over several writers in turn.
//!
//! A transaction that begins right after the last one of the same Kafka producer waits for that
//! one's markers. A sequential writer therefore takes the next of a few producers for each
//! transaction; order is kept since each begins after the last one's commit returned.
//!
//! Fencing: [`RotatingWriter::open`] makes all the writers before it returns, so every transaction
//! of an older holder is aborted or done before the new one reads where the older one had come to.
//! For the same reason a writer that is spent is never replaced alone: a holder that was fenced
//! without knowing it would fence its successor and go on from where it was. The whole is opened
//! anew, and the position read again.

use std::sync::Arc;

use crate::error::Error;
use crate::log::{Journal, Offset, TransactionalId, Writer};

/// How many producers take turns.
const WRITERS: usize = 5;

/// Several writers that take turns, used like one. After any error, open a new one.
pub struct RotatingWriter {
    writers: Vec<Box<dyn Writer>>,
    current: usize,
}

impl RotatingWriter {
    /// Fences every older holder of `id`.
    pub fn open(journal: &Arc<dyn Journal>, id: &TransactionalId) -> Result<Self, Error> {
        let count = if journal.rest_after_commit().is_zero() { 1 } else { WRITERS };
        let writers = (0..count)
            .map(|number| journal.writer(&TransactionalId::from(format!("{id}-{number}"))))
            .collect::<Result<_, _>>()?;
        Ok(RotatingWriter { writers, current: 0 })
    }

    /// Writes one transaction: `fill` appends and flushes as it likes.
    ///
    /// # Errors
    /// Of kind `Unknown`: it may have happened. Any other: it did not. After either, open anew.
    pub fn transaction<T>(
        &mut self,
        fill: impl FnOnce(&mut dyn Writer) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.current = (self.current + 1) % self.writers.len();
        let writer = &mut self.writers[self.current];
        if writer.is_spent() {
            return Err(Error::Aborted("the writer is spent and must be opened anew".to_owned()));
        }
        run_transaction(writer.as_mut(), fill)
    }
}

/// Begins, fills, flushes and commits one transaction, or aborts it.
pub(crate) fn run_transaction<T>(
    writer: &mut dyn Writer,
    fill: impl FnOnce(&mut dyn Writer) -> Result<T, Error>,
) -> Result<T, Error> {
    writer.begin()?;
    let filled = fill(writer).and_then(|result| writer.flush().map(|_: Vec<Offset>| result));
    match filled {
        Ok(result) => writer.commit().map(|()| result),
        Err(error) => {
            // Nothing was committed, whether or not the abort comes through: dropping the writer
            // or the transaction's timeout ends it.
            if let Err(abort) = writer.abort() {
                tracing::debug!(%abort, "abort after a failed transaction failed too");
            }
            Err(error)
        }
    }
}
