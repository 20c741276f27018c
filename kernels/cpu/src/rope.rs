//! Rotary position embeddings.

#![allow(unsafe_code, reason = "threads write disjoint rows of one arena")]

use crate::{
    Isa, Span, Team,
    cache::RowWalk,
    isa::Kernel,
    lanes::{LANES, Lanes},
    rows::View,
};

/// Cosines and sines of every position's angles. Pairs are halves: element `i` of a head turns
/// with element `i + rotated/2`; or, [interleaved](RopeTable::interleaved), element `2·i` with
/// element `2·i + 1`. Elements from `rotated` on are left as they are.
///
/// A table may have [other angles](RopeTable::with_long) for requests that grow long: such a
/// request turns by them from its first position on.
#[derive(Clone, Debug)]
pub struct RopeTable {
    pub(crate) cos: Vec<f32>,
    pub(crate) sin: Vec<f32>,
    head_width: usize,
    pub(crate) half: usize,
    interleaved: bool,
    long: Option<Long>,
}

/// Which requests take the second half of a table's rows.
#[derive(Clone, Copy, Debug)]
struct Long {
    /// Those whose reach is more.
    context: usize,
    /// Where that half begins.
    first_row: usize,
}

impl RopeTable {
    /// A table from `[positions, rotated/2]` cosines and sines.
    ///
    /// # Panics
    /// If `rotated` is odd, zero or wider than a head, or the lengths disagree.
    pub fn new(head_width: usize, rotated: usize, cos: Vec<f32>, sin: Vec<f32>) -> RopeTable {
        assert!(
            rotated > 0 && rotated.is_multiple_of(2) && rotated <= head_width,
            "{rotated} of {head_width} elements turn"
        );
        let half = rotated / 2;
        assert!(
            cos.len() == sin.len() && cos.len().is_multiple_of(half),
            "{} cosines and {} sines",
            cos.len(),
            sin.len()
        );
        RopeTable { cos, sin, head_width, half, interleaved: false, long: None }
    }

    /// Another table's angles for spans whose [reach](Span::reach) is more than `context`.
    ///
    /// # Panics
    /// If the tables differ in shape, or either has a second already.
    #[must_use]
    pub fn with_long(mut self, context: usize, long: RopeTable) -> RopeTable {
        let shape = |table: &RopeTable| (table.head_width, table.half, table.cos.len());
        assert!(shape(&self) == shape(&long), "tables of two shapes");
        assert!(self.long.is_none() && long.long.is_none(), "a table of three");
        self.long = Some(Long { context, first_row: self.positions() });
        self.cos.extend(long.cos);
        self.sin.extend(long.sin);
        self
    }

    /// The same angles for pairs of neighbours.
    #[must_use]
    pub fn interleaved(self) -> RopeTable {
        RopeTable { interleaved: true, ..self }
    }

    /// Positions it reaches.
    pub fn positions(&self) -> usize {
        self.long.map_or(self.cos.len() / self.half, |long| long.first_row)
    }

    /// The row of a position in a request of this reach.
    #[inline(always)]
    pub(crate) fn row(&self, reach: usize, position: usize) -> usize {
        match self.long {
            Some(long) if reach > long.context => long.first_row + position,
            _ => position,
        }
    }

    /// Elements of a head.
    pub fn head_width(&self) -> usize {
        self.head_width
    }

    /// Turns one head into `output`, which may be the input.
    ///
    /// # Safety
    /// `input` and `output` have `head_width` elements; the [row](RopeTable::row) is that of a
    /// position in the table; `L` may be used here.
    #[inline(always)]
    pub(crate) unsafe fn turn<L: Lanes>(&self, row: usize, input: *const f32, output: *mut f32) {
        let half = self.half;
        let from = row * half;
        // SAFETY: `rotated <= head_width`, and `new` counted the cosines.
        unsafe {
            let (cos, sin) = (self.cos.as_ptr().add(from), self.sin.as_ptr().add(from));
            let mut i = 0;
            while self.interleaved && i < half {
                let (c, s) = (*cos.add(i), *sin.add(i));
                let (even, odd) = (*input.add(2 * i), *input.add(2 * i + 1));
                *output.add(2 * i) = even * c - odd * s;
                *output.add(2 * i + 1) = odd * c + even * s;
                i += 1;
            }
            while i < half {
                let n = (half - i).min(LANES);
                let (c, s) = (L::load_part(cos.add(i), n), L::load_part(sin.add(i), n));
                let low = L::load_part(input.add(i), n);
                let high = L::load_part(input.add(half + i), n);
                let turned_low = low.mul(c).sub(high.mul(s));
                let turned_high = high.mul(c).add(low.mul(s));
                turned_low.store_part(output.add(i), n);
                turned_high.store_part(output.add(half + i), n);
                i += LANES;
            }
            if !std::ptr::eq(input, output) {
                let rest = 2 * half;
                std::ptr::copy(input.add(rest), output.add(rest), self.head_width - rest);
            }
        }
    }
}

