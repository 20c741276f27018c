//! Logits, perplexity, and how far one model is from another.

mod compare;
mod taps;

pub use compare::{Comparison, compare};
pub use taps::{Departure, Taps, departures, same_places};

use crate::batcher::{Batcher, RequestId, Step};
use crate::error::RuntimeError;
use crate::model::Model;
use serde::Serialize;
use std::collections::BTreeMap;

/// The logits of every position of every prompt, `[tokens × vocabulary]` each, all prompts in
/// packed batches.
///
/// # Errors
/// A prompt that cannot run: see [`Batcher::join`].
pub fn logits(model: &mut Model, prompts: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, RuntimeError> {
    let mut batcher = Batcher::new(model);
    let mut answers: Vec<Vec<f32>> = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        batcher.join(prompt, 0, 0)?;
        answers.push(Vec::new());
    }
    while !batcher.is_idle() {
        batcher.step(|RequestId(id), _, row| {
            answers[id as usize].extend_from_slice(row);
            Ok(Step::Read)
        })?;
    }
    Ok(answers)
}

/// What a perplexity was computed over, and what came out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Perplexity {
    /// Tokens of the text.
    pub tokens: usize,
    /// Tokens that the model sees at a time.
    pub window: usize,
    /// Tokens between the beginnings of windows.
    pub stride: usize,
    /// Tokens that were predicted.
    pub scored: usize,
    /// Sum of the negative log-likelihoods, in nats.
    pub nll_sum: f64,
    /// Their mean.
    pub mean_nll: f64,
    /// `exp(mean_nll)`
    pub perplexity: f64,
    /// One an entry, in order.
    pub windows: Vec<Window>,
}

/// One window of a perplexity.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Window {
    /// Its first token.
    pub begin: usize,
    /// The token after its last.
    pub end: usize,
    /// The first token that it scores: those before were scored by earlier windows.
    pub first_scored: usize,
    /// How many it scores.
    pub scored: usize,
    /// Sum of their negative log-likelihoods.
    pub nll_sum: f64,
}

/// The windows of a text, for a model that can run them.
///
/// # Errors
/// As [`perplexity`].
fn windows(
    model: &Model,
    tokens: usize,
    window: usize,
    stride: usize,
) -> Result<Vec<Window>, RuntimeError> {
    let bad = |reason: String| Err(RuntimeError::BadPerplexity { reason });
    let limit = model.limits().max_seq_len;
    if tokens < 2 {
        return bad(format!("the text has {tokens} tokens, and the first is never scored"));
    }
    if window < 2 || window > limit {
        return bad(format!("a window of {window} is not between 2 and {limit}"));
    }
    if stride == 0 || stride > window {
        return bad(format!("a stride of {stride} is not between 1 and the window's {window}"));
    }
    Ok(cut(tokens, window, stride))
}

/// Which windows there are: window `k` holds tokens `[k·stride, k·stride + window)` and scores
/// those that no earlier one held. Its own first token has nothing before it and is not scored.
fn cut(tokens: usize, window: usize, stride: usize) -> Vec<Window> {
    let mut windows = Vec::new();
    let (mut begin, mut held) = (0, 0);
    while held < tokens {
        let end = tokens.min(begin + window);
        let first_scored = held.max(begin + 1);
        if end > first_scored {
            let scored = end - first_scored;
            windows.push(Window { begin, end, first_scored, scored, nll_sum: 0.0 });
        }
        held = end;
        begin += stride;
    }
    windows
}

/// `-log softmax(logits)[token]` in double precision.
fn nll(logits: &[f32], token: u32) -> f64 {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|&x| (f64::from(x) - largest).exp()).sum();
    largest + sum.ln() - f64::from(logits[token as usize])
}

