//! Matrices as places in the arena.

#![allow(unsafe_code, reason = "views point into the arena")]

/// A matrix of floats in an arena: `rows` rows of `width` elements, row `r` beginning at
/// `start + r · stride`. Parts side by side are views into the same rows, so a split costs
/// nothing ([`Rows::columns`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Index of the first element.
    pub start: usize,
    /// How many rows.
    pub rows: usize,
    /// Elements of a row.
    pub width: usize,
    /// Elements from one row's beginning to the next's; at least `width`.
    pub stride: usize,
}

impl Rows {
    /// Rows that follow each other without gaps.
    pub fn dense(start: usize, rows: usize, width: usize) -> Rows {
        Rows { start, rows, width, stride: width }
    }

    /// `width` columns beginning with column `first`.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn columns(self, first: usize, width: usize) -> Rows {
        assert!(
            first.checked_add(width).is_some_and(|end| end <= self.width),
            "columns {first}..+{width} of a matrix {} wide",
            self.width
        );
        Rows { start: self.start + first, width, ..self }
    }

    /// The index behind the last element, if it can be counted.
    pub fn end(self) -> Option<usize> {
        if self.rows == 0 || self.width == 0 {
            return Some(self.start);
        }
        (self.rows - 1).checked_mul(self.stride)?.checked_add(self.width)?.checked_add(self.start)
    }

    /// Whether no element belongs to both. Knows parts of the same rows; of other overlapping
    /// shapes it says no.
    pub fn apart(self, other: Rows) -> bool {
        let (Some(a), Some(b)) = (self.end(), other.end()) else { return false };
        if a <= other.start || b <= self.start || a == self.start || b == other.start {
            return true;
        }
        if self.stride != other.stride {
            return false;
        }
        let (low, high) = if self.start <= other.start { (self, other) } else { (other, self) };
        let ahead = (high.start - low.start) % low.stride;
        ahead >= low.width && ahead + high.width <= low.stride
    }
}

/// The arena as all threads see it while a program runs.
#[derive(Clone, Copy)]
pub(crate) struct View {
    pub(crate) data: *mut f32,
    pub(crate) rows: usize,
    pub(crate) width: usize,
    pub(crate) stride: usize,
}

impl View {
    /// The first element of a row.
    ///
    /// # Safety
    /// There is such a row.
    #[inline(always)]
    pub(crate) unsafe fn row(&self, row: usize) -> *mut f32 {
        debug_assert!(row < self.rows);
        // SAFETY: as promised by the caller; the rows lie in the arena.
        unsafe { self.data.add(row * self.stride) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_the_same_rows_are_apart_and_overlaps_are_not() {
        let all = Rows::dense(32, 5, 48);
        let (q, k) = (all.columns(0, 32), all.columns(32, 16));
        assert!(q.apart(k) && k.apart(q));
        assert!(!all.apart(q) && !all.columns(16, 32).apart(k));
        assert!(all.apart(Rows::dense(32 + 240, 1, 1)) && all.apart(Rows::dense(0, 2, 16)));
        assert!(!all.apart(Rows::dense(0, 2, 17)));
        assert!(!q.apart(Rows { start: 33, rows: 5, width: 4, stride: 47 }));
        // A view that begins rows later wraps around into the same columns.
        assert!(!q.apart(Rows { start: 32 + 3 * 48 + 31, rows: 2, width: 2, stride: 48 }));
        assert!(!k.apart(Rows { start: 32 + 3 * 48 + 40, rows: 2, width: 16, stride: 48 }));
        assert!(all.apart(Rows::dense(40, 0, 48)));
    }

    #[test]
    fn the_end_of_absurd_rows_is_not_counted() {
        assert_eq!(Rows { start: 1, rows: usize::MAX, width: 2, stride: 9 }.end(), None);
        assert_eq!(Rows::dense(3, 0, 8).end(), Some(3));
        assert_eq!(Rows { start: 3, rows: 2, width: 4, stride: 10 }.end(), Some(17));
    }
}
