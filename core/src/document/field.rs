//! A field: a register, a map, a counter, or what concurrent writers made of it.
//!
//! A field keeps the last value assigned to it (the register), the fields below it (the map) and
//! what was added to it (the counter). An assignment hides everything older below it, so a field's
//! *floor* is the latest of its own register's stamp and the floor above it; whatever is older than
//! its floor is dropped, everywhere and for ever. With that, merging is a union with a maximum per
//! part, which makes it commutative, associative and idempotent.
//!
//! A counter counts on top of the assignment it saw: its `base` is the floor it was begun at. An
//! assignment is a new floor and begins the count anew; of a concurrent assignment and increment
//! of the same field the assignment wins.
//!
//! A cluster that forgot a document (an eviction) and has it again begins a new share in each of
//! its counters: what it counts then adds to what others remember of its earlier share, which
//! would otherwise hide it for being larger. There is a share for each actor, and one more for
//! each time that it forgot the document and then counted on from the same assignment.

use std::collections::BTreeMap;

use super::stamp::Stamp;
use crate::ids::ActorId;
use crate::value::Value;

/// The last value assigned to a field.
#[derive(Clone, Debug, PartialEq)]
pub struct Register {
    /// When.
    pub stamp: Stamp,
    /// A scalar or an array; `None` if the field was removed.
    pub value: Option<Value>,
}

impl Register {
    /// Whether the other one wins. Two of one stamp differ only where clusters that knew different
    /// things brought back what had expired.
    fn is_before(&self, other: &Register) -> bool {
        let text = |register: &Register| register.value.as_ref().map(Value::to_json);
        self.stamp < other.stamp
            || (self.stamp == other.stamp && self.value != other.value && text(self) < text(other))
    }
}

/// Whose share of a counter, and of which time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShareId {
    /// Who counts.
    pub actor: ActorId,
    /// Where in its log it began this share: later shares come later.
    pub begun: u64,
}

/// What one actor added to a counter from some increment on, and until it forgot the document.
/// Each part only grows, since an actor's writes are ordered.
#[derive(Clone, Copy, Debug, Default, Eq)]
pub struct Share {
    /// Its actor learnt of it from others, so it had forgotten the document, and what it added
    /// may be more than it was told: it counts on in a new share. Only its actor knows this.
    pub closed: bool,
    /// The sum of its increments.
    pub added: u64,
    /// The sum of its decrements.
    pub subtracted: u64,
}

/// Clusters that know the same of a document agree, whatever one of them forgot in between.
impl PartialEq for Share {
    fn eq(&self, other: &Share) -> bool {
        (self.added, self.subtracted) == (other.added, other.subtracted)
    }
}

/// A PN-counter (Shapiro et al., 2011) on top of an assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    /// The floor it counts from; `None` if nothing was ever assigned.
    pub base: Option<Stamp>,
    /// The last increment.
    pub stamp: Stamp,
    /// What was added.
    pub shares: BTreeMap<ShareId, Share>,
}

/// A field and what is below it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Field {
    /// The last assignment of something that is not an object.
    pub register: Option<Register>,
    /// When it was last used as an object: the last write to any field below it.
    pub map: Option<Stamp>,
    /// What was added to it.
    pub counter: Option<Box<Counter>>,
    /// The fields below it.
    pub fields: Fields,
}

/// Fields by name.
pub type Fields = BTreeMap<String, Field>;

/// The sorts of value that writes tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Missing,
    Object,
    Number,
    /// Any other scalar, or an array.
    Other,
}

/// Why a field could not be counted up; the field stays as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IncrementRefused {
    /// It holds something that is not a number, or lies below something that is not an object.
    NotANumber,
    /// The sum of one actor's increments does not fit 64 bits.
    Overflow,
}

impl Field {
    fn floor(&self, above: Option<Stamp>) -> Option<Stamp> {
        above.max(self.register.as_ref().map(|register| register.stamp))
    }

