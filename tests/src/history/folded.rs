//! What the acknowledged rounds add up to, at any transaction.

use std::collections::{BTreeMap, HashMap};

use super::{Change, Document, Effect, History, Scope, Txn, Write};

/// All rounds, arranged by what they changed.
pub(super) struct Folded<'a> {
    /// Those that were acknowledged, in the order of their transactions.
    pub(super) rounds: Vec<(Txn, &'a Write)>,
    documents: BTreeMap<&'a Document, Track<'a>>,
    /// By field and value of a register who set it.
    authors: HashMap<(&'a Document, &'a str, &'a str), &'a Write>,
}

/// What became of a document.
#[derive(Default)]
pub(super) struct Track<'a> {
    /// The transactions that changed it, and whether it was there afterwards.
    touched: Vec<(Txn, bool)>,
    /// The transactions that inserted it after it had been deleted.
    begun: Vec<Txn>,
    pub(super) registers: BTreeMap<&'a str, Vec<Set<'a>>>,
    pub(super) counters: BTreeMap<&'a str, Vec<Added<'a>>>,
}

/// A register was set.
#[derive(Clone, Copy)]
pub(super) struct Set<'a> {
    pub(super) txn: Txn,
    pub(super) round: &'a Write,
    pub(super) value: &'a str,
}

/// A counter was counted up.
#[derive(Clone, Copy)]
pub(super) struct Added<'a> {
    pub(super) txn: Txn,
    pub(super) round: &'a Write,
    pub(super) amount: i64,
    /// What it is from then on.
    pub(super) sum: i64,
}

/// How many of these, which are in order, are there at a snapshot.
fn there<T>(all: &[T], at: Option<Txn>, txn: impl Fn(&T) -> Txn) -> &[T] {
    let Some(at) = at else { return &[] };
    &all[..all.partition_point(|one| txn(one) <= at)]
}

impl<'a> Folded<'a> {
    /// # Panics
    /// If two rounds set one register to one value, or a field is a register and a counter: from
    /// such a history nothing follows.
    pub(super) fn new(history: &'a History) -> Self {
        let acknowledged = history.writes().filter_map(|write| Some((write.outcome?, write)));
        let mut rounds: Vec<_> = acknowledged.collect();
        rounds.sort_by_key(|(txn, _)| *txn);
        let mut authors = HashMap::new();
        for write in history.writes() {
            for Change { document, field, effect } in &write.changes {
                let Effect::Set(value) = effect else { continue };
                let key = (document, field.as_str(), value.as_str());
                let other: Option<&Write> = authors.insert(key, write);
                assert!(other.is_none(), "{document}.{field} is set to '{value}' by two rounds");
            }
        }
        let mut documents: BTreeMap<_, Track<'_>> = BTreeMap::new();
        for (txn, round) in &rounds {
            for change in &round.changes {
                documents.entry(&change.document).or_default().add(*txn, round, change);
            }
        }
        Folded { rounds, documents, authors }
    }

    /// The documents of a scope that were ever there.
    pub(super) fn within(&self, scope: &Scope) -> impl Iterator<Item = (&'a Document, &Track<'a>)> {
        self.documents
            .iter()
            .filter(|(document, _)| scope.contains(document))
            .map(|(document, track)| (*document, track))
    }

    /// What became of a document.
    pub(super) fn track(&self, document: &Document) -> Option<&Track<'a>> {
        self.documents.get(document)
    }

    /// Every document.
    pub(super) fn documents(&self) -> impl Iterator<Item = &'a Document> {
        self.documents.keys().copied()
    }

    /// The round that set a register to a value.
    pub(super) fn author(
        &self,
        document: &'a Document,
        field: &'a str,
        value: &'a str,
    ) -> Option<&'a Write> {
        self.authors.get(&(document, field, value)).copied()
    }
}

impl<'a> Track<'a> {
    fn add(&mut self, txn: Txn, round: &'a Write, change: &'a Change) {
        let Change { document, field, effect } = change;
        let was_there = self.touched.last().map(|(_, is_there)| *is_there);
        if *effect == Effect::Insert && was_there == Some(false) {
            self.begun.push(txn);
        }
        // What is not there is not deleted.
        if *effect != Effect::Delete || was_there == Some(true) {
            self.touched.push((txn, *effect != Effect::Delete));
        }
        let field = field.as_str();
        match effect {
            Effect::Insert | Effect::Delete => {}
            Effect::Set(value) => {
                self.registers.entry(field).or_default().push(Set { txn, round, value });
            }
            Effect::Add(amount) => {
                let all = self.counters.entry(field).or_default();
                let begun = self.begun.last().copied();
                let last = all.last().filter(|last| Some(last.txn) >= begun);
                let sum = last.map_or(0, |last| last.sum) + amount;
                all.push(Added { txn, round, amount: *amount, sum });
            }
        }
        let both = self.registers.contains_key(field) && self.counters.contains_key(field);
        assert!(!both, "{document}.{field} is a register and a counter");
    }

    /// The transaction that changed it last at a snapshot; `None` while it is not there.
    pub(super) fn version(&self, at: Option<Txn>) -> Option<Txn> {
        let last = there(&self.touched, at, |(txn, _)| *txn).last();
        last.filter(|(_, is_there)| *is_there).map(|(txn, _)| *txn)
    }

    /// The transaction that deleted it, if it is deleted at a snapshot.
    pub(super) fn deleted(&self, at: Option<Txn>) -> Option<Txn> {
        let last = there(&self.touched, at, |(txn, _)| *txn).last();
        last.filter(|(_, is_there)| !is_there).map(|(txn, _)| *txn)
    }

    /// Whether nothing of what a transaction did is there at a snapshot, since the document was
    /// deleted after it.
    pub(super) fn is_undone(&self, txn: Option<Txn>, at: Option<Txn>) -> bool {
        self.deleted(at) > txn || there(&self.begun, at, |txn| *txn).last().copied() > txn
    }

    /// A register as it is at a snapshot.
    pub(super) fn register(&self, field: &str, at: Option<Txn>) -> Option<Set<'a>> {
        let last = there(self.registers.get(field)?, at, |set| set.txn).last().copied()?;
        (!self.is_undone(Some(last.txn), at)).then_some(last)
    }

    /// What was added to a counter that is there at a snapshot, up to it, and what was added later.
    pub(super) fn counted(&self, field: &str, at: Option<Txn>) -> (&[Added<'a>], &[Added<'a>]) {
        let all = self.counters.get(field).map_or(&[][..], Vec::as_slice);
        let (before, later) = all.split_at(there(all, at, |added| added.txn).len());
        let undone = before.partition_point(|added| self.is_undone(Some(added.txn), at));
        (&before[undone..], later)
    }
}
