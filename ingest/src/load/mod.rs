//! Bulk loads: documents as they arrive, in rounds of at most 1,000.
//!
//! A load is a pipeline of bounded size: the body is cut into documents ([`split`]), these are
//! parsed a round at a time ([`parse`]), and a few rounds are on their way at once. Rounds in
//! flight may commit in any order, so one that has an id in common with an earlier one waits for
//! it: of two documents with the same id the later one wins, always.
//!
//! Documents are merged into those that are there; an equal one changes nothing. So a load that
//! broke off is simply sent again. With an `Idempotency-Key`, which names every round of the load,
//! rounds that were applied are not even written again. The key stands for the same documents in
//! the same rounds: where a body breaks off, the documents of a round that is not full are not
//! written under it, or the whole load, sent again, would be another one.

mod parse;
mod split;
#[cfg(test)]
mod tests;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::ErrorKind;
use anabranch_core::document::MAX_BYTES;
use anabranch_core::ids::{AppId, Collection, DocumentKey, TxnId};
use anabranch_journal::rounds::Round;
use anabranch_runtime::tasks::Shutdown;
use anabranch_schemas::records::{DocumentMutation, Restriction};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::access::Caller;
use crate::config::IngestConfig;
use crate::document::{Warning, Warnings};
use crate::error::{Code, Refusal};
use crate::idempotency::{IdempotencyKey, RequestName};
use crate::metrics;
use crate::rounds::{Patience, Rounds};
use crate::store::{Outcome, Store};

use parse::{Parsed, Shape};
use split::{Element, Splitter};

pub(crate) use parse::LineError;
pub(crate) use split::Format;

/// How many errors a reply lists at most.
const MAX_ERRORS: usize = 100;
/// The longest JSON text of a document; with its spaces it may be longer than the document.
const MAX_TEXT_BYTES: usize = MAX_BYTES + MAX_BYTES / 2;

/// Runs bulk loads.
#[derive(Clone)]
pub(crate) struct Loader {
    store: Store,
    rounds: Rounds,
    round_documents: usize,
    round_bytes: usize,
    rounds_in_flight: usize,
    /// How long one round may take.
    pub(crate) round_timeout: Duration,
    shutdown: Shutdown,
}

/// A load to run.
pub(crate) struct Request {
    pub(crate) app: AppId,
    pub(crate) caller: Caller,
    /// What the caller may do in the collection, if that is not everything.
    pub(crate) restriction: Option<Restriction>,
    pub(crate) collection: Collection,
    pub(crate) format: Format,
    /// The field that is the id.
    pub(crate) id_field: String,
    pub(crate) key: Option<IdempotencyKey>,
}

/// What a load did.
#[derive(Default)]
pub(crate) struct Loaded {
    /// The last transaction that it wrote.
    pub(crate) txn: Option<TxnId>,
    /// How many documents arrived.
    pub(crate) received: u64,
    /// How many of them were written.
    pub(crate) written: u64,
    pub(crate) errors: Vec<LineError>,
    /// How many errors are not listed.
    pub(crate) more_errors: u64,
    warnings: Warnings,
    /// The first and the last transaction of which no store node has told what fitted. Whoever is not told
    /// once does not wait for each of the rounds that follow.
    unknown: Option<(TxnId, TxnId)>,
    /// Why it broke off.
    pub(crate) refusal: Option<Refusal>,
}

/// A round that is being written.
struct InFlight {
    hashes: HashSet<u64>,
    documents: u64,
    first_line: u64,
    last_line: u64,
    task: AbortOnDropHandle<Result<Applied, Refusal>>,
}

/// What became of a round.
#[derive(Default)]
struct Applied {
    txn: TxnId,
    /// Documents that the caller may not write.
    forbidden: Vec<DocumentKey>,
    /// Documents that would have become too large with what was there.
    too_large: Vec<DocumentKey>,
    /// How many were to be written to them.
    left_out: u64,
    /// No store node has told.
    is_unknown: bool,
}

impl Applied {
    fn unknown(txn: TxnId) -> Self {
        Applied { txn, is_unknown: true, ..Applied::default() }
    }

