//! A model run over samples, piece by piece, its weights quantised on the way.
//!
//! Of the model one piece's float weights are held, and the samples' activations that somebody
//! will still take. A piece runs with the weights that were quantised before it, so what later
//! weights are fitted to is what they will meet: errors that are there already can be made good.

use crate::piece::{Piece, pieces};
use crate::{CalibrateError, Inputs, Matrix, Quantiser, RunError};
use engraft_files::interrupt;
use engraft_ir::{Graph, Place, Value, Weight};
use engraft_runtime::{Program, Stretch};
use engraft_weights::{Provider, WeightError};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What weights become.
pub(crate) trait Method {
    /// What is to be known of a weight's inputs; none leaves the weight alone.
    fn wants(&self, name: &str) -> Option<Wants>;

    /// The floats that a weight stands for that an earlier run has quantised; none for any other.
    ///
    /// # Errors
    /// What cannot be read.
    fn known(&mut self, name: &str) -> Result<Option<Vec<f32>>, RunError>;

    /// Hears of the inputs of the weights that are quantised next.
    ///
    /// # Errors
    /// Inputs that are of no use.
    fn begin(&mut self, inputs: &Inputs) -> Result<(), CalibrateError>;

    /// Quantises a weight, `[out, in]`, or all experts' one below the other. Returns what takes
    /// its place in the run: the floats that it stands for.
    ///
    /// # Errors
    /// Whatever is wrong with the weight or its inputs; a disk that is full.
    fn quantise(
        &mut self,
        name: &str,
        matrix: Matrix<'_>,
        inputs: &Inputs,
    ) -> Result<Vec<f32>, RunError>;
}

/// What is gathered of inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wants {
    /// The sum of products of all pairs of inputs.
    pub hessian: bool,
    /// Tokens to keep.
    pub sample: usize,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Weights that are quantised.
    pub done: usize,
    /// All there are.
    pub of: usize,
}

/// Runs `graph`, whose weights `provider` has, over `samples` of token ids, up to the last weight
/// that is quantised.
///
/// # Errors
/// No samples; weights that cannot be quantised or read, a graph that the CPU cannot run, an
/// interrupt.
pub fn run(
    graph: &Graph,
    provider: &dyn Provider,
    samples: &[Vec<u32>],
    quantiser: &mut Quantiser<'_>,
    progress: &dyn Fn(Progress),
) -> Result<(), RunError> {
    drive(graph, provider, samples, quantiser, progress)
}

/// The same by any method.
pub(crate) fn drive(
    graph: &Graph,
    provider: &dyn Provider,
    samples: &[Vec<u32>],
    method: &mut dyn Method,
    progress: &dyn Fn(Progress),
) -> Result<(), RunError> {
    if samples.iter().all(Vec::is_empty) {
        return Err(RunError::NoSamples);
    }
    let wants: BTreeMap<Weight, Wants> = graph
        .weights
        .iter()
        .filter_map(|(weight, data)| Some((weight, method.wants(&data.name)?)))
        .collect();
    let last = wants.keys().filter_map(|&weight| graph.homes[weight]).max();
    let Some(last) = last else { return Ok(()) };
    let mut run = Run {
        graph,
        provider,
        samples,
        wants,
        values: BTreeMap::new(),
        replaced: BTreeMap::new(),
        done: 0,
    };
    for place in graph.places.keys().take_while(|&place| place <= last) {
        run.place(place, method, progress)?;
    }
    Ok(())
}

/// A run so far.
struct Run<'a> {
    graph: &'a Graph,
    provider: &'a dyn Provider,
    samples: &'a [Vec<u32>],
    wants: BTreeMap<Weight, Wants>,
    /// Of each value that somebody will take, what each sample has.
    values: BTreeMap<Value, Vec<Vec<f32>>>,
    /// What stands for the weights of this place that are quantised.
    replaced: BTreeMap<Weight, Arc<Vec<f32>>>,
    done: usize,
}

