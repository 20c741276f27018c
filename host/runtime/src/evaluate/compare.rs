//! How far a model is from a reference: Kullback-Leibler divergence, agreement, perplexity.
//!
//! Both models see the same windows of a text, cut as [`super::perplexity`] cuts them. They run
//! side by side and a few rows at a time: the logits of no window are ever held whole.

use super::{Window, windows};
use crate::batcher::{Batcher, Step};
use crate::error::RuntimeError;
use crate::model::Model;
use crate::sampler::argmax;
use serde::Serialize;

/// A model beside a reference, over the scored tokens of a text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Tokens of the text.
    pub tokens: usize,
    /// Tokens that the models see at a time.
    pub window: usize,
    /// Tokens between the beginnings of windows.
    pub stride: usize,
    /// Tokens that were predicted.
    pub scored: usize,
    /// The mean over them of `KL(reference ‖ model) = Σ p_ref · (ln p_ref − ln p)`, in nats.
    pub mean_kl: f64,
    /// The standard error of that mean, as if positions were independent: the standard deviation
    /// over `√scored`.
    pub kl_standard_error: f64,
    /// The largest.
    pub max_kl: f64,
    /// The token that was predicted where it is.
    pub max_kl_at: usize,
    /// The share of positions at which both have the same largest logit.
    pub top1: f64,
    /// `exp` of the model's mean negative log-likelihood.
    pub perplexity: f64,
    /// The same of the reference.
    pub reference_perplexity: f64,
    /// By how much of the reference's the model's perplexity is larger, in percent.
    pub perplexity_change: f64,
}

/// Compares a model with a reference over a text. `progress` is told how many tokens are scored
/// so far, of how many.
///
/// # Errors
/// As [`super::perplexity`], for either; vocabularies of two sizes; logits that are not finite.
pub fn compare(
    model: &mut Model,
    reference: &mut Model,
    ids: &[u32],
    window: usize,
    stride: usize,
    mut progress: impl FnMut(usize, usize),
) -> Result<Comparison, RuntimeError> {
    let sizes = [model.vocabulary(), reference.vocabulary()];
    if sizes[0] != sizes[1] {
        return Err(RuntimeError::Incomparable {
            reason: format!(
                "the vocabulary of one has {} entries, of the other {}",
                sizes[0], sizes[1]
            ),
        });
    }
    windows(reference, ids.len(), window, stride)?;
    let windows = windows(model, ids.len(), window, stride)?;
    let total = windows.iter().map(|w| w.scored).sum();
    let mut sums = Sums::default();
    for &Window { begin, end, first_scored, .. } in &windows {
        // The last token of a window predicts nothing that it holds.
        let prompt = &ids[begin..end - 1];
        side_by_side([model, reference], prompt, first_scored - 1 - begin, |position, rows| {
            let predicted = begin + position + 1;
            sums.add(predicted, Score::of(rows[0], rows[1], ids[predicted]))
        })?;
        progress(sums.scored, total);
    }
    Ok(sums.comparison(ids.len(), window, stride))
}

/// Runs one prompt on two models and shows their rows from position `first` on, in pairs.
///
/// # Errors
/// As [`Batcher::join`] and [`Batcher::step`], and what `look` says.
pub(super) fn side_by_side(
    models: [&mut Model; 2],
    prompt: &[u32],
    first: usize,
    mut look: impl FnMut(usize, [&[f32]; 2]) -> Result<(), RuntimeError>,
) -> Result<(), RuntimeError> {
    let widths = [models[0].vocabulary(), models[1].vocabulary()];
    let mut sides = models.map(|model| (Batcher::new(model), Vec::<f32>::new()));
    for (batcher, _) in &mut sides {
        batcher.join(prompt, first, 0)?;
    }
    let mut position = first;
    while position < prompt.len() {
        // One may give more rows a step than the other.
        for (batcher, rows) in &mut sides {
            while rows.is_empty() && !batcher.is_idle() {
                batcher.step(|_, _, row| {
                    rows.extend_from_slice(row);
                    Ok(Step::Read)
                })?;
            }
        }
        let [(_, left), (_, right)] = &mut sides;
        let pairs = left.chunks_exact(widths[0]).zip(right.chunks_exact(widths[1]));
        let count = pairs.len();
        if count == 0 {
            let reason = format!("position {position} of {} gave no row", prompt.len());
            return Err(RuntimeError::Bug { reason });
        }
        for (left, right) in pairs {
            look(position, [left, right])?;
            position += 1;
        }
        left.drain(..count * widths[0]);
        right.drain(..count * widths[1]);
    }
    Ok(())
}

