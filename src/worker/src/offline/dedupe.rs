//! Rows of equal keys and event time, found as neighbours in rows sorted by time and keys.

use crate::offline::ordered::rises;
use deltalake::arrow::array::{ArrayRef, AsArray, BooleanArray, DynComparator, RecordBatch, make_comparator};
use deltalake::arrow::compute::{SortOptions, filter_record_batch};
use deltalake::arrow::datatypes::TimestampMicrosecondType;
use deltalake::arrow::util::display::{ArrayFormatter, FormatOptions};
use std::cmp::Ordering;

/// What was found so far.
#[derive(Clone, Debug, Default)]
pub struct Duplicates {
    /// Rows that were dropped: equal to the kept one in every value, or older by the ordering column.
    pub dropped: u64,
    /// Rows that differ from the kept one and cannot be ordered.
    pub ambiguous: u64,
    /// The keys and time of the first of these.
    pub example: Option<String>,
}

/// Drops duplicates from a stream of batches sorted by time, keys and, if there is one, the ordering column descending.
#[derive(Debug)]
pub struct Dedupe {
    keys: usize,
    ordered: bool,
    kept: Option<RecordBatch>,
    /// What was found so far.
    pub found: Duplicates,
}

impl Dedupe {
    /// For rows whose first `keys` columns are the keys and whose next one is the event time. With `ordered` the last column
    /// orders duplicates.
    pub fn new(keys: usize, ordered: bool) -> Self {
        Self { keys, ordered, kept: None, found: Duplicates::default() }
    }

    /// The batch without its duplicates.
    pub fn rows(&mut self, batch: RecordBatch) -> RecordBatch {
        if batch.num_rows() == 0 {
            return batch;
        }
        // Times that only rise leave nothing to compare.
        if rises(&batch, self.keys) && self.kept.as_ref().is_none_or(|kept| before(kept, &batch, self.keys)) {
            self.kept = Some(batch.slice(batch.num_rows() - 1, 1));
            return batch;
        }
        let within = Comparators::new(&batch, &batch, self.keys, self.ordered);
        let across = self.kept.as_ref().map(|kept| Comparators::new(kept, &batch, self.keys, self.ordered));
        // The row that the next ones are compared with: the last kept one, in this batch or the one before.
        let mut kept: Option<usize> = None;
        let mut mask: Option<Vec<bool>> = None;
        for row in 0..batch.num_rows() {
            let (comparators, left) = match (kept, &across) {
                (Some(kept), _) => (&within, kept),
                (None, Some(across)) => (across, 0),
                (None, None) => {
                    kept = Some(row);
                    continue;
                }
            };
            if !comparators.same_key(left, row) {
                kept = Some(row);
                continue;
            }
            if comparators.decided(left, row) {
                self.found.dropped += 1;
            } else {
                self.found.ambiguous += 1;
                self.found.example.get_or_insert_with(|| describe(&batch, row, self.keys));
            }
            mask.get_or_insert_with(|| vec![true; batch.num_rows()])[row] = false;
        }
        if let Some(kept) = kept {
            self.kept = Some(batch.slice(kept, 1));
        }
        match mask {
            None => batch,
            Some(mask) => filter_record_batch(&batch, &BooleanArray::from(mask)).expect("the mask is of the batch's length"),
        }
    }
}

/// Whether a row is older than the first one of a batch.
fn before(row: &RecordBatch, batch: &RecordBatch, keys: usize) -> bool {
    let time = |rows: &RecordBatch| rows.column(keys).as_primitive_opt::<TimestampMicrosecondType>().map(|times| times.value(0));
    time(row) < time(batch)
}

struct Comparators {
    time: DynComparator,
    keys: Vec<DynComparator>,
    rest: Vec<DynComparator>,
    order: Option<DynComparator>,
}

impl Comparators {
    fn new(left: &RecordBatch, right: &RecordBatch, keys: usize, ordered: bool) -> Self {
        let compare = |index: usize| -> DynComparator {
            let column = |batch: &RecordBatch| -> ArrayRef { batch.column(index).clone() };
            make_comparator(&column(left), &column(right), SortOptions::default()).expect("all types of features can be ordered")
        };
        let width = left.num_columns() - usize::from(ordered);
        Self {
            time: compare(keys),
            keys: (0..keys).map(compare).collect(),
            rest: (keys + 1..width).map(compare).collect(),
            order: ordered.then(|| compare(width)),
        }
    }

    fn same_key(&self, left: usize, right: usize) -> bool {
        (self.time)(left, right) == Ordering::Equal && self.keys.iter().all(|compare| compare(left, right) == Ordering::Equal)
    }

    /// Whether the left row is kept without doubt: the ordering column says so, or the rows are equal in every value.
    fn decided(&self, left: usize, right: usize) -> bool {
        self.order.as_ref().is_some_and(|compare| compare(left, right) != Ordering::Equal)
            || self.rest.iter().all(|compare| compare(left, right) == Ordering::Equal)
    }
}

fn describe(batch: &RecordBatch, row: usize, keys: usize) -> String {
    let schema = batch.schema();
    let value = |index: usize| {
        let options = FormatOptions::default();
        let text = ArrayFormatter::try_new(batch.column(index), &options).map(|format| format.value(row).to_string());
        format!("{} {}", schema.field(index).name(), text.unwrap_or_else(|_| "?".to_owned()))
    };
    (0..=keys).map(value).collect::<Vec<_>>().join(", ")
}
