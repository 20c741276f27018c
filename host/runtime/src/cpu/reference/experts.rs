//! Mixtures, convolutions and recurrences from their definitions, and a graph of them all.

use super::{Matrix, activate, check_bits, check_logits};
use engraft_ir::{Bounded, Groups, MixtureData};

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The best of some, the first of equal ones; in their order.
fn best(scores: &[f64], of: impl Iterator<Item = usize>, count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = of.collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order.truncate(count);
    order.sort_unstable();
    order
}

/// A mixture's weights: matrices of two axes, one row after the other, and vectors.
pub(super) struct Experts {
    /// How many are here.
    pub(super) here: usize,
    pub(super) up: Matrix,
    pub(super) down: Matrix,
    pub(super) prefer: Option<Vec<f64>>,
    pub(super) biases: Option<[Matrix; 2]>,
}

pub(super) fn mix(
    input: &Matrix,
    logits: &Matrix,
    experts: &Experts,
    options: &MixtureData,
) -> Matrix {
    let rows = input.iter().zip(logits);
    rows.map(|(row, logits)| mix_row(row, logits, experts, options)).collect()
}

fn mix_row(row: &[f64], logits: &[f64], experts: &Experts, options: &MixtureData) -> Vec<f64> {
    let sum: f64 = logits.iter().map(|x| x.exp()).sum();
    let score = |x: &f64| if options.sigmoid { sigmoid(*x) } else { x.exp() / sum };
    let scores: Vec<f64> = logits.iter().map(score).collect();
    let mut ranks = scores.clone();
    if let Some(prefer) = &experts.prefer {
        ranks.iter_mut().zip(prefer).for_each(|(rank, prefer)| *rank += prefer);
    }
    let mut open: Vec<usize> = (0..ranks.len()).collect();
    if let Some(Groups { groups, chosen, best: count }) = options.groups {
        let size = ranks.len() / groups as usize;
        let sum = |group: usize| {
            let range = group * size..(group + 1) * size;
            best(&ranks, range, count as usize).iter().map(|&i| ranks[i]).sum::<f64>()
        };
        let sums: Vec<f64> = (0..groups as usize).map(sum).collect();
        let groups = best(&sums, 0..sums.len(), chosen as usize);
        open.retain(|expert| groups.contains(&(expert / size)));
    }
    let chosen = best(&ranks, open.into_iter(), options.chosen as usize);
    let total: f64 = chosen.iter().map(|&expert| scores[expert]).sum();
    let divisor = if options.renormalize { total } else { 1.0 };
    let (first, count) = (options.first.map_or(0, |first| first as usize), experts.here);
    let (twice, hidden) = (experts.up.len() / count, experts.down.len() / count);
    let dot = |row: &[f64], w: &[f64]| row.iter().zip(w).map(|(a, b)| a * b).sum::<f64>();
    let bias = |which: usize, expert: usize, i: usize| {
        experts.biases.as_ref().map_or(0.0, |biases| biases[which][expert][i])
    };
    let mut output = vec![0.0; hidden];
    for number in chosen.into_iter().filter(|number| (first..first + count).contains(number)) {
        let expert = number - first;
        let up = |i: usize| dot(row, &experts.up[expert * twice + i]) + bias(0, expert, i);
        let gated = |i: usize| {
            let (up, gate) = (up(i), up(twice / 2 + i));
            match options.bounded {
                Some(Bounded { bound, slope }) => {
                    let gate = gate.min(bound);
                    (up.clamp(-bound, bound) + 1.0) * gate * sigmoid(slope * gate)
                }
                None => activate(options.activation, gate) * up,
            }
        };
        let gated: Vec<f64> = (0..twice / 2).map(gated).collect();
        let weight = scores[number] / divisor * options.scale.unwrap_or(1.0);
        for (i, output) in output.iter_mut().enumerate() {
            let made = dot(&gated, &experts.down[expert * hidden + i]) + bias(1, expert, i);
            *output += weight * made;
        }
    }
    output
}

pub(super) fn convolve(input: &Matrix, weight: &Matrix, bias: &[f64]) -> Matrix {
    let channel = |row: usize, (i, (taps, bias)): (usize, (&Vec<f64>, &f64))| {
        let past = taps.iter().rev().zip(input[..=row].iter().rev());
        past.map(|(tap, input)| tap * input[i]).sum::<f64>() + bias
    };
    let row =
        |row: usize| weight.iter().zip(bias).enumerate().map(|which| channel(row, which)).collect();
    (0..input.len()).map(row).collect()
}

pub(super) fn recur(input: &Matrix, gates: [&Matrix; 2], decay: &[f64]) -> Matrix {
    let mut hidden = vec![0.0; decay.len()];
    let mut step = |(at, row): (usize, &Vec<f64>)| {
        for (i, hidden) in hidden.iter_mut().enumerate() {
            let a = (-8.0 * decay[i].exp().ln_1p() * sigmoid(gates[1][at][i])).exp();
            let root = if at == 0 { 1.0 } else { (1.0 - a * a).sqrt() };
            *hidden = a * *hidden + root * sigmoid(gates[0][at][i]) * row[i];
        }
        hidden.clone()
    };
    input.iter().enumerate().map(&mut step).collect()
}

