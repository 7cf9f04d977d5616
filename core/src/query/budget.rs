//! What evaluating may cost for one document: how much it makes, and how much it looks through.
//!
//! A [`Predicate`](super::Predicate), a row, a sort key or a group has one budget for a document,
//! whatever it is made of. Rules and conditions are decided by every replica for itself, so what is
//! counted follows from the expression and the document alone, never from the clock or the machine:
//! all of them come to the end of it at the same step, and decide the same.

use std::borrow::Cow;
use std::cell::Cell;
use std::cmp::Ordering;

use memchr::memmem::Finder;

use super::order::{is_comparable, total_cmp_while};
use crate::Value;

/// How many bytes of strings, arrays and objects may be made for one row, as JSON, what is made on
/// the way included; what would be more is NULL. A short statement could else make gigabytes of a
/// document.
const MAX_MADE_BYTES: usize = 16 * 1024 * 1024;
/// How many steps the work for one document may take; after them everything that is computed is
/// NULL. A step is about one naive comparison of a character or a number, and takes a nanosecond or
/// a few: all of them take well under half a second, or some seconds if the text is made against
/// the search, and yet they are a GiB of plain search. Without a bound a statement of thousands of
/// patterns could keep every replica at one document for minutes.
const MAX_WORK: usize = 1 << 26;
/// How many bytes of a text are searched, compared or copied in a step: that is done with many at
/// once.
pub(super) const BYTES_PER_STEP: usize = 16;
/// How many steps a value takes that is made: its memory is asked for and given back.
const STEPS_PER_MADE: usize = 8;

/// What may still be made and done for a document.
pub(super) struct Budget {
    bytes: Cell<usize>,
    work: Cell<usize>,
}

/// How many steps evaluating took for several documents, and how many it may take: about a nanosecond
/// or a few each.
#[derive(Debug)]
pub struct Meter {
    taken: Cell<usize>,
    most: usize,
}

impl Default for Meter {
    fn default() -> Self {
        Meter::new()
    }
}

impl Meter {
    /// One that only counts.
    pub fn new() -> Self {
        Meter::of(usize::MAX)
    }

    /// One that is over after so many steps: what is evaluated with it then means nothing.
    pub fn of(most: usize) -> Self {
        Meter { taken: Cell::new(0), most }
    }

    /// How many steps were taken.
    pub fn taken(&self) -> usize {
        self.taken.get()
    }

    /// Whether there are no more.
    pub fn is_over(&self) -> bool {
        self.taken() >= self.most
    }

    /// What is evaluated for one document, or one group.
    pub(super) fn measure<T>(&self, evaluate: impl FnOnce(&Budget) -> T) -> T {
        let most = MAX_WORK.min(self.most.saturating_sub(self.taken()));
        let budget = Budget { work: Cell::new(most), ..Budget::new() };
        let evaluated = evaluate(&budget);
        self.taken.set(self.taken() + most - budget.work.get());
        evaluated
    }
}

impl Budget {
    pub(super) fn new() -> Self {
        Budget { bytes: Cell::new(MAX_MADE_BYTES), work: Cell::new(MAX_WORK) }
    }

    /// Whether the work is used up: then nothing that is computed has a value any more.
    pub(super) fn is_used_up(&self) -> bool {
        self.work.get() == 0
    }

    /// Whether the work is used up, or nothing more may be made.
    pub(super) fn is_spent(&self) -> bool {
        self.is_used_up() || self.bytes.get() == 0
    }

    /// What is computed, unless the work is used up before or by then: what was found with a part
    /// of it left out could be wrong.
    pub(super) fn within<T>(&self, compute: impl FnOnce() -> T) -> Option<T> {
        if self.is_used_up() {
            return None;
        }
        let computed = compute();
        (!self.is_used_up()).then_some(computed)
    }

    /// Takes so many steps. False if the work is used up: whoever works stops then.
    pub(super) fn work(&self, steps: usize) -> bool {
        self.work.set(self.work.get().saturating_sub(steps));
        !self.is_used_up()
    }