/// Turns all heads of all rows; threads share the rows.
///
/// # Safety
/// Rows and positions as checked; `output` is `input` or apart from it.
pub(crate) unsafe fn rotate(
    isa: Isa,
    input: View,
    table: &RopeTable,
    spans: &[Span<'_>],
    output: View,
    team: &Team<'_>,
) {
    // SAFETY: as promised by the caller.
    unsafe { isa.run(Rotate { input, table, spans, output, team }) }
}

struct Rotate<'a> {
    input: View,
    table: &'a RopeTable,
    spans: &'a [Span<'a>],
    output: View,
    team: &'a Team<'a>,
}

impl Kernel for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let width = self.table.head_width;
        let mut rows = RowWalk::new(self.spans, self.team);
        while let Some((span, row, position)) = rows.next() {
            let angles = self.table.row(span.reach, position);
            for head in 0..self.input.width / width {
                // SAFETY: heads fill the rows, and the position is in the table, as checked.
                unsafe {
                    let input = self.input.row(row).add(head * width);
                    let output = self.output.row(row).add(head * width);
                    self.table.turn::<L>(angles, input, output);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{bits, noise, run};
    use crate::{Rows, Step};

    /// Checks a table's turns against exact ones; `pairs` says which elements turn together.
    fn heads_turn(interleaved: bool, pairs: impl Fn(usize) -> [usize; 2]) {
        let (head_width, rotated, rows) = (44, 34, 7);
        let half = rotated / 2;
        let angles: Vec<f64> = (0..100 * half).map(|i| i as f64 * 0.37).collect();
        let table = RopeTable::new(
            head_width,
            rotated,
            angles.iter().map(|a| a.cos() as f32).collect(),
            angles.iter().map(|a| a.sin() as f32).collect(),
        );
        let table = if interleaved { table.interleaved() } else { table };
        assert_eq!(table.positions(), 100);
        let width = 2 * head_width;
        let mut arena = noise(rows * width, 6);
        arena.resize(2 * rows * width, 0.0);
        let spans = [(0, 2, 98), (2, 1, 0), (3, 4, 50)].map(|(first_row, rows, position)| Span {
            first_row,
            rows,
            position,
            ..Span::default()
        });
        let positions = [98, 99, 0, 50, 51, 52, 53];
        let input = Rows::dense(0, rows, width);
        let output = Rows::dense(rows * width, rows, width);
        let step = Step::Rotate { input, table: &table, spans: &spans, output };
        let plain = run(Isa::Plain, 1, &arena, &mut [], &[step]);
        for (row, position) in positions.into_iter().enumerate() {
            for head in 0..2 {
                let from = row * width + head * head_width;
                let (before, after) = (&arena[from..], &plain[rows * width + from..]);
                for i in 0..half {
                    let (sin, cos) = angles[position * half + i].sin_cos();
                    let [first, second] = pairs(i);
                    let (low, high) = (f64::from(before[first]), f64::from(before[second]));
                    let error = |value: f32, exact: f64| (f64::from(value) - exact).abs();
                    assert!(error(after[first], low * cos - high * sin) < 2e-7);
                    assert!(error(after[second], high * cos + low * sin) < 2e-7);
                }
                assert_eq!(after[rotated..head_width], before[rotated..head_width]);
            }
        }
        for isa in Isa::available() {
            for threads in [1, 2, 5] {
                assert_eq!(bits(&run(isa, threads, &arena, &mut [], &[step])), bits(&plain));
            }
            let in_place = Step::Rotate { input, table: &table, spans: &spans, output: input };
            let turned = run(isa, 2, &arena, &mut [], &[in_place]);
            assert_eq!(bits(&turned[..rows * width]), bits(&plain[rows * width..]));
        }
    }

    #[test]
    fn heads_turn_by_their_positions_and_the_rest_stays() {
        heads_turn(false, |i| [i, 17 + i]);
    }

    #[test]
    fn neighbours_turn_together_where_pairs_are_interleaved() {
        heads_turn(true, |i| [2 * i, 2 * i + 1]);
    }

    #[test]
    fn requests_that_grow_long_turn_by_other_angles_from_their_first_position_on() {
        let (head_width, rotated, rows) = (12, 8, 3);
        let table = |step: f64| {
            let angle = |i: usize| (i as f64 * step).sin_cos();
            let (sin, cos) =
                (0..5 * rotated / 2).map(angle).map(|(s, c)| (s as f32, c as f32)).unzip();
            RopeTable::new(head_width, rotated, cos, sin)
        };
        let (short, long) = (table(0.37), table(0.11));
        let both = short.clone().with_long(20, long.clone());
        assert_eq!(both.positions(), 5);
        let mut arena = noise(rows * head_width, 6);
        arena.resize(2 * rows * head_width, 0.0);
        let turned = |isa, table: &RopeTable, reach| {
            let spans = [Span { rows, position: 2, reach, ..Span::default() }];
            let input = Rows::dense(0, rows, head_width);
            let output = Rows::dense(rows * head_width, rows, head_width);
            let step = Step::Rotate { input, table, spans: &spans, output };
            bits(&run(isa, 2, &arena, &mut [], &[step]))
        };
        for isa in Isa::available() {
            assert_eq!(turned(isa, &both, 20), turned(isa, &short, 0));
            assert_eq!(turned(isa, &both, 21), turned(isa, &long, 0));
            assert_ne!(turned(isa, &both, 20), turned(isa, &both, 21));
        }
    }
}