impl Run<'_> {
    fn place(
        &mut self,
        place: Place,
        method: &mut dyn Method,
        progress: &dyn Fn(Progress),
    ) -> Result<(), RunError> {
        let is_looked_at = |weight: Weight| self.wants.contains_key(&weight);
        let pieces = pieces(self.graph, place, &is_looked_at)?;
        let seen: BTreeSet<Weight> = pieces
            .iter()
            .flat_map(|piece| piece.then.iter().flat_map(|(_, w)| w.clone()))
            .collect();
        self.unseen(place, &seen, method)?;
        let carry = &self.graph.places[place].carry;
        for (at, piece) in pieces.iter().enumerate() {
            let behind = &pieces[at + 1..];
            let is_kept = |value: Value| {
                let looked_at = piece.then.as_ref().is_some_and(|(input, _)| *input == value);
                let is_taken = behind.iter().any(|piece| piece.takes.contains(&value));
                looked_at || is_taken || carry.contains(&value)
            };
            self.piece(piece, &is_kept)?;
            if let Some((input, weights)) = &piece.then {
                self.look(*input, weights, method)?;
                progress(Progress { done: self.done, of: self.wants.len() });
            }
            // Values that were looked at, and nobody takes.
            self.values.retain(|value, _| {
                carry.contains(value) || behind.iter().any(|piece| piece.takes.contains(value))
            });
        }
        self.replaced.clear();
        Ok(())
    }

    /// Runs a piece over all samples; what it takes and is not kept is gone then.
    fn piece(&mut self, piece: &Piece, is_kept: &dyn Fn(Value) -> bool) -> Result<(), RunError> {
        // A piece that gives nothing has nothing to run.
        if piece.gives.is_empty() {
            return Ok(());
        }
        let weights = piece.weights.iter().map(|&weight| match self.replaced.get(&weight) {
            Some(floats) => Ok(floats.clone()),
            None => Ok(Arc::new(self.floats(weight)?)),
        });
        let weights = weights.collect::<Result<Vec<_>, RunError>>()?;
        let program = Arc::new(Held { graph: piece.graph.clone(), weights });
        let longest = self.samples.iter().map(Vec::len).max().unwrap_or(0);
        let mut stretch = Stretch::new(program, longest, None)?;
        let mut given: Vec<Vec<Vec<f32>>> = vec![Vec::new(); piece.gives.len()];
        for (sample, tokens) in self.samples.iter().enumerate() {
            interrupt::check()?;
            let mut takes = Vec::with_capacity(piece.takes.len());
            for &value in &piece.takes {
                let of_all = self.values.get_mut(&value).and_then(|all| all.get_mut(sample));
                takes.push(match of_all {
                    Some(one) if is_kept(value) => one.clone(),
                    Some(one) => std::mem::take(one),
                    None => Vec::new(),
                });
            }
            let outputs = stretch.run(tokens, takes)?;
            given.iter_mut().zip(outputs).for_each(|(all, one)| all.push(one));
        }
        self.values.extend(piece.gives.iter().copied().zip(given));
        Ok(())
    }

    /// Gathers what is known of an input, and quantises the weights that it is multiplied by.
    fn look(
        &mut self,
        input: Value,
        weights: &[Weight],
        method: &mut dyn Method,
    ) -> Result<(), RunError> {
        let name = |weight: Weight| self.graph.weights[weight].name.as_str();
        let mut open = Vec::new();
        for &weight in weights {
            match method.known(name(weight))? {
                Some(floats) => self.keep(weight, floats),
                None => open.push(weight),
            }
        }
        let Some(&first) = open.first() else { return Ok(()) };
        let wants = open.iter().filter_map(|weight| self.wants.get(weight));
        let wants = wants.fold(Wants::default(), |all, one| Wants {
            hessian: all.hessian || one.hessian,
            sample: all.sample.max(one.sample),
        });
        let width = self.graph.values[input].ty.width.unwrap_or_default() as usize;
        let mut inputs = Inputs::new(width, wants.hessian, wants.sample);
        let fault = |source| RunError::Weight { weight: name(first).to_owned(), source };
        for sample in &self.values[&input] {
            inputs.add(sample).map_err(fault)?;
        }
        method.begin(&inputs).map_err(fault)?;
        for weight in open {
            self.weight(weight, &inputs, method)?;
        }
        Ok(())
    }

    /// Quantises one weight.
    fn weight(
        &mut self,
        weight: Weight,
        inputs: &Inputs,
        method: &mut dyn Method,
    ) -> Result<(), RunError> {
        interrupt::check()?;
        let name = &self.graph.weights[weight].name;
        let floats = self.floats(weight)?;
        let columns = inputs.width();
        let fault = |source| RunError::Weight { weight: name.clone(), source };
        let matrix = Matrix::new(floats.len() / columns.max(1), columns, &floats).map_err(fault)?;
        let made = method.quantise(name, matrix, inputs)?;
        self.keep(weight, made);
        Ok(())
    }

    fn keep(&mut self, weight: Weight, floats: Vec<f32>) {
        self.replaced.insert(weight, Arc::new(floats));
        self.done += 1;
    }

    /// Quantises the weights of a place whose inputs nobody sees: those inside of experts.
    fn unseen(
        &mut self,
        place: Place,
        seen: &BTreeSet<Weight>,
        method: &mut dyn Method,
    ) -> Result<(), RunError> {
        let here = |weight: &Weight| self.graph.homes[*weight] == Some(place);
        let left =
            self.wants.keys().copied().filter(|weight| here(weight) && !seen.contains(weight));
        for weight in left.collect::<Vec<_>>() {
            let data = &self.graph.weights[weight];
            match method.known(&data.name)? {
                Some(floats) => self.keep(weight, floats),
                None => {
                    let width = data.shape().last().copied().unwrap_or_default() as usize;
                    let inputs = Inputs::new(width, false, 0);
                    let fault = |source| RunError::Weight { weight: data.name.clone(), source };
                    method.begin(&inputs).map_err(fault)?;
                    self.weight(weight, &inputs, method)?;
                }
            }
        }
        Ok(())
    }

    /// The elements of a weight as `f32`.
    fn floats(&self, weight: Weight) -> Result<Vec<f32>, RunError> {
        let data = &self.graph.weights[weight];
        let name = data.tied.map_or(&data.name, |to| &self.graph.weights[to].name);
        floats(self.provider, name)
    }
}

/// All elements of a parameter as `f32`.
///
/// # Errors
/// One that there is not, or that cannot be read.
pub(crate) fn floats(provider: &dyn Provider, name: &str) -> Result<Vec<f32>, RunError> {
    let unknown = || WeightError::Unknown { parameter: name.to_owned() };
    let supply = provider.get(name).ok_or_else(unknown)?;
    let mut all = Vec::with_capacity((supply.bytes() / supply.dtype.size() as u64) as usize);
    let mut rest: Vec<u8> = Vec::new();
    let size = supply.dtype.size();
    provider.stream(name, &mut |piece| {
        rest.extend_from_slice(piece);
        let whole = rest.len() - rest.len() % size;
        engraft_quant::widen(&rest[..whole], supply.dtype, &mut all);
        rest.drain(..whole);
        Ok(())
    })?;
    Ok(all)
}

/// A piece with its weights.
struct Held {
    graph: Graph,
    weights: Vec<Arc<Vec<f32>>>,
}

impl Program for Held {
    fn graph(&self) -> &Graph {
        &self.graph
    }

    fn weight(&self, weight: Weight) -> &[u8] {
        bytemuck::cast_slice(&self.weights[weight.as_u32() as usize])
    }
}
