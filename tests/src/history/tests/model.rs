//! A database that is right by construction: one log, and readers that read at a place in it.
//!
//! Sessions overlap: what a session does takes effect at a moment between its beginning and its
//! end, and moments of all sessions come in order.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{
    Action, Change, Document, Effect, History, Moment, Operation, Read, Scope, Seen, Server, Txn,
    Value, Write,
};
use crate::support::Random;

/// The collections.
pub(super) const COLLECTIONS: [&str; 2] = ["red", "blue"];

/// How large a history is.
pub(super) struct Shape {
    pub(super) sessions: usize,
    /// Of all sessions together.
    pub(super) operations: usize,
    /// Of each collection.
    pub(super) documents: usize,
    pub(super) servers: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Shape { sessions: 5, operations: 400, documents: 5, servers: 2 }
    }
}

/// The database and its clients.
pub(super) struct World {
    random: Random,
    documents: usize,
    now: u64,
    /// Rounds as they are applied, which is what was acknowledged unless somebody meddles.
    pub(super) log: Vec<(Txn, Write)>,
    /// How many of them are stable.
    stable: usize,
    next: u64,
    servers: usize,
    sessions: Vec<Client>,
    /// By session what it did.
    pub(super) done: Vec<Vec<Operation>>,
}

#[derive(Default)]
struct Client {
    under_way: Option<Operation>,
    /// When it goes on.
    at: u64,
    is_decided: bool,
    seen: Option<Txn>,
    written: u64,
}

impl World {
    /// Lets sessions do things until there are so many.
    pub(super) fn run(seed: u64, shape: &Shape) -> World {
        let Shape { sessions, operations, documents, servers } = *shape;
        let mut random = Random::new(seed);
        let sessions: Vec<_> =
            (0..sessions).map(|_| Client { at: random.below(50), ..Client::default() }).collect();
        let done = vec![Vec::new(); sessions.len()];
        let (log, next) = (Vec::new(), 1);
        let mut world =
            World { random, documents, now: 0, log, stable: 0, next, servers, sessions, done };
        while world.done.iter().map(Vec::len).sum::<usize>() < operations {
            world.step();
        }
        // What is still under way comes to its end.
        while let Some(session) = world.earliest(|client| client.under_way.is_some()) {
            world.go_on(session);
        }
        world
    }

    fn earliest(&self, which: impl Fn(&Client) -> bool) -> Option<usize> {
        let those = self.sessions.iter().enumerate().filter(|(_, client)| which(client));
        those.min_by_key(|(_, client)| client.at).map(|(session, _)| session)
    }

    fn step(&mut self) {
        let session = self.earliest(|_| true).expect("there is a session");
        if self.sessions[session].under_way.is_some() {
            self.go_on(session);
        } else {
            self.now = self.sessions[session].at;
            let operation = self.begin(session);
            let at = self.now + self.random.below(30);
            let client = &mut self.sessions[session];
            (client.under_way, client.is_decided, client.at) = (Some(operation), false, at);
        }
    }

    /// What is under way takes effect, or is over.
    fn go_on(&mut self, session: usize) {
        self.now = self.sessions[session].at;
        let mut operation = self.sessions[session].under_way.take().expect("something under way");
        let pause = self.random.below(30);
        if !self.sessions[session].is_decided {
            self.decide(&mut operation);
            let client = &mut self.sessions[session];
            client.at += pause;
            (client.under_way, client.is_decided) = (Some(operation), true);
            return;
        }
        operation.ended = Moment(self.now);
        let seen = match &operation.action {
            Action::Write(write) => write.outcome,
            Action::Read(read) => read.snapshot,
            Action::Take { token, .. } => Some(*token),
        };
        let client = &mut self.sessions[session];
        client.seen = client.seen.max(seen);
        client.at += 1 + pause;
        self.done[session].push(operation);
    }

    fn begin(&mut self, session: usize) -> Operation {
        let token = self.sessions[session].seen.filter(|_| self.random.below(3) > 0);
        let action = match self.random.below(10) {
            0..=4 => Action::Write(self.round(session)),
            5..=8 => Action::Read(self.read()),
            _ => {
                let from = self.random.index(self.sessions.len());
                match self.sessions[from].seen {
                    Some(token) => Action::Take { from, token },
                    None => Action::Read(self.read()),
                }
            }
        };
        Operation { began: Moment(self.now), ended: Moment(self.now), token, action }
    }

    fn document(&mut self) -> Document {
        let collection = COLLECTIONS[self.random.index(2)].to_owned();
        Document { collection, id: self.random.index(self.documents).to_string() }
    }

