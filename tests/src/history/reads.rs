//! Whether a read saw exactly the rounds up to its snapshot, and each of them whole.

use std::collections::BTreeSet;
use std::fmt;

use super::folded::{Added, Folded, Track};
use super::{Change, Document, Effect, Kind, Read, Seen, Txn, Value, Violation, Write};

/// Checks what a read saw; `who` names it. Of a read in the end, what it lacks is lost.
pub(super) fn check(folded: &Folded<'_>, read: &Read, who: &str, is_end: bool) -> Vec<Violation> {
    let mut look = Look { folded, read, who, is_end, torn: BTreeSet::new(), found: Vec::new() };
    look.parts_of_what_is_seen();
    let mut documents: BTreeSet<_> =
        folded.within(&read.scope).map(|(document, _)| document).collect();
    documents.extend(read.seen.keys());
    for document in documents {
        look.document(document);
    }
    look.found
}

/// A look at one read.
struct Look<'a> {
    folded: &'a Folded<'a>,
    read: &'a Read,
    who: &'a str,
    is_end: bool,
    /// The rounds of which it saw a part.
    torn: BTreeSet<&'a str>,
    found: Vec<Violation>,
}

fn text(at: Option<Txn>) -> String {
    at.map_or_else(|| "before the first transaction".to_owned(), |txn| format!("at {txn}"))
}

fn named(round: &Write) -> String {
    match round.outcome {
        Some(txn) => format!("round {} ({txn})", round.name),
        None => format!("round {}, which is known not to be there", round.name),
    }
}

impl<'a> Look<'a> {
    fn note(&mut self, kind: Kind, what: &str) {
        let evidence = format!("{}, {}: {what}", self.who, text(self.read.snapshot));
        self.found.push(Violation::new(kind, evidence));
    }

    fn note_torn(&mut self, round: &'a Write, seen: &str, missing: &str) {
        if self.torn.insert(&round.name) {
            let what = format!("of {} {seen} is seen, but {missing} is not", named(round));
            self.note(Kind::Torn, &what);
        }
    }

    /// What lacks something: in the end that is lost.
    fn kind_of_lack(&self) -> Kind {
        if self.is_end { Kind::Lost } else { Kind::Snapshot }
    }

