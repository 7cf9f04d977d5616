//! The checks, and those that need only the order in which things were done.

use std::collections::BTreeMap;

use super::folded::Folded;
use super::{Action, History, Kind, Moment, Operation, Read, Scope, Txn, Violation, reads};

/// Everything in a history that must not be.
///
/// # Panics
/// If it is none: a session that does two things at once, a value that two rounds set.
pub fn check(history: &History) -> Vec<Violation> {
    let folded = Folded::new(history);
    let mut found = same_transaction(&folded);
    for (session, operations) in history.sessions.iter().enumerate() {
        Session::new(session).check(operations, &mut found);
    }
    found.extend(real_time(history));
    found.extend(stable(history));
    for (session, operation) in history.operations() {
        if let Action::Read(read) = &operation.action {
            let who = name(session, operation);
            found.extend(reads::check(&folded, read, &who, false));
        }
    }
    found.extend(end(history, &folded));
    found
}

/// An operation, for evidence.
fn name(session: usize, Operation { began, token, action, .. }: &Operation) -> String {
    let token = token.map_or_else(|| "no token".to_owned(), |token| format!("token {token}"));
    let what = match action {
        Action::Write(write) => format!("round {}", write.name),
        Action::Read(read) => format!("read of {}", scope(&read.scope)),
        Action::Take { from, token } => format!("takes {token} from session {from}"),
    };
    format!("session {session}, {what} at {} ms with {token}", began.0 / 1_000_000)
}

fn scope(scope: &Scope) -> String {
    match scope {
        Scope::Collection(collection) => collection.clone(),
        Scope::Documents(documents) => {
            documents.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        }
    }
}

fn same_transaction(folded: &Folded<'_>) -> Vec<Violation> {
    let pairs = folded.rounds.windows(2).filter(|pair| pair[0].0 == pair[1].0);
    let told = pairs.map(|pair| {
        let [(txn, first), (_, second)] = [pair[0], pair[1]];
        let evidence = format!("rounds {} and {} are both {txn}", first.name, second.name);
        Violation::new(Kind::SameTransaction, evidence)
    });
    told.collect()
}

/// What a session has seen so far.
struct Session {
    number: usize,
    /// The last transaction that it wrote, read or was given, and what that was.
    wrote: Option<(Txn, String)>,
    read: Option<(Txn, String)>,
    took: Option<(Txn, String)>,
}

impl Session {
    fn new(number: usize) -> Self {
        Session { number, wrote: None, read: None, took: None }
    }

    fn check(mut self, operations: &[Operation], found: &mut Vec<Violation>) {
        let mut free = Moment(0);
        for operation in operations {
            let who = name(self.number, operation);
            let in_order = free <= operation.began && operation.began <= operation.ended;
            assert!(in_order, "{who}: a session does one thing after the other");
            free = operation.ended;
            match &operation.action {
                Action::Write(write) => {
                    let Some(txn) = write.outcome else { continue };
                    found.extend(self.round(operation, txn, &who));
                    raise(&mut self.wrote, txn, who);
                }
                Action::Read(read) => {
                    found.extend(self.snapshot(operation, read, &who));
                    if let Some(snapshot) = read.snapshot {
                        raise(&mut self.read, snapshot, who);
                    }
                }
                Action::Take { token, .. } => raise(&mut self.took, *token, who),
            }
        }
    }

    /// What the session had seen and told with its token, by what it would violate.
    fn told(&self, token: Txn) -> Vec<(Kind, Txn, &str)> {
        let all = [
            (Kind::ReadYourWrites, &self.wrote),
            (Kind::Monotonic, &self.read),
            (Kind::Causal, &self.took),
        ];
        let seen = all.into_iter().filter_map(|(kind, seen)| {
            let (txn, what) = seen.as_ref()?;
            (*txn <= token).then_some((kind, *txn, what.as_str()))
        });
        let seen: Vec<_> = seen.collect();
        if seen.is_empty() { vec![(Kind::Causal, token, "its token")] } else { seen }
    }

    /// A round comes after what its session had seen.
    fn round(&self, operation: &Operation, txn: Txn, who: &str) -> Vec<Violation> {
        let told = operation.token.map(|token| self.told(token)).unwrap_or_default();
        let missed = told.into_iter().filter(|(_, seen, _)| txn <= *seen);
        let told = missed.map(|(_, seen, what)| {
            let evidence = format!("{who} is {txn}, after it had seen {seen}: {what}");
            Violation::new(Kind::Causal, evidence)
        });
        told.collect()
    }

