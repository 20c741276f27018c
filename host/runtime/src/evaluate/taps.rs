//! What every place of a model hands on, and how far that is from another model's.
//!
//! The model is run with another head: one that puts what the places before it hand on side by
//! side. So there is one run for all of them, on the device as it is.

use super::compare::side_by_side;
use super::logits;
use crate::device::Program;
use crate::error::RuntimeError;
use crate::model::{LoadOptions, Model};
use crate::ranks::Alone;
use engraft_engine::Engine;
use engraft_ir::{AnyEntity, Graph, Op, PlaceKind, Value, Weight};
use std::sync::Arc;

/// Tokens of one step: what places hand on lives to the end of it, all at a time.
const STEP: usize = 128;

/// A program with its head replaced.
struct Tapped {
    program: Arc<dyn Program>,
    graph: Graph,
}

impl Program for Tapped {
    fn graph(&self) -> &Graph {
        &self.graph
    }

    fn weight(&self, weight: Weight) -> &[u8] {
        self.program.weight(weight)
    }
}

/// A model that gives, in place of logits, the first value that each place before the head hands
/// on: what the embedding gives and each block after it, and so what the next one takes.
pub struct Taps {
    model: Model,
    /// Which places, and how wide what they hand on is.
    places: Vec<(PlaceKind, usize)>,
}

impl Taps {
    /// Prepares the ranks of an engine, or the one that it has, to run in this process, for one
    /// prompt of at most so many tokens at a time. Other limits of `options` do not count.
    ///
    /// # Errors
    /// As [`Model::load`]; an engine of several pipeline stages, none of which has all places;
    /// places that hand on what has no width.
    pub fn load(
        engines: &[Arc<Engine>],
        tokens: usize,
        options: &LoadOptions,
    ) -> Result<Taps, RuntimeError> {
        let Some(first) = engines.first() else {
            return Err(RuntimeError::RankCount { engine: 0, running: 1 });
        };
        let options = LoadOptions {
            threads: options.threads,
            isa: options.isa,
            max_batch_size: Some(1),
            max_num_tokens: Some(tokens.min(STEP)),
            max_seq_len: Some(tokens),
            ..LoadOptions::default()
        };
        let programs = engines.iter().map(|engine| tapped(engine.clone()));
        let programs: Vec<Arc<dyn Program>> = programs.collect::<Result<_, _>>()?;
        let places = places(programs[0].graph());
        let build = &first.config().build_config;
        let model = match programs.len() {
            1 => Model::prepare(programs[0].clone(), build, 0, Box::new(Alone), &options)?,
            ranks => Model::prepare_in_process(programs, build, &vec![0; ranks], &options)?,
        };
        Ok(Taps { model, places })
    }

    /// The places in order, each with the width of what it hands on.
    pub fn places(&self) -> &[(PlaceKind, usize)] {
        &self.places
    }

    /// What each place hands on for a prompt: `[tokens × width]` each.
    ///
    /// # Errors
    /// A prompt that cannot run: see [`crate::Batcher::join`].
    pub fn run(&mut self, prompt: &[u32]) -> Result<Vec<Vec<f32>>, RuntimeError> {
        let rows = logits(&mut self.model, &[prompt.to_vec()])?.concat();
        let mut all: Vec<Vec<f32>> = vec![Vec::new(); self.places.len()];
        for row in rows.chunks_exact(self.model.vocabulary()) {
            for (values, part) in all.iter_mut().zip(parts(row, &self.places)) {
                values.extend_from_slice(part);
            }
        }
        Ok(all)
    }
}

/// A row of all places, place by place.
fn parts<'a>(row: &'a [f32], places: &[(PlaceKind, usize)]) -> impl Iterator<Item = &'a [f32]> {
    let mut rest = row;
    places.iter().map(move |&(_, width)| {
        let (part, behind) = rest.split_at(width);
        rest = behind;
        part
    })
}

/// The values that are tapped: of each place before the head, the first that it hands on.
fn tapped_values(graph: &Graph) -> impl Iterator<Item = (PlaceKind, Value)> + '_ {
    let before = graph.places.values().filter(|place| place.kind != PlaceKind::Head);
    before.filter_map(|place| Some((place.kind, *place.carry.first()?)))
}

fn places(graph: &Graph) -> Vec<(PlaceKind, usize)> {
    let width = |value: Value| graph.values[value].ty.width.unwrap_or(0) as usize;
    tapped_values(graph).map(|(kind, value)| (kind, width(value))).collect()
}

/// Replaces the head. What it then reads is handed on by places long before it, which no file may
/// say; a plan asks for the order of nodes alone, and keeps each value to its last reader.
fn tapped(program: Arc<dyn Program>) -> Result<Arc<dyn Program>, RuntimeError> {
    let mut graph = program.graph().clone();
    let unsupported = |reason: String, place| RuntimeError::Unsupported { reason, place };
    if graph.rank.mapping.pp_size > 1 {
        let reason = "a pipeline stage does not have all blocks".to_owned();
        return Err(unsupported(reason, AnyEntity::Graph));
    }
    let Some(head) = graph.places.keys().next_back() else {
        return Err(unsupported("it has no place".into(), AnyEntity::Graph));
    };
    let inputs = tapped_values(&graph).map(|(_, value)| value).collect();
    graph.places[head].nodes.clear();
    let side_by_side = graph.append(head, Op::Concat { inputs, heads: 1 });
    let node = side_by_side.map_err(|e| unsupported(e.to_string(), head.into()))?;
    graph.places[head].carry = vec![graph.result(node)];
    Ok(Arc::new(Tapped { program, graph }))
}

