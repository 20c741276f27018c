//! Tensors seen in another order without moving them: shape, strides and an offset.
//!
//! Permutations and slices only change a [`View`]; elements move once, when the view is copied
//! out piece by piece. So a tensor that is turned is held once, not twice.

use rayon::prelude::*;
use std::ops::Range;

/// A way to look at a row-major tensor in memory, of which there is at least one element.
/// Numbers count elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct View {
    shape: Vec<u64>,
    strides: Vec<u64>,
    offset: u64,
}

/// How many elements a task of the thread pool copies.
const TASK: usize = 1 << 16;

impl View {
    /// The tensor as it lies.
    pub(crate) fn contiguous(shape: &[u64]) -> View {
        View { strides: row_major(shape), shape: shape.to_vec(), offset: 0 }
    }

    pub(crate) fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Axis `i` of the result is axis `order[i]` of this one; `order` is a permutation.
    pub(crate) fn permute(&mut self, order: &[u32]) {
        let pick = |from: &[u64]| order.iter().map(|&i| from[i as usize]).collect();
        (self.shape, self.strides) = (pick(&self.shape), pick(&self.strides));
    }

    /// Keeps `start..end` of an axis; the range lies within it.
    pub(crate) fn slice(&mut self, axis: usize, start: u64, end: u64) {
        self.offset += start * self.strides[axis];
        self.shape[axis] = end - start;
    }

    /// The same elements in the same order under another shape of as many elements; none where
    /// strides cannot say that.
    pub(crate) fn reshape(&self, shape: &[u64]) -> Option<View> {
        let mut strides = vec![0; shape.len()];
        let mut new = shape.len();
        // From the innermost axis outwards, each run of old axes takes the new axes it is made of.
        for (size, stride) in self.merged().into_iter().rev() {
            let mut taken = 1;
            while taken < size {
                new = new.checked_sub(1)?;
                strides[new] = stride * taken;
                taken *= shape[new];
            }
            if taken != size {
                return None;
            }
        }
        Some(View { shape: shape.to_vec(), strides, offset: self.offset })
    }

    /// Its axes (size, stride), without those of size one, and as one where two lie seamlessly.
    fn merged(&self) -> Vec<(u64, u64)> {
        let mut axes: Vec<(u64, u64)> = Vec::new();
        for (&size, &stride) in self.shape.iter().zip(&self.strides).filter(|(s, _)| **s != 1) {
            match axes.last_mut() {
                Some(last) if last.1 == stride * size => *last = (last.0 * size, stride),
                _ => axes.push((size, stride)),
            }
        }
        axes
    }

    /// Appends the elements `range`, counted in this view's row-major order, of a tensor in
    /// `memory` whose elements have `width` bytes.
    pub(crate) fn copy(&self, memory: &[u8], width: usize, range: Range<u64>, out: &mut Vec<u8>) {
        let axes = self.merged();
        let at = out.len();
        out.resize(at + (range.end - range.start) as usize * width, 0);
        out[at..].par_chunks_mut(TASK * width).enumerate().for_each(|(i, chunk)| {
            let start = range.start + (i * TASK) as u64;
            copy_run(memory, width, &axes, self.offset, start, chunk);
        });
    }
}

/// Strides of a tensor that lies row by row.
fn row_major(shape: &[u64]) -> Vec<u64> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i];
    }
    strides
}

/// Fills `out` with the elements from number `start` on.
fn copy_run(
    memory: &[u8],
    width: usize,
    axes: &[(u64, u64)],
    offset: u64,
    start: u64,
    out: &mut [u8],
) {
    let Some((&(inner, inner_stride), outer)) = axes.split_last() else {
        // One element in all.
        out.copy_from_slice(&memory[offset as usize * width..][..out.len()]);
        return;
    };
    let (mut row, mut column) = (start / inner, start % inner);
    let mut rest = out;
    while !rest.is_empty() {
        let run = ((inner - column) as usize).min(rest.len() / width);
        let mut from = offset + column * inner_stride;
        let mut left = row;
        for &(size, stride) in outer.iter().rev() {
            from += left % size * stride;
            left /= size;
        }
        let (now, later) = rest.split_at_mut(run * width);
        let from = from as usize * width;
        if inner_stride == 1 {
            now.copy_from_slice(&memory[from..from + run * width]);
        } else {
            gather(memory, width, from, inner_stride as usize * width, now);
        }
        rest = later;
        (row, column) = (row + 1, 0);
    }
}

