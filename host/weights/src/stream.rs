//! Bytes of a parameter, piece after piece.
//!
//! ```text
//! source rows ─ check ─► [hold, look through a view]* ─► [rows in f32]* ─► cast ─► pieces ─► sink
//! ```
//! Every stage is a [`Feed`] that pulls from the one before it; what is asked of a feed is only
//! about how much is held at a time, never what comes out.

use crate::WeightError;
use crate::arithmetic::Kernel;
use crate::cast;
use crate::finite::{finite, multi_index};
use crate::moves::View;
use crate::origin::Step;
use crate::steps::{Computation, Recipe, Stage};
use engraft_files::interrupt;
use engraft_ir::DType;
use engraft_source::Source;
use std::ops::Range;

/// How many bytes of a stream are held at a time, at least where a row is no longer.
pub(crate) const PIECE: usize = 1 << 20;

/// Elements of one type, in order.
trait Feed {
    fn dtype(&self) -> DType;

    /// Appends the next elements to `out`: about `elements`, at least one, none at the end.
    fn pull(&mut self, elements: usize, out: &mut Vec<u8>) -> Result<(), WeightError>;
}

/// A range of the elements of a source tensor, checked to be finite.
struct Rows<'a> {
    source: &'a Source,
    tensor: &'a str,
    dtype: DType,
    shape: &'a [u64],
    /// What has not been handed out.
    left: Range<u64>,
}

impl<'a> Rows<'a> {
    fn new(source: &'a Source, tensor: &'a str, range: Range<u64>) -> Result<Self, WeightError> {
        let Some((_, info)) = source.tensors().get_key_value(tensor) else {
            return Err(WeightError::Unknown { parameter: tensor.to_owned() });
        };
        Ok(Rows { source, tensor, dtype: info.dtype, shape: &info.shape, left: range })
    }
}

impl Feed for Rows<'_> {
    fn dtype(&self) -> DType {
        self.dtype
    }

    fn pull(&mut self, elements: usize, out: &mut Vec<u8>) -> Result<(), WeightError> {
        if self.left.is_empty() {
            return Ok(());
        }
        let wanted = self.left.start.saturating_add((elements as u64).max(1));
        let range = self.left.start..wanted.min(self.left.end);
        let at = out.len();
        self.source.read_elements(self.tensor, range.clone(), out)?;
        let file = self.source.file_of(self.tensor);
        finite(self.tensor, self.shape, self.dtype, range.start, &out[at..], file)?;
        self.left.start = range.end;
        Ok(())
    }
}

/// All elements of another feed, held, in the order of a view.
struct Arranged<'a> {
    /// Where they come from, until they are held.
    from: Option<Box<dyn Feed + 'a>>,
    dtype: DType,
    memory: Vec<u8>,
    /// How many there are.
    elements: u64,
    view: &'a View,
    next: u64,
    piece: usize,
}

impl Feed for Arranged<'_> {
    fn dtype(&self) -> DType {
        self.dtype
    }

    fn pull(&mut self, elements: usize, out: &mut Vec<u8>) -> Result<(), WeightError> {
        if let Some(mut from) = self.from.take() {
            self.memory = drain(from.as_mut(), self.piece, self.elements)?;
        }
        let end = self.next.saturating_add((elements as u64).max(1)).min(self.view.elements());
        self.view.copy(&self.memory, self.dtype.size(), self.next..end, out);
        self.next = end;
        if self.next == self.view.elements() {
            self.memory = Vec::new();
        }
        Ok(())
    }
}

/// All that a feed has left: so many elements.
fn drain(feed: &mut dyn Feed, piece: usize, elements: u64) -> Result<Vec<u8>, WeightError> {
    let mut memory = Vec::new();
    memory.reserve_exact(elements as usize * feed.dtype().size());
    loop {
        let before = memory.len();
        interrupt::check()?;
        feed.pull(piece / feed.dtype().size(), &mut memory)?;
        if memory.len() == before {
            return Ok(memory);
        }
    }
}