/// How far what a place hands on is from a reference's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Departure {
    /// Which.
    pub place: PlaceKind,
    /// `‖values − reference‖ / ‖reference‖` over all tokens; not a number where values are not.
    pub relative_l2: f64,
}

/// Whether two engines have the same places, so that [`departures`] can compare them: known from
/// their graphs, before anything runs. Neither is one of several pipeline stages.
///
/// # Errors
/// Where they do not: another number of blocks, or another width.
pub fn same_places(engine: &Engine, reference: &Engine) -> Result<(), RuntimeError> {
    comparable(&places(engine.graph()), &places(reference.graph()))
}

fn comparable(
    left: &[(PlaceKind, usize)],
    right: &[(PlaceKind, usize)],
) -> Result<(), RuntimeError> {
    let incomparable = |reason: String| Err(RuntimeError::Incomparable { reason });
    let [blocks, wanted] = [left, right].map(|places| places.len().saturating_sub(1));
    if blocks != wanted {
        return incomparable(format!("one has {blocks} blocks, the other {wanted}"));
    }
    let mut pairs = left.iter().zip(right);
    if let Some((&(place, width), &(_, wanted))) = pairs.find(|(left, right)| left != right) {
        return incomparable(format!(
            "what {place} hands on is {width} wide in one, and {wanted} in the other"
        ));
    }
    Ok(())
}

/// How far what each place hands on for a prompt is from a reference's, in the order of places.
///
/// # Errors
/// Models of other places or widths; a prompt that cannot run.
pub fn departures(
    taps: &mut Taps,
    reference: &mut Taps,
    prompt: &[u32],
) -> Result<Vec<Departure>, RuntimeError> {
    comparable(&taps.places, &reference.places)?;
    let places = taps.places.clone();
    // Squares of the difference and of the reference.
    let mut sums = vec![[0.0f64; 2]; places.len()];
    side_by_side([&mut taps.model, &mut reference.model], prompt, 0, |_, [row, wanted]| {
        let pairs = parts(row, &places).zip(parts(wanted, &places));
        for ([apart, size], (values, wanted)) in sums.iter_mut().zip(pairs) {
            for (&x, &w) in values.iter().zip(wanted) {
                let (x, w) = (f64::from(x), f64::from(w));
                *apart += (x - w).powi(2);
                *size += w * w;
            }
        }
        Ok(())
    })?;
    let relative = |[apart, size]: [f64; 2]| if apart == 0.0 { 0.0 } else { (apart / size).sqrt() };
    let found = places.iter().zip(sums);
    Ok(found.map(|(&(place, _), sums)| Departure { place, relative_l2: relative(sums) }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use engraft_ir::DType;

    fn taps(blocks: u32, dtype: DType) -> Taps {
        let program = tapped(testing::program(testing::graph_of(blocks, dtype))).unwrap();
        let places = places(program.graph());
        let options = testing::options();
        let model =
            Model::prepare(program, &testing::build(), 0, Box::new(Alone), &options).unwrap();
        Taps { model, places }
    }

    #[test]
    fn a_model_departs_nowhere_from_itself() {
        let ids: Vec<u32> = (0..40).collect();
        let found = departures(&mut taps(2, DType::F32), &mut taps(2, DType::F32), &ids).unwrap();
        assert!(found.iter().all(|departure| departure.relative_l2 == 0.0), "{found:?}");
    }

    #[test]
    fn what_is_tapped_is_what_the_next_block_takes() {
        let ids: Vec<u32> = (0..40).rev().collect();
        let all = taps(2, DType::F32).run(&ids).unwrap();
        assert_eq!(taps(1, DType::F32).run(&ids).unwrap(), all[..2]);
        let table = testing::program(testing::graph(1));
        let (data, first) = table.graph().weights.iter().map(|(w, data)| (data, w)).next().unwrap();
        let (width, bytes) = (data.shape()[1] as usize, table.weight(first));
        let row = |id: u32| {
            bytemuck::cast_slice::<u8, f32>(bytes)[id as usize * width..][..width].to_vec()
        };
        assert_eq!(all[0], ids.iter().flat_map(|&id| row(id)).collect::<Vec<_>>());
    }

    #[test]
    fn rounding_is_seen_from_the_first_place_on() {
        let ids: Vec<u32> = (0..40).collect();
        let found = departures(&mut taps(2, DType::BF16), &mut taps(2, DType::F32), &ids).unwrap();
        assert_eq!(
            found.iter().map(|d| d.place).collect::<Vec<_>>(),
            [PlaceKind::Embed, PlaceKind::Block(0), PlaceKind::Block(1),]
        );
        assert!(found.iter().all(|d| d.relative_l2 > 1e-4 && d.relative_l2 < 0.05), "{found:?}");
    }

    #[test]
    fn models_of_other_sizes_are_not_compared() {
        let refused = departures(&mut taps(2, DType::F32), &mut taps(3, DType::F32), &[1]);
        let reason = refused.unwrap_err().to_string();
        assert!(reason.contains("one has 2 blocks, the other 3"), "{reason}");
    }
}
