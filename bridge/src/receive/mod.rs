//! The receiving side of a replication: one thread checks and encodes what arrives, another writes
//! it, so that the next batches are made ready while one is committed.
//!
//! * [`prepare`]: from batches to mutations. Pure.
//! * [`writer`]: one transaction after the other, each with its cursor.
//! * [`listing`]: what is held here, for a remote that sends a snapshot. Pure.
//! * [`handed`]: how much of what was prepared is written.

mod handed;
mod listing;
mod prepare;
#[cfg(test)]
mod tests;
mod writer;

use tokio::sync::mpsc;

use anabranch_core::ids::RoundId;
use anabranch_journal::rounds::{Round, RoundAppender};
use anabranch_runtime::chance::unique_id;
use anabranch_runtime::clock::now_millis;
use anabranch_runtime::threads;
use anabranch_schemas::link;

pub(crate) use handed::Handed;
#[cfg(test)]
pub(crate) use listing::Told;
pub(crate) use listing::{List, Listing, ListingLimits};
pub(crate) use prepare::{Held, Other, Preparer, WasWritten};
use prepare::{Prepared, ReceivedRound};
use writer::Encoded;
pub(crate) use writer::LinkWriter;

use crate::error::Error;
use crate::link::WINDOW;
use crate::worker::Worker;

/// Batches that are ready and wait for the transaction before them.
const READY: usize = 8;

/// The threads that receive for one link.
pub(crate) struct Receiving {
    prepare: Worker<()>,
    write: Worker<()>,
}

impl Receiving {
    /// Starts them. What arrives goes into the sender, which holds as many batches as the other
    /// side may have under way.
    pub(crate) fn start(
        preparer: Preparer,
        writer: LinkWriter,
    ) -> Result<(Self, mpsc::Sender<link::Batch>), Error> {
        let (arrived, batches) = mpsc::channel(WINDOW);
        let (ready, encoded) = mpsc::channel(READY);
        let (appender, handed) = (writer.appender.clone(), writer.handed.clone());
        let prepare = Worker::spawn("bridge-prepare", move |_| {
            prepare_all(&preparer, &appender, &handed, batches, &ready)
        })?;
        let write = Worker::spawn("bridge-receive", move |_| writer.run(encoded))?;
        Ok((Receiving { prepare, write }, arrived))
    }

    /// Waits for one of them to fail. The failure of one makes the other end.
    pub(crate) async fn failed(&mut self) -> Error {
        let (write, prepare) = tokio::select! {
            biased;
            write = self.write.ended() => match write {
                Err(error) => return error,
                // Nothing is made ready any more.
                Ok(()) => (Ok(()), self.prepare.ended().await),
            },
            prepare = self.prepare.ended() => match prepare {
                // Whoever waits for the writer is told only that it has ended; it knows why.
                Err(Error::Closed) | Ok(()) => (self.write.ended().await, prepare),
                Err(error) => return error,
            },
        };
        write.and(prepare).err().unwrap_or(Error::Closed)
    }

    /// Waits for both to end, once nothing more arrives.
    pub(crate) async fn finish(mut self) {
        for ended in [self.prepare.ended().await, self.write.ended().await] {
            if let Err(error) = ended {
                tracing::debug!(%error, "receiving ended");
            }
        }
    }
}

/// Prepares what arrives. Ends when nothing more does, or nobody takes it.
fn prepare_all(
    preparer: &Preparer,
    appender: &RoundAppender,
    handed: &Handed,
    mut batches: mpsc::Receiver<link::Batch>,
    ready: &mpsc::Sender<Encoded>,
) -> Result<(), Error> {
    while let Some(batch) = threads::receive(&mut batches) {
        let number = batch.number;
        let prepared = preparer.prepare(batch, now_millis())?;
        handed.hand(number);
        if threads::send(ready, encode(preparer, appender, prepared)?).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn encode(
    preparer: &Preparer,
    appender: &RoundAppender,
    prepared: Prepared,
) -> Result<Encoded, Error> {
    let Prepared { number, rounds, dead_letters, cursor, documents, bytes, sent_ms } = prepared;
    let round = |round: ReceivedRound| Round {
        id: RoundId(unique_id()),
        app: preparer.app,
        origin: Some((round.origin, round.origin_txn)),
        digest: Vec::new(),
        atomic: false,
        restrictions: Vec::new(),
        mutations: round.mutations,
    };
    let rounds = rounds.into_iter().map(|received| appender.encode(&round(received)));
    Ok(Encoded {
        number,
        rounds: rounds.collect::<Result<_, _>>()?,
        dead_letters,
        cursor,
        documents,
        bytes,
        sent_ms,
    })
}