/// The perplexity of a text by HuggingFace's definition with a strided window. `progress` is
/// told how many tokens are scored so far, of how many.
///
/// # Errors
/// A text of fewer than two tokens, a window that is empty or longer than the model's
/// `max_seq_len`, a stride that is zero or larger than the window.
pub fn perplexity(
    model: &mut Model,
    ids: &[u32],
    window: usize,
    stride: usize,
    mut progress: impl FnMut(usize, usize),
) -> Result<Perplexity, RuntimeError> {
    let mut windows = windows(model, ids.len(), window, stride)?;
    let mut batcher = Batcher::new(model);
    let mut running: BTreeMap<RequestId, usize> = BTreeMap::new();
    let mut next = 0;
    let total = windows.iter().map(|w| w.scored).sum();
    let mut scored = 0;
    while next < windows.len() || !batcher.is_idle() {
        // Two at a time: enough to fill a step, and no more ids are copied than are needed.
        while next < windows.len() && running.len() < 2 {
            let Window { begin, end, first_scored, .. } = windows[next];
            // The last token of a window predicts nothing that it holds.
            let id = batcher.join(&ids[begin..end - 1], first_scored - 1 - begin, 0)?;
            running.insert(id, next);
            next += 1;
        }
        batcher.step(|id, position, row| {
            let Some(&at) = running.get(&id) else { return Ok(Step::Leave) };
            let entry = &mut windows[at];
            let predicted = entry.begin + position + 1;
            entry.nll_sum += nll(row, ids[predicted]);
            scored += 1;
            if predicted + 1 == entry.end {
                running.remove(&id);
            }
            Ok(Step::Read)
        })?;
        progress(scored, total);
    }
    let nll_sum: f64 = windows.iter().map(|w| w.nll_sum).sum();
    let mean_nll = nll_sum / scored as f64;
    Ok(Perplexity {
        tokens: ids.len(),
        window,
        stride,
        scored,
        nll_sum,
        mean_nll,
        perplexity: mean_nll.exp(),
        windows,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::argmax;
    use crate::testing;

    fn text(tokens: usize) -> Vec<u32> {
        (0..tokens).map(|t| ((t * t + 3 * t) % testing::VOCABULARY) as u32).collect()
    }

    #[test]
    fn all_positions_at_once_give_the_bits_of_one_at_a_time() {
        let mut model = testing::model(&testing::options());
        let ids = text(37);
        let all = logits(&mut model, &[ids[..5].to_vec(), ids.clone()]).expect("runs").remove(1);
        let mut one_by_one = Vec::new();
        let mut batcher = Batcher::new(&mut model);
        batcher.join(&ids[..1], 0, ids.len()).expect("joins");
        while !batcher.is_idle() {
            batcher
                .step(|_, position, row| {
                    one_by_one.extend_from_slice(row);
                    Ok(ids.get(position + 1).map_or(Step::Leave, |&id| Step::Append(id)))
                })
                .expect("a step");
        }
        assert_eq!(all, one_by_one);
        assert!(all.iter().all(|x| x.is_finite()));
        let rows = || all.chunks(testing::VOCABULARY).map(argmax);
        assert!(rows().any(|id| Some(id) != rows().next()), "the model says different things");
    }

    #[test]
    fn a_graph_before_and_after_passes_gives_the_same() {
        let prompts = [text(20), text(33)];
        let mut fused = testing::model(&testing::options());
        let mut plain = testing::model_of(testing::plain_graph(2), &testing::options());
        let fused = logits(&mut fused, &prompts).expect("runs");
        let plain = logits(&mut plain, &prompts).expect("runs");
        for (a, b) in fused.concat().iter().zip(plain.concat()) {
            assert!((a - b).abs() < 1e-4 * (1.0 + b.abs()), "{a} and {b}");
        }
    }

    #[test]
    fn a_perplexity_is_that_of_the_logits_of_its_windows() {
        let mut model = testing::model(&testing::options());
        let ids = text(50);
        let report = perplexity(&mut model, &ids, 20, 8, |_, _| {}).expect("runs");
        let mut sum = 0.0;
        for window in &report.windows {
            let rows = logits(&mut model, &[ids[window.begin..window.end].to_vec()]).expect("runs");
            let predicted = &ids[window.begin + 1..window.end];
            let known = window.first_scored - 1 - window.begin;
            let rows = rows[0].chunks(testing::VOCABULARY).zip(predicted).skip(known);
            sum += rows.map(|(row, &id)| nll(row, id)).sum::<f64>();
        }
        assert!((report.nll_sum - sum).abs() < 1e-9 * sum, "{} is not {sum}", report.nll_sum);
        assert_eq!((report.tokens, report.scored), (50, 49));
        assert_eq!(report.perplexity, (report.nll_sum / 49.0).exp());
    }

    #[test]
    fn windows_that_cannot_be_are_refused() {
        let mut model = testing::model(&testing::options());
        let limit = model.limits().max_seq_len;
        for (tokens, window, stride) in
            [(1, 8, 4), (50, 1, 1), (50, limit + 1, 4), (50, 8, 0), (50, 8, 9)]
        {
            let refused = perplexity(&mut model, &text(tokens), window, stride, |_, _| {});
            assert!(matches!(refused, Err(RuntimeError::BadPerplexity { .. })));
        }
    }

    #[test]
    fn every_token_but_the_first_is_scored_once() {
        for (tokens, window, stride) in [(2048, 512, 256), (10, 4, 3), (5, 9, 2), (2, 2, 1)] {
            let mut next = 1;
            for w in cut(tokens, window, stride) {
                assert_eq!(w.first_scored, next);
                assert_eq!(w.scored, w.end - w.first_scored);
                assert_eq!(w.begin % stride, 0);
                assert!(w.first_scored > w.begin && w.end <= w.begin + window);
                next = w.end;
            }
            assert_eq!(next, tokens);
        }
    }

    #[test]
    fn windows_side_by_side_do_not_score_their_first_tokens() {
        let scored: Vec<_> = cut(9, 4, 4).iter().map(|w| (w.first_scored, w.scored)).collect();
        assert_eq!(scored, [(1, 3), (5, 3)]);
    }

    #[test]
    fn the_loss_is_minus_the_log_of_the_softmax() {
        assert!((nll(&[0.0, 0.0, 0.0, 0.0], 2) - 4f64.ln()).abs() < 1e-12);
        assert!((nll(&[1000.0, 0.0], 0)).abs() < 1e-12);
        assert!((nll(&[1000.0, 0.0], 1) - 1000.0).abs() < 1e-9);
    }
}
