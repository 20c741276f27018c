//! Whether a model gives what another implementation of it gives: compiled in a temporary folder,
//! run on the CPU in f32, compared position by position, and where it departs, block by block.

use super::reference::{Hidden, Prompt, Reference, ReferenceError};
use crate::scratch::Scratch;
use anyhow::Result;
use engraft_convert::{Effort, Pipeline};
use engraft_engine::Engine;
use engraft_runtime::evaluate::Taps;
use engraft_runtime::{Generator, LoadOptions, Model, Request, RuntimeError, evaluate};
use serde_json::{Value, json};
use std::sync::Arc;

/// What came of a comparison.
pub struct Parity {
    tolerance: f64,
    prompts: Vec<Compared>,
    /// The place that departs, in words, where hidden states tell it.
    place: Option<String>,
    has_hidden: bool,
}

/// One prompt, compared.
struct Compared {
    name: String,
    tokens: usize,
    /// Relative L2 over all positions.
    distance: f64,
    /// The first position that is further away than it may be.
    departs: Option<Departure>,
    /// Positions whose largest logit is the same.
    agree: usize,
    greedy: Option<Greedy>,
}

/// A position whose logits are not the reference's.
struct Departure {
    position: usize,
    distance: f64,
    /// The logit that is furthest away: which, what it is, what it should be.
    worst: (usize, f32, f32),
}

/// A greedy continuation beside the reference's.
struct Greedy {
    steps: usize,
    /// The first step that differs: which, ours, the reference's, and whether the two are nearer
    /// to each other than the tolerance tells apart.
    differs: Option<(usize, u32, u32, bool)>,
}

impl Greedy {
    fn passed(&self) -> bool {
        self.differs.is_none_or(|(.., tie)| tie)
    }
}

/// The relative L2 distance `‖got − want‖ / ‖want‖`; not a number where `got` is not finite.
fn distance(got: &[f32], want: &[f32]) -> f64 {
    let pairs = got.iter().zip(want).map(|(&g, &w)| (f64::from(g), f64::from(w)));
    let (apart, size) = pairs.fold((0.0, 0.0), |(a, s), (g, w)| (a + (g - w).powi(2), s + w * w));
    if apart == 0.0 { 0.0 } else { (apart / size).sqrt() }
}

/// Whether it is near enough; what is not a number is not.
fn near(distance: f64, tolerance: f64) -> bool {
    distance <= tolerance
}