/// Elements of `width` bytes that lie `step` bytes apart.
fn gather(memory: &[u8], width: usize, from: usize, step: usize, out: &mut [u8]) {
    for (i, element) in out.chunks_exact_mut(width).enumerate() {
        let at = from + i * step;
        element.copy_from_slice(&memory[at..at + width]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(view: &View, memory: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        view.copy(memory, 1, 0..view.elements(), &mut out);
        out
    }

    #[test]
    fn a_turned_and_cut_view_copies_what_indices_say() {
        let (a, b, c) = (4, 3, 5);
        let memory: Vec<u8> = (0..a * b * c).collect();
        let mut view = View::contiguous(&[u64::from(a), u64::from(b), u64::from(c)]);
        view.permute(&[2, 0, 1]);
        view.slice(0, 1, 4);
        view.slice(1, 2, 4);
        let mut expected = Vec::new();
        for k in 1..4 {
            for i in 2..4 {
                for j in 0..b {
                    expected.push((i * b + j) * c + k);
                }
            }
        }
        assert_eq!(all(&view, &memory), expected);
        // In pieces, from the middle, as well.
        for split in 0..=expected.len() as u64 {
            let mut out = Vec::new();
            view.copy(&memory, 1, 0..split, &mut out);
            view.copy(&memory, 1, split..expected.len() as u64, &mut out);
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn elements_of_every_width_move_whole() {
        for width in [1, 2, 4, 8] {
            let memory: Vec<u8> = (0..6 * width as u8).collect();
            let mut view = View::contiguous(&[2, 3]);
            view.permute(&[1, 0]);
            let mut out = Vec::new();
            view.copy(&memory, width, 0..6, &mut out);
            let expected: Vec<u8> = [0, 3, 1, 4, 2, 5]
                .iter()
                .flat_map(|&i| memory[i * width..(i + 1) * width].to_vec())
                .collect();
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn a_reshape_keeps_the_order_or_says_that_strides_cannot() {
        let memory: Vec<u8> = (0..24).collect();
        let mut view = View::contiguous(&[4, 6]).reshape(&[2, 2, 1, 6]).unwrap();
        view.permute(&[1, 0, 2, 3]);
        let order = all(&view, &memory);
        for shape in [vec![2, 2, 2, 3], vec![1, 2, 2, 6], vec![2, 2, 1, 6, 1]] {
            assert_eq!(all(&view.reshape(&shape).unwrap(), &memory), order);
        }
        assert_eq!(view.reshape(&[4, 6]), None);
        assert_eq!(view.reshape(&[3, 8]), None);
        let mut cut = View::contiguous(&[4, 6]);
        cut.slice(1, 0, 4);
        assert_eq!(cut.reshape(&[16]), None);
        assert!(cut.reshape(&[2, 2, 4]).is_some());
    }

    #[test]
    fn many_tasks_copy_as_one_does() {
        let (rows, columns) = (700, 500);
        let memory: Vec<u8> = (0..rows * columns).flat_map(|i| (i as u32).to_le_bytes()).collect();
        let mut view = View::contiguous(&[rows, columns]);
        view.permute(&[1, 0]);
        let mut out = Vec::new();
        view.copy(&memory, 4, 0..rows * columns, &mut out);
        let expected: Vec<u8> = (0..columns)
            .flat_map(|j| (0..rows).map(move |i| i * columns + j))
            .flat_map(|i| (i as u32).to_le_bytes())
            .collect();
        assert_eq!(out, expected);
    }
}
