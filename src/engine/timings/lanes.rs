//! Who stands above whom on the page: a lane per stage, and within it as many rows as run at once.
//!
//! In: bars with their times, and which lane they are of. Out: a row for each, so that no two in a row overlap and those
//! that begin first stand above. Deliberately absent: what a bar is.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Gives each of these times (beginning, end) a row; returns how many rows that takes. Where `times` is sorted by
/// beginning, a bar takes the uppermost row that is free then.
pub fn rows(times: &[(u64, u64)]) -> (Vec<usize>, usize) {
    // Rows that are taken, by when they will be free; and those that are.
    let (mut taken, mut free) = (BinaryHeap::<Reverse<(u64, usize)>>::new(), BinaryHeap::<Reverse<usize>>::new());
    let (mut rows, mut count) = (Vec::with_capacity(times.len()), 0);
    for (began, ended) in times {
        while let Some(Reverse((until, row))) = taken.peek().copied().filter(|Reverse((until, _))| until <= began) {
            debug_assert!(until <= *began);
            taken.pop();
            free.push(Reverse(row));
        }
        let row = free.pop().map_or(count, |Reverse(row)| row);
        count = count.max(row + 1);
        taken.push(Reverse((*ended, row)));
        rows.push(row);
    }
    (rows, count)
}

#[cfg(test)]
mod tests {
    use super::rows;

    #[test]
    fn what_overlaps_stands_in_rows_of_its_own() {
        let check = |times: &[(u64, u64)], expected: &[usize], count: usize| {
            assert_eq!(rows(times), (expected.to_vec(), count), "{times:?}");
        };
        check(&[], &[], 0);
        check(&[(0, 5), (5, 9), (9, 12)], &[0, 0, 0], 1);
        check(&[(0, 5), (1, 9), (2, 3), (4, 6), (5, 7)], &[0, 1, 2, 2, 0], 3);
        check(&[(0, 9), (0, 9), (9, 10), (9, 10), (9, 10)], &[0, 1, 0, 1, 2], 3);
    }
}
