//! From logits to a token.
//!
//! The order is that of HuggingFace's `generate`: repetition penalty, temperature, top-k, top-p,
//! min-p, then one draw. Temperature 0 takes the largest logit after the penalty, and of equal
//! ones that of the lowest id. The draw has a generator of its own a request, so that what else
//! is in the batch cannot change it.

use crate::error::RuntimeError;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::cmp::Ordering;

/// How tokens are chosen. The default is greedy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; 0 is greedy, and what follows then has no effect.
    pub temperature: f32,
    /// Only so many of the largest logits, and what equals the last of them; 0 is all.
    pub top_k: usize,
    /// Only the most probable that together reach this probability; 1 is all.
    pub top_p: f32,
    /// Only what is at least this many times as probable as the most probable; 0 is all.
    pub min_p: f32,
    /// Logits of tokens seen before, in the prompt too, are divided by it where they are
    /// positive and multiplied where negative; 1 changes nothing.
    pub repetition_penalty: f32,
    /// What the draws come from.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
        }
    }
}

impl Sampling {
    /// Whether every number is in its range.
    ///
    /// # Errors
    /// [`RuntimeError::BadSampling`] names the flag.
    pub fn check(&self) -> Result<(), RuntimeError> {
        let bad = |name, value: f32, reason| {
            Err(RuntimeError::BadSampling { name, value: value.to_string(), reason })
        };
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return bad("--temperature", self.temperature, "it must be 0 or more");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return bad("--top_p", self.top_p, "it must be above 0 and at most 1");
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return bad("--min_p", self.min_p, "it must be between 0 and 1");
        }
        if !(self.repetition_penalty.is_finite() && self.repetition_penalty > 0.0) {
            return bad("--repetition_penalty", self.repetition_penalty, "it must be above 0");
        }
        Ok(())
    }
}

/// The id of the largest logit; of equal ones the lowest. NaN is never the largest.
pub fn argmax(logits: &[f32]) -> u32 {
    // Lanes, so that the compiler makes vectors of it; the second pass finds the first equal.
    const LANES: usize = 32;
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = logits.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    let largest =
        lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m });
    logits.iter().position(|&x| x == largest).unwrap_or(0) as u32
}

/// The sampling of one request.
#[derive(Clone, Debug)]
pub struct Sampler {
    options: Sampling,
    random: ChaCha8Rng,
    /// Ids seen, each once, in no order.
    seen: Vec<u32>,
    known: Vec<bool>,
    scratch: Vec<f32>,
    candidates: Vec<Candidate>,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: u32,
    logit: f32,
}

