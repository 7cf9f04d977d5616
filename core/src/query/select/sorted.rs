//! Rows in an order of their own.

use std::collections::BinaryHeap;

/// Where a row stands among others, as bytes: by what it is sorted by, then by its document's id. Keys
/// are never the beginning of others.
pub fn place(key: &[u8], id: &str) -> Vec<u8> {
    [key, id.as_bytes()].concat()
}

/// A row and what decides where it stands among others.
#[derive(Clone, Debug)]
pub struct SortedRow<R, I> {
    /// What it is sorted by.
    pub key: Vec<u8>,
    /// What decides between rows that are sorted by the same.
    pub id: I,
    /// The row.
    pub row: R,
}

/// The first rows of all that were added, as many as are needed.
#[derive(Debug)]
pub struct SortedRows<R, I> {
    /// The last of them on top.
    rows: BinaryHeap<SortedRow<R, I>>,
    needed: usize,
}

impl<R, I: Ord> SortedRows<R, I> {
    /// None yet, of which so many are needed, or all.
    pub fn new(needed: Option<u64>) -> Self {
        let needed = needed.and_then(|needed| usize::try_from(needed).ok()).unwrap_or(usize::MAX);
        SortedRows { rows: BinaryHeap::new(), needed }
    }

    /// Whether a row with this key and id would be kept.
    pub fn needs(&self, key: &[u8], id: &I) -> bool {
        if self.rows.len() < self.needed {
            return true;
        }
        self.rows.peek().is_some_and(|last| (key, id) < (&last.key, &last.id))
    }

    /// Adds a row, if it is one of the first. The row that is not one any more.
    pub fn add(&mut self, row: SortedRow<R, I>) -> Option<SortedRow<R, I>> {
        if !self.needs(&row.key, &row.id) {
            return Some(row);
        }
        self.rows.push(row);
        if self.rows.len() > self.needed { self.rows.pop() } else { None }
    }

    /// The rows, in order.
    pub fn into_sorted(self) -> impl Iterator<Item = SortedRow<R, I>> {
        self.rows.into_sorted_vec().into_iter()
    }
}

impl<R, I: Ord> PartialEq for SortedRow<R, I> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<R, I: Ord> Eq for SortedRow<R, I> {}

impl<R, I: Ord> PartialOrd for SortedRow<R, I> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<R, I: Ord> Ord for SortedRow<R, I> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (&self.key, &self.id).cmp(&(&other.key, &other.id))
    }
}