/// States of three sorts in turn, every option of a mixture, and a column as a factor, also one
/// of what it is multiplied with.
const TEXT: &str = r#"graph 1
place embed {
    w0 = weight "t" f32 [97 vocabulary, 32]
    v0 = tokens
    v1 = embedding v0, w0
    return v1
}
place block 0 {
    s0 = convolution channels=32 taps=4
    s1 = recurrence channels=32
    w1 = weight "n" f32 [32]
    w2 = weight "c" f32 [32, 4]
    w3 = weight "b" f32 [32]
    w4 = weight "gates" f32 [64, 32]
    w5 = weight "d" f32 [32]
    v2 = rms_norm v1, w1, epsilon=1e-5
    v3 = convolve v2, w2, w3, s0
    v4 = linear v2, w4
    v5, v6 = split v4, [32, 32]
    v7 = recur v3, v5, v6, w5, s1
    v8 = add v1, v7
    return v8
}
place block 1 {
    s2 = convolution channels=32 taps=1
    s3 = cache key_heads=4 head_width=8
    w6 = weight "n1" f32 [32]
    w7 = weight "c1" f32 [32, 1]
    w8 = weight "r1" f32 [8, 32]
    w9 = weight "u1" f32 [8, 96, 32]
    w10 = weight "d1" f32 [8, 32, 48]
    w11 = weight "p1" f32 [8]
    w12 = weight "s1" f32 [33, 32]
    v9 = rms_norm v8, w6, epsilon=1e-5
    v10 = convolve v9, w7, s2
    v11 = attend v10, v9, v10, s3, query_heads=4 scale=0.35
    v12 = linear v11, w8
    v13 = mix v11, v12, w9, w10, chosen=3 activation=silu sigmoid renormalize scale=2.5 prefer=w11 groups=4 chosen_groups=2 best=2
    v14 = linear v11, w12
    v15, v16 = split v14, [32, 1]
    v17 = multiply v14, v16
    v18, v19 = split v17, [32, 1]
    v20 = activate v19, sigmoid
    v21 = multiply v13, v20
    v22 = add v18, v21
    v23 = add v8, v22
    return v23
}
place block 2 {
    w13 = weight "n2" f32 [32]
    w14 = weight "r2" f32 [5, 32]
    w15 = weight "u2" f32 [5, 40, 32]
    w16 = weight "d2" f32 [5, 32, 20]
    w17 = weight "ub" f32 [5, 40]
    w18 = weight "db" f32 [5, 32]
    v24 = rms_norm v23, w13, epsilon=1e-5
    v25 = linear v24, w14
    v26 = mix v24, v25, w15, w16, chosen=2 activation=silu renormalize up_bias=w17 down_bias=w18 bound=1.5 slope=1.702
    v27 = mix v24, v25, w15, w16, chosen=1 activation=relu2
    v28 = add v26, v27
    v29 = add v23, v28
    return v29
}
place head {
    w19 = weight "n3" f32 [32]
    w20 = weight "lm" f32 [97 vocabulary, 32]
    v30 = rms_norm v29, w19, epsilon=1e-5
    v31 = linear v30, w20
    return v31
}
"#;

#[test]
fn mixtures_convolutions_and_recurrences_do_what_their_definitions_say() {
    check_logits(TEXT);
}

#[test]
fn mixtures_convolutions_and_recurrences_give_the_same_bits_in_any_steps() {
    check_bits(TEXT);
}

/// What a rank has where others have the rest of its tables and experts.
#[test]
fn what_other_ranks_have_is_zeros_and_adds_nothing() {
    let mut text = TEXT.to_owned();
    for (whole, part) in [
        ("[97 vocabulary, 32]\n    v0", "[40 vocabulary, 32]\n    v0"),
        ("embedding v0, w0", "embedding v0, w0, first=20 of=97"),
        ("\"u1\" f32 [8,", "\"u1\" f32 [3,"),
        ("\"d1\" f32 [8,", "\"d1\" f32 [3,"),
        ("groups=4 chosen_groups=2 best=2", "groups=4 chosen_groups=2 best=2 first=2"),
        ("\"u2\" f32 [5,", "\"u2\" f32 [2,"),
        ("\"d2\" f32 [5,", "\"d2\" f32 [2,"),
        ("\"ub\" f32 [5,", "\"ub\" f32 [2,"),
        ("\"db\" f32 [5,", "\"db\" f32 [2,"),
        ("bound=1.5 slope=1.702", "bound=1.5 slope=1.702 first=3"),
        ("chosen=1 activation=relu2", "chosen=1 activation=relu2 first=0"),
    ] {
        assert!(text.contains(whole), "{whole}");
        text = text.replace(whole, part);
    }
    check_logits(&text);
    check_bits(&text);
}