    /// The latest write at or below this field.
    pub fn last_write(&self) -> Option<Stamp> {
        let own = [
            self.register.as_ref().map(|register| register.stamp),
            self.map,
            self.counter.as_ref().map(|counter| counter.stamp),
        ];
        own.into_iter().chain(self.fields.values().map(Field::last_write)).max().flatten()
    }

    /// Drops whatever is older than its floor.
    fn normalise(&mut self, above: Option<Stamp>) {
        if self.register.as_ref().is_some_and(|register| Some(register.stamp) < above) {
            self.register = None;
        }
        let floor = self.floor(above);
        if self.map < floor {
            self.map = None;
        }
        if self.counter.as_ref().is_some_and(|counter| counter.base < floor) {
            self.counter = None;
        }
        normalise(&mut self.fields, floor);
    }

    fn is_empty(&self) -> bool {
        self.register.is_none()
            && self.map.is_none()
            && self.counter.is_none()
            && self.fields.is_empty()
    }

    /// Takes over what `other` knows. Both were normalised; the caller normalises afterwards.
    fn merge(&mut self, other: &Field, here: Option<ActorId>) {
        if let Some(theirs) = &other.register
            && self.register.as_ref().is_none_or(|ours| ours.is_before(theirs))
        {
            self.register = Some(theirs.clone());
        }
        self.map = self.map.max(other.map);
        if let Some(theirs) = &other.counter {
            let empty = || Box::new(Counter { shares: BTreeMap::new(), ..**theirs });
            self.counter.get_or_insert_with(empty).merge(theirs, here);
        }
        merge(&mut self.fields, &other.fields, here);
    }

    /// The value a reader sees, or `None` if the field is missing. `self` is normalised.
    pub fn value(&self) -> Option<Value> {
        if self.shows_a_map() {
            return Some(value(&self.fields));
        }
        let assigned = self.assigned().cloned();
        match &self.counter {
            Some(counter) => counter.on_top_of(assigned),
            None => assigned,
        }
    }

    /// What a reader sees some steps inside it, or `None` if nothing is there. Costs less than
    /// computing all of it.
    pub fn value_within(&self, steps: &[String]) -> Option<Value> {
        match steps.split_first() {
            None => self.value(),
            Some((first, rest)) if self.shows_a_map() => self.fields.get(first)?.value_within(rest),
            Some(_) => self.value()?.get(steps).cloned(),
        }
    }

    /// Whether a reader sees a value. Costs less than computing it.
    pub fn is_present(&self) -> bool {
        self.map.is_some()
            || self.counter.is_some()
            || self.register.as_ref().is_some_and(|register| register.value.is_some())
    }

    /// What is older than `at` counts as written then. A count that was begun before becomes an
    /// assignment.
    fn renew(&mut self, at: Stamp) {
        let shows_a_map = self.shows_a_map();
        if let Some(counter) = self.counter.take_if(|counter| counter.base < Some(at)) {
            let value = counter.on_top_of(self.assigned().cloned());
            self.register = Some(Register { stamp: at, value });
            if !shows_a_map {
                // A reader saw the number.
                self.map.take_if(|map| *map < at);
                normalise(&mut self.fields, Some(at));
            }
        }
        self.register.take_if(|register| register.stamp < at && register.value.is_none());
        if let Some(register) = &mut self.register {
            register.stamp = register.stamp.max(at);
        }
        self.map = self.map.map(|map| map.max(at));
        renew(&mut self.fields, at);
    }

    /// A field that nobody wrote before, with `value` assigned: what [`Field::set`] makes of it.
    fn new(value: Value, stamp: Stamp) -> Self {
        match value {
            Value::Object(entries) => {
                Field { map: Some(stamp), fields: new(entries, stamp), ..Field::default() }
            }
            value => {
                let register = Some(Register { stamp, value: Some(value) });
                Field { register, ..Field::default() }
            }
        }
    }