fn largest(row: &[f32]) -> usize {
    (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

/// Compares the logits of one prompt, row by row.
fn compare(prompt: &Prompt, got: &[f32], width: usize, tolerance: f64) -> Compared {
    let rows = || got.chunks(width).zip(prompt.logits.chunks(width));
    let departs = rows().enumerate().find_map(|(position, (got, want))| {
        let distance = distance(got, want);
        let apart = |i: &usize| f64::from((got[*i] - want[*i]).abs());
        let worst = (0..width).max_by(|a, b| apart(a).total_cmp(&apart(b))).unwrap_or(0);
        let worst = (worst, got[worst], want[worst]);
        (!near(distance, tolerance)).then_some(Departure { position, distance, worst })
    });
    Compared {
        name: prompt.name.clone(),
        tokens: prompt.ids.len(),
        distance: distance(got, &prompt.logits),
        departs,
        agree: rows().filter(|(got, want)| largest(got) == largest(want)).count(),
        greedy: None,
    }
}

/// Compares a greedy continuation; `logits` gives those of the last position of some ids.
fn follow(
    want: &[u32],
    got: &[u32],
    tolerance: f64,
    logits: impl FnOnce(usize) -> Result<Vec<f32>>,
) -> Result<Greedy> {
    let steps = want.len();
    let Some(step) = (0..steps).find(|&i| got.get(i) != Some(&want[i])) else {
        return Ok(Greedy { steps, differs: None });
    };
    let row = logits(step)?;
    let ours = got.get(step).copied().unwrap_or_default();
    let logit = |id: u32| row.get(id as usize).map_or(f64::NEG_INFINITY, |&x| f64::from(x));
    // Each of the two logits may be that far from the reference's.
    let size = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let tie = logit(ours) - logit(want[step]) <= 2.0 * tolerance * size;
    Ok(Greedy { steps, differs: Some((step, ours, want[step], tie)) })
}

impl Parity {
    /// Compiles a model, opened in f32, and compares it.
    ///
    /// # Errors
    /// Whatever keeps the model from running, or the reference from being one of this model.
    pub fn measure(pipeline: &Pipeline, reference: &Reference, tolerance: f64) -> Result<Parity> {
        let compiled = Scratch::compile(pipeline, "model", &Effort::default())?;
        let engine = Arc::new(Engine::open(compiled.path())?);
        let longest = |p: &Prompt| p.ids.len() + p.greedy.as_ref().map_or(0, Vec::len);
        let tokens = reference.prompts.iter().map(longest).max().unwrap_or(1);
        let (max_batch_size, max_seq_len) = (Some(1), Some(tokens));
        let options = LoadOptions { max_batch_size, max_seq_len, ..LoadOptions::default() };
        let mut model = Model::load(engine.clone(), &options)?;
        let width = model.vocabulary();
        let mut prompts = Vec::new();
        for prompt in &reference.prompts {
            let columns = prompt.logits.len() / prompt.ids.len();
            if columns != width {
                let name = engraft_diagnostic::escape(&prompt.name);
                let reason = format!(
                    "`logits_{name}` has {columns} columns, and the model's vocabulary is {width}"
                );
                return Err(ReferenceError::new(&reference.path, reason).into());
            }
            let got = evaluate::logits(&mut model, std::slice::from_ref(&prompt.ids))?;
            let mut compared = compare(prompt, &got.concat(), width, tolerance);
            if let Some(want) = prompt.greedy.as_ref().filter(|greedy| !greedy.is_empty()) {
                let got = continuation(&mut model, &prompt.ids, want.len())?;
                compared.greedy = Some(follow(want, &got, tolerance, |step| {
                    let ids = [&prompt.ids[..], &want[..step]].concat();
                    let rows = evaluate::logits(&mut model, &[ids])?.concat();
                    Ok(rows[rows.len() - width..].to_vec())
                })?);
            }
            prompts.push(compared);
        }
        let has_hidden = reference.prompts.iter().any(|prompt| prompt.hidden.is_some());
        let mut parity = Parity { tolerance, prompts, place: None, has_hidden };
        if has_hidden && parity.prompts.iter().any(|p| !near(p.distance, tolerance)) {
            parity.place = Some(departing_place(&engine, reference, tolerance)?);
        }
        Ok(parity)
    }

    /// Whether all of it is near enough.
    pub fn passed(&self) -> bool {
        self.prompts.iter().all(|p| {
            near(p.distance, self.tolerance) && p.greedy.as_ref().is_none_or(Greedy::passed)
        })
    }

    /// One line.
    pub fn found(&self) -> String {
        // A maximum by total order, in which what is not a number is largest.
        let worst = self.prompts.iter().map(|p| p.distance).max_by(f64::total_cmp).unwrap_or(0.0);
        let tolerance = self.tolerance;
        let greedy: Vec<&Greedy> = self.prompts.iter().filter_map(|p| p.greedy.as_ref()).collect();
        let same = greedy.iter().filter(|greedy| greedy.passed()).count();
        let logits = format!("relative L2 at most {worst:.1e} (allowed {tolerance:.1e})");
        match greedy.is_empty() {
            true => logits,
            false => format!("{logits}; {same} of {} greedy continuations the same", greedy.len()),
        }
    }

    /// Prompt by prompt.
    pub fn section(&self) -> (String, Value) {
        let mut text = String::new();
        for p in &self.prompts {
            let name = engraft_diagnostic::escape(&p.name);
            let mark = if near(p.distance, self.tolerance) { "ok" } else { "FAILED" };
            text += &format!(
                "  {mark} prompt {name}: relative L2 {:.1e}; the largest logit is the same at {} of {} positions\n",
                p.distance, p.agree, p.tokens
            );
            if let Some(Departure { position, distance, worst: (id, got, want) }) = p.departs {
                text += &format!(
                    "     departs first at position {position} ({distance:.1e}); its logit {id} is {got}, and should be {want}\n"
                );
            }
            match p.greedy {
                Some(Greedy { steps, differs: None }) => {
                    text += &format!("     the same greedy continuation of {steps} tokens\n");
                }
                Some(Greedy { steps, differs: Some((step, ours, want, tie)) }) => {
                    let why = if tie { ", as near as a tie" } else { "" };
                    text += &format!(
                        "     its greedy continuation differs at step {step} of {steps}: token {ours}, not {want}{why}\n"
                    );
                }
                None => {}
            }
        }
        if let Some(place) = &self.place {
            text += &format!("  {place}\n");
        }
        let one = |p: &Compared| {
            json!({
                "prompt": p.name, "tokens": p.tokens, "relative_l2": p.distance,
                "same_largest_logit": p.agree,
                "departs_at": p.departs.as_ref().map(|d| d.position),
                "greedy": p.greedy.as_ref().map(|g| json!({
                    "steps": g.steps,
                    "differs_at": g.differs.map(|(step, ..)| step),
                    "tie": g.differs.map(|(.., tie)| tie),
                })),
            })
        };
        let prompts: Vec<_> = self.prompts.iter().map(one).collect();
        let details = json!({
            "passed": self.passed(), "tolerance": self.tolerance, "prompts": prompts,
            "departs_in": self.place,
        });
        (text, details)
    }

    /// What to look at, where it failed.
    pub fn advice(&self) -> Vec<String> {
        let mut advice = Vec::new();
        let far = || self.prompts.iter().filter(|p| !near(p.distance, self.tolerance));
        let first = far().filter_map(|p| p.departs.as_ref()).map(|d| d.position).min();
        match first {
            Some(0) => advice.push(
                "position 0 departs, where no token sees another and nothing is turned: look at \
                 norms, epsilon, biases, activations, scales and the layout of weights first"
                    .into(),
            ),
            Some(n) => advice.push(format!(
                "positions before {n} agree: look at what depends on position first: rotary \
                 embedding, attention's scale, window and mask"
            )),
            None => {}
        }
        if first.is_some() && !self.has_hidden {
            advice.push(
                "to be told which block departs, give the reference `hidden_K` too (F32 [blocks, \
                 tokens, hidden_size]): in transformers, torch.cat(output.hidden_states[:-1])"
                    .into(),
            );
        }
        advice
    }
}

/// The greedy continuation of a prompt; no token ends it.
fn continuation(model: &mut Model, prompt: &[u32], steps: usize) -> Result<Vec<u32>> {
    let mut generator = Generator::new(model, None);
    let max_output_len = Some(steps);
    generator.submit(Request { prompt: prompt.to_vec(), max_output_len, ..Request::default() })?;
    Ok(generator.run(|_| {})?.into_iter().flat_map(|answer| answer.ids).collect())
}

/// The place whose input agrees with the reference and whose output does not: what each place
/// hands on is what the next block takes.
fn departing_place(engine: &Arc<Engine>, reference: &Reference, tolerance: f64) -> Result<String> {
    let blocks = engine.graph().places.len().saturating_sub(2);
    let given: Vec<(&Prompt, &Hidden)> =
        reference.prompts.iter().filter_map(|p| Some((p, p.hidden.as_ref()?))).collect();
    let known = given.iter().map(|(_, h)| h.blocks.len()).min().unwrap_or(0).min(blocks);
    let Some(last) = known.checked_sub(1) else {
        return Ok("hidden states tell nothing: the model has no blocks".into());
    };
    let tokens = given.iter().map(|(p, _)| p.ids.len()).max().unwrap_or(1);
    let mut taps = match Taps::load(std::slice::from_ref(engine), tokens, &LoadOptions::default()) {
        Err(RuntimeError::Unsupported { .. }) => {
            return Ok("hidden states cannot be compared: what blocks take has no width".into());
        }
        loaded => loaded?,
    };
    let mut first = known;
    for (prompt, hidden) in &given {
        let mut places = taps.places().iter().take(known).enumerate();
        if let Some((block, (_, width))) = places.find(|(_, (_, width))| *width != hidden.width) {
            let reason = format!(
                "`hidden_{}` has {} columns, and what block {block} takes has {width}",
                engraft_diagnostic::escape(&prompt.name),
                hidden.width,
            );
            return Err(ReferenceError::new(&reference.path, reason).into());
        }
        let taken = taps.run(&prompt.ids)?;
        let mut pairs = taken.iter().zip(&hidden.blocks).take(first);
        let departs = pairs.position(|(got, want)| !near(distance(got, want), tolerance));
        first = departs.unwrap_or(first);
    }
    if first == known {
        let so_far = format!("what block {last} takes agrees: block {last} or");
        return Ok(match known == blocks {
            true => format!("{so_far} the head departs"),
            false => format!("{so_far} a later one departs"),
        });
    }
    let place = taps.places()[first].0;
    Ok(format!(
        "{place} departs: what it takes agrees with the reference, what it returns does not"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(logits: &[f32]) -> Prompt {
        let ids = vec![1; logits.len() / 2];
        Prompt { name: "0".into(), ids, logits: logits.to_vec(), greedy: None, hidden: None }
    }

    #[test]
    fn the_first_position_that_departs_is_found_with_its_worst_logit() {
        let wanted = prompt(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let same = compare(&wanted, &wanted.logits, 2, 1e-4);
        assert!(same.departs.is_none() && same.distance == 0.0 && same.agree == 3);
        let other = compare(&wanted, &[1.0, 2.0, 3.0, 2.5, 5.0, 6.0], 2, 1e-4);
        let departs = other.departs.unwrap();
        assert_eq!((departs.position, departs.worst), (1, (1, 2.5, 4.0)));
        assert_eq!(other.agree, 2);
    }

    #[test]
    fn what_is_no_number_is_never_near() {
        let got = compare(&prompt(&[1.0, 2.0]), &[f32::NAN, 2.0], 2, 1e9);
        assert!(got.departs.is_some() && !near(got.distance, 1e9));
    }

    #[test]
    fn a_tie_is_told_from_another_continuation() {
        let follow = |row: [f32; 2]| follow(&[0, 0], &[0, 1], 1e-4, |_| Ok(row.to_vec())).unwrap();
        assert_eq!(follow([1.0, 2.0]).differs, Some((1, 1, 0, false)));
        assert_eq!(follow([1.0, 1.00001]).differs, Some((1, 1, 0, true)));
        assert!(super::follow(&[5], &[5], 1e-4, |_| unreachable!()).unwrap().passed());
    }
}