    fn round(&mut self, session: usize) -> Write {
        let client = &mut self.sessions[session];
        client.written += 1;
        let name = format!("{session}-{}", client.written);
        let documents: BTreeSet<_> = (0..=self.random.below(4)).map(|_| self.document()).collect();
        let mut changes = Vec::new();
        let mut change = |document: &Document, field: &str, effect| {
            let (document, field) = (document.clone(), field.to_owned());
            changes.push(Change { document, field, effect });
        };
        for document in &documents {
            match self.random.below(10) {
                0 => {
                    change(document, "", Effect::Delete);
                    continue;
                }
                1 | 2 => change(document, "", Effect::Insert),
                _ => {}
            }
            let what = self.random.below(3);
            if what != 0 {
                change(document, "tag", Effect::Set(name.clone()));
            }
            if what != 1 {
                let amount = 1 + self.random.below(1_000_000_000);
                change(document, "count", Effect::Add(i64::try_from(amount).expect("small")));
            }
        }
        Write { name, changes, outcome: None }
    }

    fn read(&mut self) -> Read {
        let scope = match self.random.below(3) {
            0 => Scope::Collection(COLLECTIONS[self.random.index(2)].to_owned()),
            1 => Scope::Documents([self.document()].into()),
            _ => Scope::Documents((0..4).map(|_| self.document()).collect()),
        };
        // What a client cannot tell is not said.
        let number = self.random.index(self.servers + 1);
        let server = (number < self.servers).then_some(Server { number, life: 0 });
        Read { scope, snapshot: None, server, seen: BTreeMap::new() }
    }

    /// What an operation becomes, at this moment.
    fn decide(&mut self, operation: &mut Operation) {
        self.stable += self.random.index(self.log.len() - self.stable + 1);
        match &mut operation.action {
            Action::Write(write) => {
                if self.random.below(20) > 0 {
                    let txn = Txn(self.next);
                    // Not dense.
                    self.next += 2 + self.random.below(3);
                    write.outcome = Some(txn);
                    self.log.push((txn, write.clone()));
                }
            }
            Action::Read(read) => {
                let stable = self.log[..self.stable].last().map(|(txn, _)| *txn);
                read.snapshot = stable.max(operation.token);
                read.seen = see(&self.log, &read.scope, read.snapshot);
            }
            Action::Take { .. } => {}
        }
    }

    /// What the sessions did, and what is there in the end.
    pub(super) fn history(&self) -> History {
        let last = self.log.last().map(|(txn, _)| *txn);
        let read = |collection: &str| {
            let scope = Scope::Collection(collection.to_owned());
            let seen = see(&self.log, &scope, last);
            Read { scope, snapshot: last, server: None, seen }
        };
        History { sessions: self.done.clone(), end: COLLECTIONS.map(read).into() }
    }

    /// The history as it would be if the log had been another one when it was read, while clients
    /// were told the same.
    pub(super) fn reading(mut self, meddle: impl FnOnce(&mut Vec<(Txn, Write)>)) -> History {
        meddle(&mut self.log);
        self.log.sort_by_key(|(txn, _)| *txn);
        let mut history = self.history();
        for operation in history.sessions.iter_mut().flatten() {
            if let Action::Read(read) = &mut operation.action {
                read.seen = see(&self.log, &read.scope, read.snapshot);
            }
        }
        history
    }
}

/// What is there at a snapshot: the rounds up to it, one after the other.
pub(super) fn see(
    log: &[(Txn, Write)],
    scope: &Scope,
    at: Option<Txn>,
) -> BTreeMap<Document, Seen> {
    // With whether each is there, or only what it had when it was deleted.
    let mut all: BTreeMap<_, (Seen, bool)> = BTreeMap::new();
    for (txn, round) in log.iter().filter(|(txn, _)| Some(*txn) <= at) {
        for Change { document, field, effect } in &round.changes {
            if !scope.contains(document) {
                continue;
            }
            let (seen, is_there) = all.entry(document.clone()).or_default();
            if !*is_there && *effect == Effect::Delete {
                continue;
            }
            let was_there = std::mem::replace(is_there, *effect != Effect::Delete);
            seen.version = Some(*txn);
            let value = match (effect, seen.fields.get(field)) {
                (Effect::Delete, _) => continue,
                (Effect::Insert, _) => {
                    if !was_there {
                        seen.fields.clear();
                    }
                    continue;
                }
                (Effect::Set(value), _) => Value::Text(value.clone()),
                (Effect::Add(amount), Some(Value::Number(sum))) => Value::Number(sum + amount),
                (Effect::Add(amount), _) => Value::Number(*amount),
            };
            seen.fields.insert(field.clone(), value);
        }
    }
    let there = all.into_iter().filter(|(_, (_, is_there))| *is_there);
    there.map(|(document, (seen, _))| (document, seen)).collect()
}