/// One position.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Score {
    kl: f64,
    /// Negative log-likelihoods of the token that follows: the model's, the reference's.
    nll: [f64; 2],
    /// Whether both have the same largest logit.
    agrees: bool,
}

impl Score {
    /// Of the logits of both and the token that follows. With logits `l` and `Z = ln Σ exp l`,
    /// `KL = Σ p_ref · (l_ref − l) − (Z_ref − Z)`: of equal logits exactly 0.
    fn of(logits: &[f32], reference: &[f32], next: u32) -> Score {
        let largest =
            |row: &[f32]| f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let (top, top_reference) = (largest(logits), largest(reference));
        let (mut sum, mut sum_reference, mut apart) = (0.0, 0.0, 0.0);
        for (&x, &r) in logits.iter().zip(reference) {
            let (x, r) = (f64::from(x), f64::from(r));
            sum += (x - top).exp();
            let weight = (r - top_reference).exp();
            sum_reference += weight;
            // What the reference rules out has no share, whatever the model says.
            if weight != 0.0 {
                apart += weight * (r - x);
            }
        }
        let [z, z_reference] = [top + sum.ln(), top_reference + sum_reference.ln()];
        let kl = apart / sum_reference - (z_reference - z);
        let nll = |z: f64, row: &[f32]| z - f64::from(row[next as usize]);
        Score {
            // Rounding may leave less than nothing of a divergence that is nothing.
            kl: if kl < 0.0 { 0.0 } else { kl },
            nll: [nll(z, logits), nll(z_reference, reference)],
            agrees: argmax(logits) == argmax(reference),
        }
    }
}

/// What is kept of all positions.
#[derive(Default)]
struct Sums {
    scored: usize,
    kl: f64,
    kl_squared: f64,
    max_kl: f64,
    max_kl_at: usize,
    nll: [f64; 2],
    agree: usize,
}

impl Sums {
    fn add(&mut self, token: usize, score: Score) -> Result<(), RuntimeError> {
        if !(score.kl + score.nll[0] + score.nll[1]).is_finite() {
            return Err(RuntimeError::Incomparable {
                reason: format!("logits that predict token {token} are not finite"),
            });
        }
        self.scored += 1;
        self.kl += score.kl;
        self.kl_squared += score.kl * score.kl;
        if score.kl > self.max_kl {
            (self.max_kl, self.max_kl_at) = (score.kl, token);
        }
        self.nll[0] += score.nll[0];
        self.nll[1] += score.nll[1];
        self.agree += usize::from(score.agrees);
        Ok(())
    }