    /// The round of what stands in a register; `None` if there is nothing, or nothing known.
    fn seen_round(&self, document: &'a Document, field: &'a str) -> Option<&'a Write> {
        let Value::Text(value) = self.read.seen.get(document)?.fields.get(field)? else {
            return None;
        };
        self.folded.author(document, field, value)
    }

    /// Whether a part of a round is seen, or what came after it; `None` if that cannot be told.
    fn is_seen(&self, change: &'a Change, round: &Write) -> Option<bool> {
        let Change { document, field, effect } = change;
        let track = self.folded.track(document);
        let is_undone =
            track.is_some_and(|track| track.is_undone(round.outcome, self.read.snapshot));
        if !self.read.scope.contains(document) || is_undone || *effect == Effect::Add(0) {
            return None;
        }
        match effect {
            // Whether a document is there depends on other rounds, too.
            Effect::Insert | Effect::Delete => None,
            Effect::Set(_) => {
                let seen = self.seen_round(document, field).and_then(|seen| seen.outcome);
                let is_there = self
                    .read
                    .seen
                    .get(document)
                    .is_some_and(|seen| seen.fields.contains_key(field));
                // Of what nobody wrote nothing follows.
                (seen.is_some() || !is_there).then_some(seen >= round.outcome)
            }
            Effect::Add(_) => {
                let seen = self.read.seen.get(document)?.fields.get(field)?;
                let (counted, _) = track?.counted(field, self.read.snapshot);
                let is_right = *seen == Value::Number(counted.last().map_or(0, |last| last.sum));
                is_right.then_some(round.outcome <= self.read.snapshot)
            }
        }
    }

    /// Of each round that is seen in a register all other registers that it set must be seen.
    fn parts_of_what_is_seen(&mut self) {
        let read = self.read;
        for (document, seen) in &read.seen {
            for field in seen.fields.keys() {
                let Some(round) = self.seen_round(document, field) else { continue };
                let is_missing = |change: &&'a Change| {
                    matches!(change.effect, Effect::Set(_))
                        && self.is_seen(change, round) == Some(false)
                };
                if let Some(missing) = round.changes.iter().find(is_missing) {
                    let missing = format!("{}.{}", missing.document, missing.field);
                    self.note_torn(round, &format!("{document}.{field}"), &missing);
                }
            }
        }
    }

    fn document(&mut self, document: &'a Document) {
        let at = self.read.snapshot;
        let seen = self.read.seen.get(document);
        let track = self.folded.track(document);
        if seen.is_some() && !self.read.scope.contains(document) {
            self.note(Kind::Invented, &format!("{document} was not asked for"));
        }
        let version = track.and_then(|track| track.version(at));
        let (Some(track), Some(seen), Some(_)) = (track, seen, version) else {
            if let Some(version) = version {
                let what = format!("{document} is missing, which {version} changed last");
                self.note(self.kind_of_lack(), &what);
            } else if let (Some(deleted), Some(_)) =
                (track.and_then(|track| track.deleted(at)), seen)
            {
                let what = format!("{document} is there, which {deleted} deleted");
                self.note(self.kind_of_lack(), &what);
            } else if seen.is_some() {
                self.note(Kind::Invented, &format!("{document} is there, which nobody wrote"));
            }
            return;
        };
        self.registers(document, track, seen);
        self.counters(document, track, seen);
        for (field, value) in &seen.fields {
            let is_known = track.registers.contains_key(field.as_str())
                || track.counters.contains_key(field.as_str());
            if !is_known {
                let what = format!("{document}.{field} is {value}, which nobody wrote");
                self.note(Kind::Invented, &what);
            }
        }
        if let Some(said) = seen.version
            && version != Some(said)
        {
            let what = format!("{document} is said to be of {said}, and {version:?} changed it");
            self.note(Kind::Snapshot, &what);
        }
    }

    fn registers(&mut self, document: &'a Document, track: &Track<'a>, seen: &'a Seen) {
        for &field in track.registers.keys() {
            let expected = track.register(field, self.read.snapshot);
            let (found, round) = (seen.fields.get(field), self.seen_round(document, field));
            let is_right = match (expected, found) {
                (Some(expected), Some(Value::Text(value))) => expected.value == value,
                (None, None) => true,
                _ => false,
            };
            if is_right {
                continue;
            }
            if let (None, Some(value)) = (round, found) {
                let what = format!("{document}.{field} is {value}, which nobody wrote");
                self.note(Kind::Invented, &what);
                continue;
            }
            let rounds = [round, expected.map(|expected| expected.round)];
            let told = rounds.iter().flatten().any(|round| self.torn.contains(&*round.name));
            if told && !self.is_end {
                continue;
            }
            let seen = round.map_or_else(|| "nothing".to_owned(), named);
            let expected = expected.map_or_else(|| "nothing".to_owned(), |set| named(set.round));
            let what = format!("{document}.{field} is of {seen} instead of {expected}");
            let is_absent = round.is_some_and(|round| round.outcome.is_none());
            self.note(if is_absent { Kind::Invented } else { self.kind_of_lack() }, &what);
        }
    }

    fn counters(&mut self, document: &'a Document, track: &Track<'a>, seen: &'a Seen) {
        for &field in track.counters.keys() {
            let (counted, later) = track.counted(field, self.read.snapshot);
            let expected = counted.last().map(|last| last.sum);
            let found = match seen.fields.get(field) {
                None => None,
                Some(Value::Number(number)) => Some(*number),
                Some(other) => {
                    let what = format!("{document}.{field} is {other}, and no number");
                    self.note(Kind::Invented, &what);
                    continue;
                }
            };
            if found == expected {
                continue;
            }
            let difference = found.unwrap_or(0) - expected.unwrap_or(0);
            let place = format!("{document}.{field}");
            let reason = reason(counted, later, difference);
            if let Some((round, odd)) = reason
                && self.is_part(document, field, round, odd)
                && !self.is_end
            {
                continue;
            }
            let reason = reason.map_or_else(
                || "which no single round explains".to_owned(),
                |(round, odd)| format!("as if what {} adds is there {odd}", named(round)),
            );
            let what = format!("{place} is {found:?} instead of {expected:?}, {reason}");
            self.note(Kind::Count, &what);
        }
    }

    /// Whether a counter that is odd shows that its round is torn.
    fn is_part(&mut self, document: &Document, field: &str, round: &'a Write, odd: Odd) -> bool {
        let place = format!("{document}.{field}");
        let is_other_seen = match odd {
            Odd::Missing => true,
            Odd::Early => false,
            Odd::Twice => return false,
        };
        let Some(other) = self.other_part(document, field, round, is_other_seen) else {
            return false;
        };
        let (seen, missing) = if is_other_seen { (&other, &place) } else { (&place, &other) };
        self.note_torn(round, seen, missing);
        true
    }

    /// Another part of a round that is seen, or is not.
    fn other_part(
        &self,
        document: &Document,
        field: &str,
        round: &'a Write,
        is_seen: bool,
    ) -> Option<String> {
        let is_this = |change: &Change| change.document == *document && change.field == field;
        let other = round
            .changes
            .iter()
            .filter(|change| !is_this(change))
            .find(|change| self.is_seen(change, round) == Some(is_seen));
        other.map(|change| format!("{}.{}", change.document, change.field))
    }
}

/// How what one round adds to a counter is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Odd {
    Missing,
    Early,
    Twice,
}

impl fmt::Display for Odd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Odd::Missing => "not at all",
            Odd::Early => "too early",
            Odd::Twice => "twice",
        })
    }
}

/// The one round that explains why a counter, to which some rounds have added and others add later,
/// is off by so much.
fn reason<'a>(
    counted: &[Added<'a>],
    later: &[Added<'a>],
    difference: i64,
) -> Option<(&'a Write, Odd)> {
    if difference < 0 {
        return only(counted, -difference).map(|round| (round, Odd::Missing));
    }
    let early = only(later, difference).map(|round| (round, Odd::Early));
    early.or_else(|| only(counted, difference).map(|round| (round, Odd::Twice)))
}

/// The only round that added so much.
fn only<'a>(all: &[Added<'a>], amount: i64) -> Option<&'a Write> {
    let mut rounds = all.iter().filter(|added| added.amount == amount);
    let round = rounds.next()?.round;
    rounds.next().is_none().then_some(round)
}