    fn of(outcome: Outcome, round: &Round) -> Self {
        let Outcome { txn, digest: _, is_atomic: _, conflicts, kept: _, too_large } = outcome;
        let forbidden: Vec<_> =
            conflicts.into_iter().map(|conflict| conflict.document.key).collect();
        let too_large: Vec<_> = too_large.into_iter().map(|name| name.key).collect();
        let left: HashSet<_> = forbidden.iter().chain(&too_large).collect();
        let is_left = |mutation: &&DocumentMutation| left.contains(&mutation.key);
        let left_out = round.mutations.iter().filter(is_left).count() as u64;
        Applied { txn, forbidden, too_large, left_out, is_unknown: false }
    }
}

impl Loader {
    /// Loads break off when `shutdown` begins.
    pub(crate) fn new(
        config: &IngestConfig,
        store: Store,
        rounds: Rounds,
        shutdown: Shutdown,
    ) -> Self {
        Loader {
            store,
            rounds,
            round_documents: config.load_round_documents,
            round_bytes: config.load_round_bytes,
            rounds_in_flight: config.load_rounds_in_flight,
            round_timeout: config.request_timeout(),
            shutdown,
        }
    }

    /// Runs a load. What went wrong stands beside what was done.
    pub(crate) async fn load<S>(&self, request: Request, body: S) -> Loaded
    where
        S: Stream<Item = Result<Bytes, Refusal>> + Unpin,
    {
        let name = RequestName::new(request.app, &request.caller, request.key);
        let (collection, id_field) = (request.collection, request.id_field);
        let mut run = Run {
            loader: self,
            app: request.app,
            shape: Arc::new(Shape { collection, id_field, name }),
            caller: request.caller,
            restriction: request.restriction,
            part: 0,
            in_flight: VecDeque::new(),
            loaded: Loaded::default(),
        };
        if let Err(refusal) = run.feed(request.format, body).await {
            run.loaded.refusal = Some(refusal);
        }
        run.settle(0).await;
        run.loaded.refusal = run.loaded.refusal.take().map(with_advice);
        metrics::loaded(run.loaded.received, run.loaded.written);
        run.loaded
    }

    /// Writes one round, unless it was applied under its key before.
    async fn write(&self, round: Round, ask: Ask) -> Result<Applied, Refusal> {
        let deadline = Instant::now() + self.round_timeout;
        let check = |outcome: Outcome| {
            if outcome.digest == round.digest {
                return Ok(Applied::of(outcome, &round));
            }
            let message = "this Idempotency-Key was used for another load";
            Err(Refusal::new(Code::KeyReused, message))
        };
        let slices = self.store.slices_of(&round);
        if ask.has_key
            && let Some(outcome) = self.store.outcome(round.id, None, &slices, deadline).await?
        {
            return check(outcome);
        }
        let committed = self.rounds.commit(&round, deadline, Patience::UntilDeadline);
        let txn = committed.await?.txn;
        if !ask.has_key && round.restrictions.is_empty() {
            if !ask.merges {
                return Ok(Applied { txn, ..Applied::default() });
            }
            let effect = self.rounds.effect(&round, txn, deadline).await;
            return effect.map_or_else(|| Ok(Applied::unknown(txn)), check);
        }
        check(self.rounds.settled(round.id, txn, &slices, deadline).await?)
    }
}

/// What is known of a round before it is written.
#[derive(Clone, Copy)]
struct Ask {
    /// It may have been applied before.
    has_key: bool,
    /// Its documents may become too large with what is there.
    merges: bool,
}

/// A load that runs.
struct Run<'a> {
    loader: &'a Loader,
    app: AppId,
    shape: Arc<Shape>,
    caller: Caller,
    restriction: Option<Restriction>,
    /// The number of the next round.
    part: u64,
    in_flight: VecDeque<InFlight>,
    loaded: Loaded,
}