/// Rows of another feed after an arithmetic step.
struct Computed<'a> {
    from: Box<dyn Feed + 'a>,
    source: &'a Source,
    recipe: &'a Recipe,
    parameter: &'a str,
    computation: &'a Computation,
    /// Made at the first pull, as it may read a matrix.
    kernel: Option<Kernel>,
    /// Elements of a row that is not complete.
    rest: Vec<u8>,
    /// How many elements came out so far.
    done: u64,
    piece: usize,
}

impl<'a> Computed<'a> {
    fn kernel(&self) -> Result<Option<Kernel>, WeightError> {
        let Computation { step, width, .. } = self.computation;
        let mut matrix = Vec::new();
        if let Step::Times(name) | Step::TimesTransposed(name) = step {
            let shape = self.source.tensors().get(name).map(|info| info.shape.as_slice());
            let elements = shape.unwrap_or_default().iter().product();
            let mut rows = Rows::new(self.source, name, 0..elements)?;
            let mut bytes = Vec::new();
            while !rows.left.is_empty() {
                bytes.clear();
                rows.pull(self.piece / rows.dtype.size(), &mut bytes)?;
                let at = matrix.len();
                matrix.resize(at + bytes.len() / rows.dtype.size(), 0.0);
                cast::widen(&bytes, rows.dtype, &mut matrix[at..]);
            }
        }
        Ok(Kernel::new(step, matrix, *width as usize))
    }
}

impl Feed for Computed<'_> {
    fn dtype(&self) -> DType {
        DType::F32
    }

    fn pull(&mut self, elements: usize, out: &mut Vec<u8>) -> Result<(), WeightError> {
        if self.kernel.is_none() {
            self.kernel = self.kernel()?;
        }
        let Some(kernel) = &self.kernel else {
            return Ok(());
        };
        let width = self.computation.width as usize;
        let dtype = self.from.dtype();
        let bytes = width * dtype.size();
        let rows = (elements / kernel.width_after(width)).max(1);
        while self.rest.len() < bytes {
            let (before, missing) = (self.rest.len(), rows * bytes - self.rest.len());
            self.from.pull(missing.div_ceil(dtype.size()), &mut self.rest)?;
            if self.rest.len() == before {
                return Ok(());
            }
        }
        let whole = self.rest.len() / bytes * bytes;
        let mut values = vec![0.0; whole / dtype.size()];
        cast::widen(&self.rest[..whole], dtype, &mut values);
        self.rest.drain(..whole);
        let result = kernel.run(values, width);
        let at = out.len();
        out.extend(result.iter().flat_map(|v| v.to_le_bytes()));
        if let Some(i) = cast::first_not_finite(&out[at..], DType::F32) {
            return Err(WeightError::Overflow {
                tensor: self.recipe.tensor.clone(),
                step: self.computation.step.to_string(),
                index: multi_index(self.done + i as u64, &self.computation.shape),
                parameter: self.parameter.to_owned(),
            });
        }
        self.done += result.len() as u64;
        Ok(())
    }
}

/// About how many bytes the stream of a recipe holds at a time.
pub(crate) fn held(source: &Source, recipe: &Recipe, target: DType, piece: usize) -> u64 {
    let dtype_of = |tensor: &str| source.tensors().get(tensor).map(|info| info.dtype);
    let mut dtype = dtype_of(&recipe.tensor).unwrap_or(DType::F32);
    let mut elements = recipe.range.end - recipe.range.start;
    let bytes = |elements: u64, dtype: DType| elements.saturating_mul(dtype.size() as u64);
    let piece_of = |elements, dtype| bytes(elements, dtype).min(piece as u64);
    let mut sum = source.held(&recipe.tensor);
    for stage in &recipe.stages {
        sum = sum.saturating_add(match stage {
            Stage::Arrange(_) => bytes(elements, dtype),
            Stage::Compute(computation) => {
                // Rows as they come, in f32, and what comes of them.
                let row = bytes(computation.width, DType::F32);
                let rows = piece_of(elements, DType::F32).max(row).saturating_mul(4);
                let matrix = match &computation.step {
                    Step::Times(name) | Step::TimesTransposed(name) => {
                        let info = source.tensors().get(name);
                        let count = info.map_or(0, |info| info.shape.iter().product());
                        // As it is and turned.
                        bytes(count, DType::F32).saturating_mul(2)
                    }
                    _ => 0,
                };
                dtype = DType::F32;
                rows.saturating_add(matrix)
            }
        });
        elements = stage.elements();
    }
    let raw = if dtype == target { 0 } else { piece_of(elements, dtype) };
    sum.saturating_add(raw).saturating_add(piece_of(elements, target))
}