    fn comparison(&self, tokens: usize, window: usize, stride: usize) -> Comparison {
        let count = self.scored as f64;
        let mean_kl = self.kl / count;
        // Of a sample, where there is more than one.
        let variance = (self.kl_squared - count * mean_kl * mean_kl) / (count - 1.0).max(1.0);
        let [perplexity, reference_perplexity] = self.nll.map(|sum| (sum / count).exp());
        Comparison {
            tokens,
            window,
            stride,
            scored: self.scored,
            mean_kl,
            kl_standard_error: (variance.max(0.0) / count).sqrt(),
            max_kl: self.max_kl,
            max_kl_at: self.max_kl_at,
            top1: self.agree as f64 / count,
            perplexity,
            reference_perplexity,
            perplexity_change: 100.0 * (perplexity / reference_perplexity - 1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::perplexity;
    use crate::testing;
    use engraft_ir::DType;

    fn near(found: f64, wanted: f64) {
        assert!((found - wanted).abs() < 1e-12, "{found} is not {wanted}");
    }

    #[test]
    fn a_divergence_is_that_of_shares_worked_by_hand() {
        // Shares of 1/4, 1/2, 1/4 and, by the reference, 1/2, 1/4, 1/4; a shift changes nothing.
        let two = std::f32::consts::LN_2;
        let score = Score::of(&[-7.0, two - 7.0, -7.0], &[two, 0.0, 0.0], 1);
        let close = |found: f64, wanted: f64| {
            assert!((found - wanted).abs() < 1e-6, "{found} is not {wanted}");
        };
        // 1/2 · ln 2 + 1/4 · ln 1/2 + 1/4 · ln 1
        close(score.kl, 0.25 * 2f64.ln());
        close(score.nll[0], 2f64.ln());
        close(score.nll[1], 4f64.ln());
        assert!(!score.agrees);
    }

    #[test]
    fn a_certain_reference_is_as_far_as_the_models_loss() {
        let score = Score::of(&[0.0; 4], &[1000.0, 0.0, 0.0, 0.0], 0);
        near(score.kl, 4f64.ln());
        near(score.nll[0], 4f64.ln());
        near(score.nll[1], 0.0);
        assert!(score.agrees);
        // It is not the same the other way: what the model rules out costs without bound.
        near(Score::of(&[1000.0, 0.0, 0.0, 0.0], &[0.0; 4], 0).kl, 750.0 - 4f64.ln());
    }

    #[test]
    fn what_the_reference_rules_out_has_no_share() {
        let score = Score::of(&[0.0, 0.0], &[5.0, f32::NEG_INFINITY], 0);
        near(score.kl, 2f64.ln());
    }

    #[test]
    fn equal_logits_are_not_apart_by_one_bit() {
        let row: Vec<f32> = (0..97).map(|i| (i as f32 * 0.37).sin() * 9.0).collect();
        assert_eq!(Score::of(&row, &row, 3).kl, 0.0);
    }

    #[test]
    fn sums_are_means_and_their_error() {
        let mut sums = Sums::default();
        for (token, kl) in [(1, 1.0), (2, 3.0), (3, 2.0), (4, 2.0)] {
            let nll = [2f64.ln(), 1f64.ln()];
            sums.add(token, Score { kl, nll, agrees: token != 2 }).unwrap();
        }
        let found = sums.comparison(5, 5, 5);
        near(found.mean_kl, 2.0);
        // Deviations of 1, 1, 0, 0: a variance of 2/3, over four.
        near(found.kl_standard_error, (2.0f64 / 3.0 / 4.0).sqrt());
        assert_eq!((found.max_kl, found.max_kl_at, found.scored), (3.0, 2, 4));
        near(found.top1, 0.75);
        near(found.perplexity, 2.0);
        near(found.reference_perplexity, 1.0);
        near(found.perplexity_change, 100.0);
        let wrong = Score { kl: f64::NAN, nll: [0.0; 2], agrees: false };
        let refused = sums.add(9, wrong).unwrap_err().to_string();
        assert!(refused.contains("token 9"), "{refused}");
    }

    fn text(tokens: usize) -> Vec<u32> {
        (0..tokens).map(|t| ((t * t + 3 * t) % testing::VOCABULARY) as u32).collect()
    }

    #[test]
    fn a_model_is_not_apart_from_itself_and_a_rounded_one_is_a_little() {
        // Rows come in other numbers a step on either side.
        let small = crate::LoadOptions { max_num_tokens: Some(7), ..testing::options() };
        let mut model = testing::model(&small);
        let mut same = testing::model(&testing::options());
        let ids = text(50);
        let found = compare(&mut model, &mut same, &ids, 20, 8, |_, _| {}).unwrap();
        assert_eq!((found.mean_kl, found.max_kl, found.top1), (0.0, 0.0, 1.0));
        assert_eq!(found.perplexity_change, 0.0);
        let alone = perplexity(&mut same, &ids, 20, 8, |_, _| {}).unwrap();
        assert_eq!(found.scored, alone.scored);
        assert!((found.perplexity / alone.perplexity - 1.0).abs() < 1e-12);

        let rounded = testing::graph_of(2, DType::BF16);
        let mut rounded = testing::model_of(rounded, &testing::options());
        let found = compare(&mut rounded, &mut model, &ids, 20, 8, |_, _| {}).unwrap();
        assert!(found.mean_kl > 0.0 && found.mean_kl < 0.01, "{found:?}");
        assert!(found.max_kl > found.mean_kl && found.kl_standard_error < found.mean_kl);
    }
}