impl Run<'_> {
    async fn feed<S>(&mut self, format: Format, mut body: S) -> Result<(), Refusal>
    where
        S: Stream<Item = Result<Bytes, Refusal>> + Unpin,
    {
        let mut splitter = Splitter::new(format, MAX_TEXT_BYTES);
        let mut elements = Vec::new();
        let mut batch = Batch::default();
        // Even of a body that breaks off, the documents that arrived whole are written, if a
        // repeat makes the same round of them.
        let mut result = Ok(());
        while result.is_ok() {
            let chunk = tokio::select! {
                biased;
                () = self.loader.shutdown.begun() => Some(Err(shutting_down())),
                chunk = body.next() => chunk,
            };
            result = match chunk {
                Some(chunk) => chunk.and_then(|chunk| splitter.push(chunk, &mut elements)),
                None => {
                    result = splitter.finish(&mut elements);
                    self.take(&mut elements, &mut batch).await?;
                    break;
                }
            };
            self.take(&mut elements, &mut batch).await?;
        }
        match &result {
            Err(refusal) if self.shape.name.has_key() && !self.is_round(&batch) => {
                self.leave(&batch, refusal);
            }
            _ => self.flush(&mut batch).await?,
        }
        result
    }

    /// Whether a batch is a round whatever comes after it. One that is only large is not: the next
    /// document may have had room in it.
    fn is_round(&self, batch: &Batch) -> bool {
        batch.elements.len() >= self.loader.round_documents
    }

    /// Lists a batch as not written.
    fn leave(&mut self, batch: &Batch, refusal: &Refusal) {
        if let (Some(first), Some(last)) = (batch.elements.first(), batch.elements.last()) {
            self.loaded.received += batch.elements.len() as u64;
            self.loaded.list_left(first.number, last.number, refusal);
        }
    }

    /// Moves elements into the batch and writes it whenever it is full.
    async fn take(
        &mut self,
        elements: &mut Vec<Element>,
        batch: &mut Batch,
    ) -> Result<(), Refusal> {
        for element in elements.drain(..) {
            let bytes = element.text.as_ref().map_or(0, Bytes::len);
            let is_full = self.is_round(batch) || batch.bytes + bytes > self.loader.round_bytes;
            if is_full {
                self.flush(batch).await?;
            }
            batch.bytes += bytes;
            batch.elements.push(element);
        }
        Ok(())
    }

    /// Parses a batch and sends it on its way, when there is room and no earlier round in the way.
    async fn flush(&mut self, batch: &mut Batch) -> Result<(), Refusal> {
        let Batch { elements, .. } = std::mem::take(batch);
        let (Some(first), Some(last)) = (elements.first(), elements.last()) else {
            return Ok(());
        };
        let (first_line, last_line) = (first.number, last.number);
        self.loaded.received += elements.len() as u64;
        let shape = self.shape.clone();
        let parsed = tokio::task::spawn_blocking(move || shape.parse(&elements)).await;
        let Parsed { mutations, hashes, merges, digest, errors, warnings } =
            parsed.map_err(|error| broken_off(&error))?;
        errors.into_iter().for_each(|error| self.loaded.list(error));
        self.loaded.warnings.extend(warnings);
        let part = self.part;
        self.part += 1;
        if mutations.is_empty() {
            return Ok(());
        }
        self.settle(self.loader.rounds_in_flight - 1).await;
        while self.in_flight.iter().any(|earlier| !earlier.hashes.is_disjoint(&hashes)) {
            self.settle(self.in_flight.len() - 1).await;
        }
        let refusal = self.loaded.refusal.take();
        if let Some(refusal) = refusal.or(self.caller.check_current().err()) {
            self.loaded.list_left(first_line, last_line, &refusal);
            return Err(refusal);
        }
        let documents = mutations.len() as u64;
        let id = self.shape.name.round(part);
        let restrictions = self.restriction.iter().cloned().collect();
        let (app, origin, atomic) = (self.app, None, false);
        let round = Round { id, app, origin, digest, atomic, mutations, restrictions };
        let ask = Ask { has_key: self.shape.name.has_key(), merges };
        let loader = self.loader.clone();
        let task: JoinHandle<_> = tokio::spawn(async move { loader.write(round, ask).await });
        let task = AbortOnDropHandle::new(task);
        self.in_flight.push_back(InFlight { hashes, documents, first_line, last_line, task });
        Ok(())
    }

    /// Waits until at most so many rounds are in flight, the oldest first.
    async fn settle(&mut self, most: usize) {
        while self.in_flight.len() > most
            && let Some(round) = self.in_flight.pop_front()
        {
            let result =
                round.task.await.map_err(|error| broken_off(&error)).and_then(|result| result);
            match result {
                Ok(Applied { txn, forbidden, too_large, left_out, is_unknown }) => {
                    self.loaded.txn = self.loaded.txn.max(Some(txn));
                    self.loaded.written += round.documents - left_out;
                    for key in &forbidden {
                        self.loaded.list_forbidden(round.first_line, round.last_line, key);
                    }
                    for key in &too_large {
                        self.loaded.list_too_large(round.first_line, round.last_line, key);
                    }
                    if is_unknown {
                        self.loaded.note_unknown(txn);
                    }
                }
                Err(refusal) => {
                    self.loaded.list_failed(round.first_line, round.last_line, &refusal);
                    self.loaded.refusal.get_or_insert(refusal);
                }
            }
        }
    }
}

