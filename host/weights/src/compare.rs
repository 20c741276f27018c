//! How far two parameters are from each other, whoever has them and in whatever types.
//!
//! Both stream at the same time; a few pieces of each are in memory. Numbers are compared as
//! `f32`, so one that was only stored wider is the same number.

use crate::provider::Provider;
use crate::{WeightError, cast};
use engraft_files::FileError;
use engraft_ir::DType;
use std::sync::mpsc;

/// Elements that are compared at a time.
const BLOCK: usize = 1024;

/// How far two parameters of the same shape are from each other.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Distance {
    /// Elements.
    pub elements: u64,
    /// Elements that are other numbers.
    pub different: u64,
    /// The largest absolute difference; infinite where one is NaN and the other is not.
    pub largest: f64,
    /// The root of the sum of squared differences, over that of the first's squares.
    pub relative: f64,
}

/// Sums on the way to a [`Distance`].
#[derive(Default)]
struct Sums {
    elements: u64,
    different: u64,
    largest: f64,
    squares: f64,
    differences: f64,
}

/// One side: a parameter by its name.
#[derive(Clone, Copy)]
pub struct Named<'a> {
    /// Who has it.
    pub provider: &'a dyn Provider,
    /// Its name there.
    pub name: &'a str,
}

/// Streams both and compares them; they must have the same shape. `progress` hears of bytes of
/// `left` as they pass.
///
/// # Errors
/// Whatever is wrong with either.
pub fn distance(
    left: Named<'_>,
    right: Named<'_>,
    progress: &dyn Fn(u64),
) -> Result<Distance, WeightError> {
    let dtype = |side: Named<'_>| {
        let unknown = || WeightError::Unknown { parameter: side.name.to_owned() };
        side.provider.get(side.name).map(|supply| supply.dtype).ok_or_else(unknown)
    };
    let (mine, theirs) = (dtype(left)?, dtype(right)?);
    let mut sums = Sums::default();
    std::thread::scope(|scope| {
        let (give, take) = mpsc::sync_channel::<Vec<u8>>(1);
        let other = scope.spawn(move || {
            right.provider.stream(right.name, &mut |bytes| {
                // Nobody listens any more once the left side has failed.
                give.send(bytes.to_vec()).map_err(|_| FileError::Interrupted)
            })
        });
        let (mut from_left, mut from_right) = (Vec::new(), Vec::new());
        let streamed = left.provider.stream(left.name, &mut |bytes| {
            progress(bytes.len() as u64);
            from_left.extend_from_slice(bytes);
            while from_left.len() >= mine.size() {
                if from_right.len() < theirs.size() {
                    match take.recv() {
                        Ok(piece) => from_right.extend(piece),
                        // It failed, or has less than it promised.
                        Err(_) => return Err(FileError::Interrupted),
                    }
                    continue;
                }
                let count = (from_left.len() / mine.size()).min(from_right.len() / theirs.size());
                let (a, b) = (count * mine.size(), count * theirs.size());
                sums.add(&from_left[..a], mine, &from_right[..b], theirs);
                from_left.drain(..a);
                from_right.drain(..b);
            }
            Ok(())
        });
        drop(take);
        match other.join() {
            // What failed first is what the other side was stopped by.
            Ok(Err(error)) if !is_stopped(&error) => Err(error),
            Ok(_) => streamed,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })?;
    Ok(sums.distance())
}

fn is_stopped(error: &WeightError) -> bool {
    matches!(error, WeightError::File(FileError::Interrupted))
}

impl Sums {
    fn add(&mut self, left: &[u8], mine: DType, right: &[u8], theirs: DType) {
        let (mut a, mut b) = ([0.0f64; BLOCK], [0.0f64; BLOCK]);
        let lefts = left.chunks(BLOCK * mine.size());
        for (x, y) in lefts.zip(right.chunks(BLOCK * theirs.size())) {
            let count = x.len() / mine.size();
            numbers(x, mine, &mut a[..count]);
            self.elements += count as u64;
            self.squares += a[..count].iter().filter(|v| v.is_finite()).map(|v| v * v).sum::<f64>();
            if mine == theirs && x == y {
                continue;
            }
            numbers(y, theirs, &mut b[..count]);
            for (a, b) in a[..count].iter().zip(&b[..count]) {
                if a == b || (a.is_nan() && b.is_nan()) {
                    continue;
                }
                let difference = (a - b).abs();
                // Something finite against something that is not.
                let difference = if difference.is_nan() { f64::INFINITY } else { difference };
                self.different += 1;
                self.largest = self.largest.max(difference);
                self.differences += difference * difference;
            }
        }
    }