    /// What sort of value a reader sees. Unlike the value it costs nothing: what is below stays
    /// where it is.
    pub(super) fn sort(&self) -> Sort {
        if self.shows_a_map() {
            return Sort::Object;
        }
        match (self.assigned(), &self.counter) {
            (None, None) => Sort::Missing,
            (None, Some(_)) | (Some(Value::Int(_) | Value::Float(_)), _) => Sort::Number,
            (Some(_), _) => Sort::Other,
        }
    }

    /// Whether a reader sees this very value, which is no object.
    pub(super) fn shows(&self, value: &Value) -> bool {
        if self.shows_a_map() {
            return false;
        }
        match (self.assigned(), &self.counter) {
            // Only of numbers, which are cheap to copy, a counter makes something else.
            (None | Some(Value::Int(_) | Value::Float(_)), Some(counter)) => {
                counter.on_top_of(self.assigned().cloned()).as_ref() == Some(value)
            }
            (assigned, _) => assigned == Some(value),
        }
    }

    fn shows_a_map(&self) -> bool {
        self.map.is_some() && self.map > self.counter.as_ref().map(|counter| counter.stamp)
    }

    fn assigned(&self) -> Option<&Value> {
        self.register.as_ref().and_then(|register| register.value.as_ref())
    }

    /// Assigns `value`; objects are merged by key. Whether anything changed: an equal value is not.
    fn set(&mut self, value: &Value, stamp: Stamp) -> bool {
        if let Value::Object(entries) = value {
            let mut changed = self.sort() != Sort::Object;
            for (name, value) in entries {
                changed |= self.fields.entry(name.clone()).or_default().set(value, stamp);
            }
            if changed {
                self.map = Some(stamp);
            }
            return changed;
        }
        if self.shows(value) {
            return false;
        }
        self.assign(Some(value.clone()), stamp);
        true
    }

    /// Removes the field. Whether it was there.
    fn unset(&mut self, stamp: Stamp) -> bool {
        let present = self.sort() != Sort::Missing;
        if present {
            self.assign(None, stamp);
        }
        present
    }

    fn assign(&mut self, value: Option<Value>, stamp: Stamp) {
        *self = Field { register: Some(Register { stamp, value }), ..Field::default() };
    }

    /// Adds `by`, for `stamp.actor`.
    fn increment(
        &mut self,
        by: i64,
        above: Option<Stamp>,
        stamp: Stamp,
    ) -> Result<bool, IncrementRefused> {
        if !matches!(self.sort(), Sort::Missing | Sort::Number) {
            return Err(IncrementRefused::NotANumber);
        }
        if by == 0 {
            return Ok(false);
        }
        let base = self.floor(above);
        let counter = self
            .counter
            .get_or_insert_with(|| Box::new(Counter { base, stamp, shares: BTreeMap::new() }));
        let share = counter.own_share(stamp);
        let part = if by > 0 { &mut share.added } else { &mut share.subtracted };
        *part = part.checked_add(by.unsigned_abs()).ok_or(IncrementRefused::Overflow)?;
        counter.stamp = stamp;
        Ok(true)
    }
}

impl Counter {
    /// The share in which the actor of `stamp` counts on.
    fn own_share(&mut self, stamp: Stamp) -> &mut Share {
        let id = |begun| ShareId { actor: stamp.actor, begun };
        let mut own = self.shares.range(id(0)..=id(u64::MAX)).rev();
        let open = own.find(|(_, share)| !share.closed).map(|(id, _)| *id);
        self.shares.entry(open.unwrap_or(id(stamp.sequence))).or_default()
    }

    /// Takes over what `theirs` knows, into a document of the actor `here` if it is anyone's.
    fn merge(&mut self, theirs: &Counter, here: Option<ActorId>) {
        if self.base > theirs.base {
            return;
        }
        if self.base < theirs.base {
            *self = Counter { shares: BTreeMap::new(), ..*theirs };
        }
        self.stamp = self.stamp.max(theirs.stamp);
        for (id, theirs) in &theirs.shares {
            let known = self.shares.get(id).copied().unwrap_or_default();
            let mut share = Share {
                closed: known.closed,
                added: known.added.max(theirs.added),
                subtracted: known.subtracted.max(theirs.subtracted),
            };
            share.closed |= share != known && here == Some(id.actor);
            self.shares.insert(*id, share);
        }
    }