    /// Takes the steps for so many bytes of a text.
    pub(super) fn scan(&self, bytes: usize) -> bool {
        self.work(bytes / BYTES_PER_STEP + 1)
    }

    /// Takes the steps for all that is in a value: so many for each value, and one for so many
    /// bytes of text.
    pub(super) fn walk(&self, value: &Value, steps: usize, bytes_per_step: usize) -> bool {
        match value {
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) => self.work(steps),
            Value::String(text) => self.work(steps + text.len() / bytes_per_step),
            Value::Array(items) => {
                self.work(steps) && items.iter().all(|item| self.walk(item, steps, bytes_per_step))
            }
            Value::Object(fields) => {
                let walk = |(name, field): (&String, &Value)| {
                    self.work(name.len() / bytes_per_step)
                        && self.walk(field, steps, bytes_per_step)
                };
                self.work(steps) && fields.iter().all(walk)
            }
        }
    }

    /// Where the first place is, no further than the steps that are left lead.
    pub(super) fn find(&self, finder: &Finder<'_>, text: &[u8]) -> Option<usize> {
        let reach = text.len().min(self.work.get().saturating_mul(BYTES_PER_STEP));
        let found = finder.find(&text[..reach]);
        let is_paid = self.scan(found.map_or(reach, |place| place + finder.needle().len()));
        found.filter(|_| is_paid)
    }

    /// The order of two values, any if the work is used up.
    pub(super) fn total_cmp(&self, left: &Value, right: &Value) -> Ordering {
        total_cmp_while(left, right, &mut |bytes| self.scan(bytes))
    }

    /// The order of two values of one type; `None`, that is unknown, across types and with null.
    pub(super) fn compare(&self, left: &Value, right: &Value) -> Option<Ordering> {
        is_comparable(left, right).then(|| self.total_cmp(left, right))
    }

    /// The value, or NULL if it is too much.
    pub(super) fn keep(&self, made: Value) -> Value {
        let fits = self.walk(&made, STEPS_PER_MADE, BYTES_PER_STEP) && self.take(&made);
        if fits { made } else { Value::Null }
    }

    /// Two texts as one, or NULL if that is too much.
    pub(super) fn join(&self, left: &str, right: &str) -> Value {
        // It is no shorter as JSON.
        if left.len() + right.len() > self.bytes.get() {
            self.bytes.set(0);
            return Value::Null;
        }
        self.keep(Value::String([left, right].concat()))
    }

    /// A value of which a copy may be kept; `None` if that would be too much. What was made counts
    /// already.
    pub(super) fn admit<'a>(&self, value: Cow<'a, Value>) -> Option<Cow<'a, Value>> {
        let fits = match &value {
            Cow::Owned(_) => true,
            Cow::Borrowed(value) => self.take(value),
        };
        fits.then_some(value)
    }

    /// A value of one's own; `None` if that would be too much.
    pub(super) fn own(&self, value: Cow<'_, Value>) -> Option<Value> {
        self.admit(value).map(Cow::into_owned)
    }

    /// Takes the bytes of a value, if they are left. Once they are not, no more are counted: that
    /// would be work, too.
    fn take(&self, value: &Value) -> bool {
        let left = self.bytes.get();
        let rest = match value {
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) => return true,
            _ if left == 0 => None,
            // It is no shorter as JSON.
            Value::String(text) if text.len() > left => None,
            _ => left.checked_sub(value.json_len()),
        };
        self.bytes.set(rest.unwrap_or(0));
        rest.is_some()
    }
}

#[cfg(test)]
impl Budget {
    /// One with so many steps.
    pub(super) fn of_work(steps: usize) -> Self {
        Budget { work: Cell::new(steps), ..Budget::new() }
    }

    /// How many steps were taken of a new one.
    pub(super) fn worked(&self) -> usize {
        MAX_WORK - self.work.get()
    }
}