/// One part of a parameter as bytes of the target type.
pub(crate) struct PartStream<'a> {
    feed: Box<dyn Feed + 'a>,
    recipe: &'a Recipe,
    parameter: &'a str,
    target: DType,
    piece: usize,
    /// Elements as pulled, and how many bytes of them are used up.
    raw: Vec<u8>,
    used: usize,
    /// How many elements were cast.
    done: u64,
    /// Elements as cast, and how many bytes of them were handed out.
    ready: Vec<u8>,
    given: usize,
}

impl<'a> PartStream<'a> {
    /// The stream of a recipe, in pieces of about `piece` bytes.
    pub(crate) fn new(
        source: &'a Source,
        recipe: &'a Recipe,
        parameter: &'a str,
        target: DType,
        piece: usize,
    ) -> Result<Self, WeightError> {
        let rows = Rows::new(source, &recipe.tensor, recipe.range.clone())?;
        let mut feed: Box<dyn Feed + 'a> = Box::new(rows);
        let mut elements = recipe.range.end - recipe.range.start;
        for stage in &recipe.stages {
            let from = feed;
            feed = match stage {
                Stage::Arrange(view) => Box::new(Arranged {
                    dtype: from.dtype(),
                    from: Some(from),
                    memory: Vec::new(),
                    elements,
                    view,
                    next: 0,
                    piece,
                }),
                Stage::Compute(computation) => Box::new(Computed {
                    from,
                    source,
                    recipe,
                    parameter,
                    computation,
                    kernel: None,
                    rest: Vec::new(),
                    done: 0,
                    piece,
                }),
            };
            elements = stage.elements();
        }
        let (raw, ready) = (Vec::new(), Vec::new());
        Ok(PartStream {
            feed,
            recipe,
            parameter,
            target,
            piece,
            raw,
            used: 0,
            done: 0,
            ready,
            given: 0,
        })
    }

    /// The next bytes, at most `limit`; none at the end.
    pub(crate) fn next(&mut self, limit: usize) -> Result<&[u8], WeightError> {
        if self.given == self.ready.len() {
            self.refill()?;
        }
        let from = self.given;
        self.given = self.ready.len().min(from.saturating_add(limit));
        Ok(&self.ready[from..self.given])
    }

    fn refill(&mut self) -> Result<(), WeightError> {
        interrupt::check()?;
        let dtype = self.feed.dtype();
        let elements = (self.piece / dtype.size().max(self.target.size())).max(1);
        self.given = 0;
        if dtype == self.target {
            // As they are; a row that is longer than a piece goes out in one.
            self.ready.clear();
            return self.feed.pull(elements, &mut self.ready);
        }
        if self.used == self.raw.len() {
            self.used = 0;
            self.raw.clear();
            self.feed.pull(elements, &mut self.raw)?;
        }
        // A pull may bring one long row; the cast of it is not held whole.
        let count = (self.raw.len() - self.used).min(elements * dtype.size()) / dtype.size();
        let from = &self.raw[self.used..self.used + count * dtype.size()];
        self.ready.resize(count * self.target.size(), 0);
        cast::cast(from, dtype, self.target, &mut self.ready).map_err(|i| {
            let element = &from[i * dtype.size()..(i + 1) * dtype.size()];
            WeightError::TooLarge {
                tensor: self.recipe.tensor.clone(),
                index: multi_index(self.done + i as u64, &self.recipe.shape),
                value: cast::value(element, dtype),
                dtype: self.target,
                parameter: self.parameter.to_owned(),
            }
        })?;
        self.used += count * dtype.size();
        self.done += count as u64;
        Ok(())
    }
}