    /// A read includes what its session had seen.
    fn snapshot(&self, operation: &Operation, read: &Read, who: &str) -> Vec<Violation> {
        let told = operation.token.map(|token| self.told(token)).unwrap_or_default();
        let missed = told.into_iter().filter(|(_, seen, _)| read.snapshot < Some(*seen));
        let told = missed.map(|(kind, seen, what)| {
            let at = read.snapshot;
            Violation::new(kind, format!("{who} is at {at:?}, after {seen}: {what}"))
        });
        told.collect()
    }
}

fn raise(seen: &mut Option<(Txn, String)>, txn: Txn, what: String) {
    if seen.as_ref().is_none_or(|(before, _)| *before < txn) {
        *seen = Some((txn, what));
    }
}

/// Whether something ends before or begins at a moment.
struct Event<'a> {
    at: Moment,
    /// Of two at one moment what begins comes first: then they were at the same time.
    ends: bool,
    session: usize,
    operation: &'a Operation,
}

/// All beginnings and ends in order.
fn events(history: &History) -> Vec<Event<'_>> {
    let both = history.operations().flat_map(|(session, operation)| {
        [(operation.began, false), (operation.ended, true)].map(|(at, ends)| Event {
            at,
            ends,
            session,
            operation,
        })
    });
    let mut events: Vec<_> = both.collect();
    events.sort_by_key(|event| (event.at, event.ends));
    events
}

/// A round comes after all that was acknowledged, and all that was seen, before it began.
fn real_time(history: &History) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut over: Option<(Txn, usize, &Operation)> = None;
    for Event { ends, session, operation, .. } in events(history) {
        let txn = match &operation.action {
            Action::Write(write) => write.outcome,
            Action::Read(read) => read.snapshot,
            Action::Take { .. } => None,
        };
        let Some(txn) = txn else { continue };
        if ends {
            if over.is_none_or(|(last, ..)| last < txn) {
                over = Some((txn, session, operation));
            }
            continue;
        }
        if let (Action::Write(_), Some((last, by, other))) = (&operation.action, over)
            && txn <= last
        {
            let who = name(session, operation);
            let what = format!("{who} is {txn}, although {last} was over: {}", name(by, other));
            found.push(Violation::new(Kind::RealTime, what));
        }
    }
    found
}

/// Reads without a token that one server answers one after the other do not go back (ST-3).
fn stable(history: &History) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut over: BTreeMap<_, (Option<Txn>, usize, &Operation)> = BTreeMap::new();
    let mut before = BTreeMap::new();
    for Event { ends, session, operation, .. } in events(history) {
        let Action::Read(read) = &operation.action else { continue };
        let (Some(server), None) = (read.server, operation.token) else { continue };
        if !ends {
            before.insert(session, over.get(&server).copied());
            continue;
        }
        if let Some((last, by, other)) = before.remove(&session).flatten()
            && read.snapshot < last
        {
            let (who, at) = (name(session, operation), read.snapshot);
            let other = name(by, other);
            let what = format!("{who} is at {at:?}, but {server:?} was at {last:?}: {other}");
            found.push(Violation::new(Kind::Stable, what));
        }
        let last = over.entry(server).or_insert((read.snapshot, session, operation));
        if last.0 < read.snapshot {
            *last = (read.snapshot, session, operation);
        }
    }
    found
}

/// In the end everything that was acknowledged is there.
fn end(history: &History, folded: &Folded<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    let last = folded.rounds.last();
    for (number, read) in history.end.iter().enumerate() {
        let who = format!("read {number} in the end, of {}", scope(&read.scope));
        if let Some((txn, round)) = last
            && read.snapshot < Some(*txn)
        {
            let at = read.snapshot;
            let what = format!("{who} is at {at:?}, before {txn}, which is round {}", round.name);
            found.push(Violation::new(Kind::Lost, what));
        }
        found.extend(reads::check(folded, read, &who, true));
    }
    for document in folded.documents() {
        if !history.end.iter().any(|read| read.scope.contains(document)) {
            found.push(Violation::new(Kind::Lost, format!("{document} was not read in the end")));
        }
    }
    found
}