    fn distance(self) -> Distance {
        let relative = match self.different {
            0 => 0.0,
            _ => (self.differences / self.squares).sqrt(),
        };
        let Sums { elements, different, largest, .. } = self;
        Distance { elements, different, largest, relative }
    }
}

/// Elements of any type as numbers that `f32` holds, and whole ones as they are.
fn numbers(bytes: &[u8], dtype: DType, out: &mut [f64]) {
    if dtype.is_float() {
        let mut wide = [0.0f32; BLOCK];
        let wide = &mut wide[..out.len()];
        cast::widen(bytes, dtype, wide);
        out.iter_mut().zip(wide).for_each(|(out, &mut wide)| *out = f64::from(wide));
        return;
    }
    for (out, element) in out.iter_mut().zip(bytes.chunks_exact(dtype.size())) {
        *out = match (dtype, element) {
            (DType::I8, &[a]) => f64::from(a as i8),
            (DType::I16, &[a, b]) => f64::from(i16::from_le_bytes([a, b])),
            (DType::I32, &[a, b, c, d]) => f64::from(i32::from_le_bytes([a, b, c, d])),
            (DType::I64, &[a, b, c, d, e, f, g, h]) => {
                i64::from_le_bytes([a, b, c, d, e, f, g, h]) as f64
            }
            (_, &[a]) => f64::from(a),
            _ => f64::NAN,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Supply;
    use engraft_ir::{Axis, Meaning};

    /// One parameter in memory, handed out in pieces of so many bytes.
    struct Memory {
        supply: Supply,
        bytes: Vec<u8>,
        piece: usize,
        fails: bool,
    }

    impl Memory {
        fn new(dtype: DType, bytes: Vec<u8>, piece: usize) -> Memory {
            let axes = vec![Axis::new((bytes.len() / dtype.size()) as u64, Meaning::Plain)];
            Memory { supply: Supply { dtype, axes, tied: None }, bytes, piece, fails: false }
        }
    }

    impl Provider for Memory {
        fn names(&self) -> &[String] {
            &[]
        }

        fn get(&self, _: &str) -> Option<&Supply> {
            Some(&self.supply)
        }

        fn stream(
            &self,
            name: &str,
            sink: &mut dyn FnMut(&[u8]) -> Result<(), FileError>,
        ) -> Result<(), WeightError> {
            if self.fails {
                return Err(WeightError::Unknown { parameter: name.to_owned() });
            }
            self.bytes.chunks(self.piece).try_for_each(|piece| Ok(sink(piece)?))
        }
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    fn between(left: &Memory, right: &Memory) -> Result<Distance, WeightError> {
        let named = |provider| Named { provider, name: "w" };
        distance(named(left), named(right), &|_| ())
    }

    #[test]
    fn the_same_numbers_in_other_types_and_pieces_are_the_same() {
        let values: Vec<f32> = (0..5000).map(|i| i as f32 / 4.0).collect();
        let doubles = values.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect();
        let left = Memory::new(DType::F32, floats(&values), 7);
        let right = Memory::new(DType::F64, doubles, 4096);
        let found = between(&left, &right).unwrap();
        assert_eq!(found, Distance { elements: 5000, ..Distance::default() });
        assert_eq!(between(&right, &left).unwrap(), found);
    }

    #[test]
    fn differences_are_counted_and_the_largest_is_kept() {
        let left = Memory::new(DType::F32, floats(&[3.0, 4.0, 0.0, f32::NAN]), 4);
        let right = Memory::new(DType::F32, floats(&[3.0, 4.5, -1.0, f32::NAN]), 16);
        let found = between(&left, &right).unwrap();
        assert_eq!((found.elements, found.different, found.largest), (4, 2, 1.0));
        assert!((found.relative - (1.25f64 / 25.0).sqrt()).abs() < 1e-12);
        let finite = Memory::new(DType::F32, floats(&[3.0, 4.0, 0.0, 0.0]), 16);
        assert_eq!(between(&left, &finite).unwrap().largest, f64::INFINITY);
    }

    #[test]
    fn whichever_side_fails_its_error_is_told() {
        let good = Memory::new(DType::F32, floats(&[1.0; 100]), 4);
        let bad = Memory { fails: true, ..Memory::new(DType::F32, floats(&[1.0; 100]), 4) };
        for (left, right) in [(&good, &bad), (&bad, &good)] {
            assert!(matches!(between(left, right), Err(WeightError::Unknown { .. })));
        }
    }
}