/// More probable first, then the lower id.
fn order(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

impl Sampler {
    /// A sampler for a request with this prompt.
    ///
    /// # Errors
    /// See [`Sampling::check`].
    pub fn new(options: Sampling, prompt: &[u32]) -> Result<Sampler, RuntimeError> {
        options.check()?;
        let mut sampler = Sampler {
            options,
            random: ChaCha8Rng::seed_from_u64(options.seed),
            seen: Vec::new(),
            known: Vec::new(),
            scratch: Vec::new(),
            candidates: Vec::new(),
        };
        prompt.iter().for_each(|&token| sampler.see(token));
        Ok(sampler)
    }

    fn see(&mut self, token: u32) {
        if self.options.repetition_penalty == 1.0 {
            return;
        }
        let index = token as usize;
        if self.known.len() <= index {
            self.known.resize(index + 1, false);
        }
        if !std::mem::replace(&mut self.known[index], true) {
            self.seen.push(token);
        }
    }

    /// The next token, and remembers it.
    pub fn sample(&mut self, logits: &[f32]) -> u32 {
        let penalty = self.options.repetition_penalty;
        let token = if penalty == 1.0 {
            self.choose(logits)
        } else {
            let mut changed = std::mem::take(&mut self.scratch);
            changed.clear();
            changed.extend_from_slice(logits);
            for &id in &self.seen {
                if let Some(x) = changed.get_mut(id as usize) {
                    *x = if *x < 0.0 { *x * penalty } else { *x / penalty };
                }
            }
            let token = self.choose(&changed);
            self.scratch = changed;
            token
        };
        self.see(token);
        token
    }

    fn choose(&mut self, logits: &[f32]) -> u32 {
        if self.options.temperature == 0.0 {
            return argmax(logits);
        }
        let temperature = self.options.temperature;
        self.candidates.clear();
        self.candidates.extend(
            logits
                .iter()
                .zip(0u32..)
                .filter(|(x, _)| **x > f32::NEG_INFINITY)
                .map(|(&x, id)| Candidate { id, logit: x / temperature }),
        );
        self.keep_top_k();
        self.keep_top_p();
        self.keep_min_p();
        self.draw(argmax(logits))
    }

    fn keep_top_k(&mut self) {
        let k = self.options.top_k;
        if k == 0 || k >= self.candidates.len() {
            return;
        }
        let (_, last, _) = self.candidates.select_nth_unstable_by(k - 1, order);
        let least = last.logit;
        self.candidates.retain(|c| c.logit >= least);
    }

    fn largest(&self) -> f64 {
        self.candidates.iter().map(|c| f64::from(c.logit)).fold(f64::NEG_INFINITY, f64::max)
    }

    fn keep_top_p(&mut self) {
        let p = f64::from(self.options.top_p);
        if p >= 1.0 {
            return;
        }
        let largest = self.largest();
        let weight = |c: &Candidate| (f64::from(c.logit) - largest).exp();
        let total: f64 = self.candidates.iter().map(weight).sum();
        // The nucleus is short as a rule, so only a head of the list is sorted, and more of it
        // when that was not enough.
        let mut head = 64;
        loop {
            head = head.min(self.candidates.len());
            if head < self.candidates.len() {
                self.candidates.select_nth_unstable_by(head, order);
            }
            self.candidates[..head].sort_unstable_by(order);
            let mut sum = 0.0;
            let reached = self.candidates[..head].iter().position(|c| {
                sum += weight(c);
                sum >= p * total
            });
            match reached {
                Some(last) => return self.candidates.truncate(last + 1),
                None if head == self.candidates.len() => return,
                None => head *= 8,
            }
        }
    }

    fn keep_min_p(&mut self) {
        let min_p = f64::from(self.options.min_p);
        if min_p > 0.0 {
            let largest = self.largest();
            self.candidates.retain(|c| (f64::from(c.logit) - largest).exp() >= min_p);
        }
    }

    fn draw(&mut self, fallback: u32) -> u32 {
        self.candidates.sort_unstable_by_key(|c| c.id);
        let largest = self.largest();
        let weight = |c: &Candidate| (f64::from(c.logit) - largest).exp();
        let total: f64 = self.candidates.iter().map(weight).sum();
        let mut left = self.random.random::<f64>() * total;
        for c in &self.candidates {
            left -= weight(c);
            if left < 0.0 {
                return c.id;
            }
        }
        self.candidates.last().map_or(fallback, |c| c.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 6] = [1.0, 3.0, -2.0, 2.0, 3.0, 0.0];

    fn kept(options: Sampling, logits: &[f32]) -> Vec<u32> {
        let mut counts = vec![0; logits.len()];
        let mut sampler = Sampler::new(options, &[]).expect("options");
        for _ in 0..4000 {
            counts[sampler.sample(logits) as usize] += 1;
        }
        (0..).zip(counts).filter(|(_, n)| *n > 0).map(|(id, _)| id).collect()
    }

    fn warm() -> Sampling {
        Sampling { temperature: 1.0, ..Sampling::default() }
    }

    #[test]
    fn greedy_takes_the_lowest_id_of_equal_ones() {
        assert_eq!(argmax(&LOGITS), 1);
        let mut many = vec![0.0; 1000];
        many[997] = 5.0;
        many[70] = 5.0;
        assert_eq!(argmax(&many), 70);
        assert_eq!(argmax(&[f32::NAN, -1.0, f32::NAN]), 1);
        assert_eq!(argmax(&[f32::NEG_INFINITY, f32::NEG_INFINITY]), 0);
        assert_eq!(Sampler::new(Sampling::default(), &[]).expect("greedy").sample(&LOGITS), 1);
    }

    #[test]
    fn a_seed_gives_its_sequence_again_and_another_one_another() {
        let draw = |seed| {
            let mut s = Sampler::new(Sampling { seed, ..warm() }, &[]).expect("options");
            (0..50).map(|_| s.sample(&LOGITS)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn draws_come_as_often_as_their_probability() {
        let mut sampler = Sampler::new(Sampling { seed: 3, ..warm() }, &[]).expect("options");
        let n = 40_000;
        let ones = (0..n).filter(|_| sampler.sample(&[0.0, 3f32.ln()]) == 1).count();
        assert!((ones as f64 / n as f64 - 0.75).abs() < 0.01, "{ones}");
    }

    #[test]
    fn top_k_keeps_the_largest_and_their_equals() {
        assert_eq!(kept(Sampling { top_k: 1, ..warm() }, &LOGITS), [1, 4]);
        assert_eq!(kept(Sampling { top_k: 3, ..warm() }, &LOGITS), [1, 3, 4]);
        assert_eq!(kept(Sampling { top_k: 99, ..warm() }, &LOGITS).len(), 6);
    }

    #[test]
    fn top_p_keeps_the_fewest_that_reach_it() {
        let logits = [0.5f32.ln(), 0.3f32.ln(), 0.15f32.ln(), 0.05f32.ln()];
        assert_eq!(kept(Sampling { top_p: 0.01, ..warm() }, &logits), [0]);
        assert_eq!(kept(Sampling { top_p: 0.6, ..warm() }, &logits), [0, 1]);
        assert_eq!(kept(Sampling { top_p: 0.9, ..warm() }, &logits), [0, 1, 2]);
        let flat = vec![0.0; 1000];
        let mut sampler = Sampler::new(Sampling { top_p: 0.5, ..warm() }, &[]).expect("options");
        assert!((0..200).all(|_| sampler.sample(&flat) < 500), "beyond the sorted head");
    }

    #[test]
    fn min_p_is_relative_to_the_most_probable() {
        let logits = [0.5f32.ln(), 0.3f32.ln(), 0.15f32.ln(), 0.05f32.ln()];
        assert_eq!(kept(Sampling { min_p: 0.5, ..warm() }, &logits), [0, 1]);
        assert_eq!(kept(Sampling { min_p: 0.25, ..warm() }, &logits), [0, 1, 2]);
        assert_eq!(kept(Sampling { min_p: 1.0, ..warm() }, &logits), [0]);
    }

    #[test]
    fn the_penalty_divides_positive_and_multiplies_negative_logits_once() {
        let options = Sampling { repetition_penalty: 2.0, ..Sampling::default() };
        let mut sampler = Sampler::new(options, &[1, 1, 1]).expect("options");
        // 3/2 = 1.5 beats 1.4 although it was seen thrice; afterwards nothing changes.
        assert_eq!(sampler.sample(&[1.4, 3.0]), 1);
        assert_eq!(sampler.sample(&[1.6, 3.0]), 0);
        let mut sampler = Sampler::new(options, &[0]).expect("options");
        assert_eq!(sampler.sample(&[-1.0, -1.5]), 1);
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        for bad in [
            Sampling { temperature: -1.0, ..warm() },
            Sampling { temperature: f32::NAN, ..warm() },
            Sampling { top_p: 0.0, ..warm() },
            Sampling { top_p: 1.5, ..warm() },
            Sampling { min_p: -0.1, ..warm() },
            Sampling { repetition_penalty: 0.0, ..warm() },
        ] {
            assert!(matches!(Sampler::new(bad, &[]), Err(RuntimeError::BadSampling { .. })));
        }
    }
}