/// Documents that are to become a round.
#[derive(Default)]
struct Batch {
    elements: Vec<Element>,
    bytes: usize,
}

impl Loaded {
    /// The warnings, as they are sent.
    pub(crate) fn take_warnings(&mut self) -> Vec<Warning> {
        let mut warnings = std::mem::take(&mut self.warnings).into_list();
        warnings.extend(self.unknown.map(|(first, last)| Warning::effect_unknown(first, last)));
        warnings
    }

    fn note_unknown(&mut self, txn: TxnId) {
        let (first, last) = self.unknown.unwrap_or((txn, txn));
        self.unknown = Some((first.min(txn), last.max(txn)));
    }

    fn list(&mut self, error: LineError) {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(error);
        } else {
            self.more_errors += 1;
        }
    }

    /// Lists a document that the caller may not write.
    fn list_forbidden(&mut self, first: u64, last: u64, key: &DocumentKey) {
        let message = format!(
            "of documents {first} to {last} you may not write {key} as it is, or as it would become"
        );
        self.list(LineError { line: first, code: Code::Forbidden.as_str(), message });
    }

    /// Lists a document that was left as it was.
    fn list_too_large(&mut self, first: u64, last: u64, key: &DocumentKey) {
        let message = format!(
            "of documents {first} to {last} {key} was left as it was: with what is there already it would \
             become larger than {MAX_BYTES} bytes"
        );
        self.list(LineError { line: first, code: Code::DocumentTooLarge.as_str(), message });
    }

    /// Lists documents of which the round failed.
    fn list_failed(&mut self, first: u64, last: u64, refusal: &Refusal) {
        if refusal.code() != Code::OutcomeUnknown {
            return self.list_left(first, last, refusal);
        }
        let message =
            format!("whether documents {first} to {last} were written is not known: {refusal}");
        self.list(LineError { line: first, code: refusal.code().as_str(), message });
    }

    /// Lists documents that were not written, or not even tried since the load broke off.
    fn list_left(&mut self, first: u64, last: u64, refusal: &Refusal) {
        let message = format!("documents {first} to {last} were not written: {refusal}");
        let code = match refusal.code() {
            // Of others: what became of these is known.
            Code::OutcomeUnknown => Code::JournalUnavailable,
            code => code,
        };
        self.list(LineError { line: first, code: code.as_str(), message });
    }
}

fn shutting_down() -> Refusal {
    Refusal::new(Code::ShuttingDown, "the server is shutting down")
}

/// Of a load, a part may have been written; sending it once more does no harm.
fn with_advice(refusal: Refusal) -> Refusal {
    match refusal.kind() {
        ErrorKind::Retry | ErrorKind::Unknown | ErrorKind::Shutdown => {
            refusal.with_hint("what was written stays; send the whole load again later")
        }
        ErrorKind::Fenced | ErrorKind::Invalid | ErrorKind::Corrupt => refusal,
    }
}

fn broken_off(error: &JoinError) -> Refusal {
    Refusal::new(Code::Internal, format!("a part of the load broke off: {error}"))
}