    /// The sum on top of the value assigned before. What is not a number stays as it is.
    fn on_top_of(&self, assigned: Option<Value>) -> Option<Value> {
        let sum: i128 = self
            .shares
            .values()
            .map(|share| i128::from(share.added) - i128::from(share.subtracted))
            .sum();
        let whole = |sum: i128| match i64::try_from(sum) {
            Ok(sum) => Value::Int(sum),
            Err(_) => Value::Float(sum as f64),
        };
        match assigned {
            None => Some(whole(sum)),
            Some(Value::Int(start)) => Some(whole(i128::from(start) + sum)),
            Some(Value::Float(start)) => Some(Value::Float(start + sum as f64)),
            Some(other) => Some(other),
        }
    }
}

/// The fields of a document that is new.
pub(super) fn new(entries: BTreeMap<String, Value>, stamp: Stamp) -> Fields {
    entries.into_iter().map(|(name, value)| (name, Field::new(value, stamp))).collect()
}

/// One change of one field.
#[derive(Clone, Copy, Debug)]
pub(super) enum Write<'a> {
    /// Assigns a value; an object is merged by key.
    Set(&'a Value),
    /// Removes the field.
    Unset,
    /// Adds to it.
    Increment(i64),
}

/// Writes to the field at `path`, which is not empty, below the floor `above`. Whether anything
/// changed: an equal value, a removed field that was missing and a sum with 0 change nothing.
/// `stamp` is later than everything in `fields`.
pub(super) fn write(
    fields: &mut Fields,
    path: &[String],
    write: Write<'_>,
    above: Option<Stamp>,
    stamp: Stamp,
) -> Result<bool, IncrementRefused> {
    let (name, below) = path.split_first().expect("a path has at least one step");
    if matches!(write, Write::Unset) && !fields.contains_key(name) {
        return Ok(false);
    }
    let field = fields.entry(name.clone()).or_default();
    let changed = if below.is_empty() {
        match write {
            Write::Set(value) => Ok(field.set(value, stamp)),
            Write::Unset => Ok(field.unset(stamp)),
            Write::Increment(by) => field.increment(by, above, stamp),
        }
    } else if !matches!(write, Write::Set(_))
        && !matches!(field.sort(), Sort::Missing | Sort::Object)
    {
        // Only an assignment may turn a scalar into an object.
        match write {
            Write::Increment(_) => Err(IncrementRefused::NotANumber),
            _ => Ok(false),
        }
    } else {
        let floor = field.floor(above);
        let changed = self::write(&mut field.fields, below, write, floor, stamp);
        if changed == Ok(true) {
            field.map = Some(stamp);
        }
        changed
    };
    if fields[name].is_empty() {
        fields.remove(name);
    }
    changed
}

/// What is older than `at` counts as written then.
pub(super) fn renew(fields: &mut Fields, at: Stamp) {
    fields.retain(|_, field| {
        field.renew(at);
        !field.is_empty()
    });
}

/// Drops whatever is older than the floor `above`.
pub(super) fn normalise(fields: &mut Fields, above: Option<Stamp>) {
    fields.retain(|_, field| {
        field.normalise(above);
        !field.is_empty()
    });
}

/// Takes over what `theirs` knows, into a document of the actor `here` if it is anyone's; the
/// caller normalises afterwards.
pub(super) fn merge(ours: &mut Fields, theirs: &Fields, here: Option<ActorId>) {
    for (name, field) in theirs {
        ours.entry(name.clone()).or_default().merge(field, here);
    }
}

/// The object a reader sees.
pub(super) fn value(fields: &Fields) -> Value {
    fields
        .iter()
        .filter_map(|(name, field)| field.value().map(|value| (name.clone(), value)))
        .collect()
}
