//! Rounding with errors handed on, against rounding for itself.

use super::*;
use crate::Distance;
use crate::codes::Precision;
use crate::testing::Noise;

/// A weight `[rows, n]`, and inputs that go together and differ in size.
fn problem(rows: usize, n: usize) -> (Vec<f32>, Inputs) {
    let mut random = Noise::new(7);
    let weights = random.normals(rows * n);
    let mut inputs = Inputs::new(n, true, 0);
    let tokens = 4 * n;
    let (causes, mut x) = (random.normals(tokens * 8), random.normals(tokens * n));
    let mixing = random.normals(8 * n);
    for (x, causes) in x.chunks_mut(n).zip(causes.chunks(8)) {
        for (i, x) in x.iter_mut().enumerate() {
            let sum: f32 =
                causes.iter().zip(mixing[i..].iter().step_by(n)).map(|(c, m)| c * m).sum();
            *x = (*x * 0.3 + sum) * (0.2 + (i % 7) as f32);
        }
    }
    inputs.add(&x).unwrap();
    (weights, inputs)
}

/// `tr(E·H·Eᵀ)` per token.
fn loss(weights: &[f32], codes: &Codes, inputs: &Inputs) -> f64 {
    let (n, h) = (inputs.width(), inputs.hessian().unwrap());
    let is = codes.weights();
    let rows = weights.chunks(n).zip(is.chunks(n)).map(|(was, is)| {
        let e: Vec<f64> = was.iter().zip(is).map(|(a, b)| f64::from(b - a)).collect();
        let pair = |i: usize, j: usize| e[i] * e[j] * h[i.min(j) * n + i.max(j)];
        (0..n).map(|i| (0..n).map(|j| pair(i, j)).sum::<f64>()).sum::<f64>()
    });
    rows.sum::<f64>() / inputs.tokens() as f64
}

#[test]
fn two_inputs_by_hand() {
    // Both inputs are always the same: H = [1 1; 1 1] per token, but for the damping, so the
    // second weight makes good for all that the first one misses.
    let mut inputs = Inputs::new(2, true, 0);
    inputs.add(&[1.0, 1.0, -1.0, -1.0]).unwrap();
    let grid = Grid { precision: Precision::F32, ..Grid::symmetric(2) };
    let weights = [0.4, 0.4, -8.0, 7.0];
    let matrix = Matrix::new(2, 2, &weights).unwrap();
    let factor = Factor::new(&inputs, 1e-4).unwrap();
    assert!((factor.feedback[0][0][1] - 1.0).abs() < 1e-3);
    // What is left to the first input once the second makes good for it is but the damping.
    assert!((factor.pivots[0] - 2e-4).abs() < 1e-6 && (factor.pivots[1] - 1.0001).abs() < 1e-6);
    let rounded = round(matrix, &factor, &grid, None).unwrap();
    assert_eq!(rounded.codes.codes[2..], [-8, 7]);
    assert!(rounded.loss < 1e-3);
}

#[test]
fn it_costs_less_than_rounding_for_itself() {
    let (rows, n) = (20, 96);
    let (weights, inputs) = problem(rows, n);
    let matrix = Matrix::new(rows, n, &weights).unwrap();
    let grids =
        [Grid::symmetric(32), Grid::zero_points(48), Grid::symmetric(24), Grid::channel(8, n)];
    for grid in grids {
        let searched = round(matrix, &Factor::of_squares(&inputs), &grid, None).unwrap();
        let searched = loss(&weights, &searched.codes, &inputs);
        let factor = Factor::new(&inputs, DAMPING).unwrap();
        let rounded = round(matrix, &factor, &grid, None).unwrap();
        let is = loss(&weights, &rounded.codes, &inputs);
        assert!(is < 0.6 * searched, "{grid:?}: {is} {searched}");
        // What is said of the loss is that of the damped Hessian.
        let (squares, error) =
            (inputs.mean_squares(), Distance::between(&weights, &rounded.codes.weights()));
        let power: f64 = weights.iter().map(|&w| f64::from(w * w)).sum();
        let damped = DAMPING * squares.iter().sum::<f64>() / n as f64;
        let want = is + damped * power / 10f64.powf(error.sqnr / 10.0);
        assert!((rounded.loss / want - 1.0).abs() < 1e-3, "{want} {}", rounded.loss);
    }
}

#[test]
fn factors_of_inputs_are_undone_by_scales() {
    let (weights, inputs) = problem(17, 48);
    let matrix = Matrix::new(17, 48, &weights).unwrap();
    let factor = Factor::new(&inputs, DAMPING).unwrap();
    let factors: Vec<f32> = (0..48).map(|i| 0.5 + (i % 3) as f32 / 2.0).collect();
    let grid = Grid::symmetric(16);
    let plain = round(matrix, &factor, &grid, None).unwrap();
    let scaled = round(matrix, &factor, &grid, Some(&factors)).unwrap();
    assert_eq!(scaled.codes.input_scales.as_ref().unwrap()[1], 1.0);
    let (a, b) = (loss(&weights, &plain.codes, &inputs), loss(&weights, &scaled.codes, &inputs));
    assert!(b < 2.0 * a, "{a} {b}");
    // Factors of two that all inputs of a group have change nothing but scales.
    let whole = round(matrix, &factor, &grid, Some(&[2.0; 48])).unwrap();
    assert_eq!(whole.codes.codes, plain.codes.codes);
    assert!(whole.codes.scales.iter().zip(&plain.codes.scales).all(|(a, b)| *a == 2.0 * b));
}

#[test]
fn threads_change_nothing() {
    let (weights, inputs) = problem(50, 160);
    let matrix = Matrix::new(50, 160, &weights).unwrap();
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (_, inputs) = problem(50, 160);
            let factor = Factor::new(&inputs, DAMPING).unwrap();
            round(matrix, &factor, &Grid::symmetric(32), None).unwrap()
        })
    };
    let (one, two) = (run(1), run(2));
    assert_eq!(one.codes, two.codes);
    assert_eq!(one.loss.to_bits(), two.loss.to_bits());
    assert_eq!(inputs.tokens(), 640);
}

#[test]
fn what_was_never_seen_is_rounded_for_itself() {
    let weights = Noise::new(8).normals(4 * 32);
    let matrix = Matrix::new(4, 32, &weights).unwrap();
    let grid = Grid::symmetric(16);
    // No token at all: an expert that was never asked.
    let nothing = Inputs::new(32, true, 0);
    let itself = round(matrix, &Factor::of_squares(&nothing), &grid, None).unwrap();
    let factor = Factor::new(&nothing, DAMPING).unwrap();
    assert_eq!(round(matrix, &factor, &grid, None).unwrap().codes, itself.codes);
    // Two inputs that are always 0: their weights are kept as well as others.
    let mut inputs = Inputs::new(32, true, 0);
    let mut x = Noise::new(9).normals(100 * 32);
    x.iter_mut().skip(3).step_by(32).for_each(|x| *x = 0.0);
    x.iter_mut().skip(20).step_by(32).for_each(|x| *x = 0.0);
    inputs.add(&x).unwrap();
    let factor = Factor::new(&inputs, 0.0).unwrap();
    let codes = round(matrix, &factor, &grid, None).unwrap().codes;
    let is = codes.weights();
    for at in [3, 20, 35, 52] {
        let step = codes.scales[at / 16].abs();
        let kept = (is[at] - weights[at]).abs() <= 0.51 * step;
        assert!(kept || codes.codes[at].abs() >= 7, "{at}: {} {}", is[at], weights[at]);
    }
}

#[test]
fn zero_rows_and_constant_rows_come_out() {
    let (_, inputs) = problem(2, 32);
    let mut weights = vec![0.0; 32];
    weights.extend([0.25; 32]);
    let matrix = Matrix::new(2, 32, &weights).unwrap();
    for grid in [Grid::symmetric(16), Grid::zero_points(16)] {
        let factor = Factor::new(&inputs, DAMPING).unwrap();
        let codes = round(matrix, &factor, &grid, None).unwrap().codes;
        let is = codes.weights();
        assert!(is[..32].iter().all(|&w| w == 0.0));
        assert!(is[32..].iter().all(|w| (w - 0.25).abs() < 0.02), "{is:?}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let (weights, inputs) = problem(2, 32);
    let matrix = Matrix::new(2, 32, &weights).unwrap();
    let factor = Factor::new(&inputs, DAMPING).unwrap();
    let refused = |grid, factors| round(matrix, &factor, &grid, factors).err();
    let group = CalibrateError::Group { group: 24, columns: 32 };
    assert_eq!(refused(Grid::symmetric(24), None), Some(group));
    let sizes = refused(Grid::symmetric(32), Some(&[1.0]));
    assert!(matches!(sizes, Some(CalibrateError::Size { .. })));
    assert!(matches!(Factor::new(&inputs, 2.0), Err(CalibrateError::Setting { .. })));
    let without = Inputs::new(32, false, 0);
    assert!(matches!(Factor::new(&without, 0.1), Err(CalibrateError::Size { .. })));
}

#[test]
fn floats_of_eight_bits_make_good_for_each_other_too() {
    let (rows, n) = (20, 96);
    let (weights, inputs) = problem(rows, n);
    let matrix = Matrix::new(rows, n, &weights).unwrap();
    let scale = matrix.absmax() / fp8::MOST;
    let grid = Grid::floats(scale, n);
    let stand = |codes: &Codes| -> Vec<f32> {
        codes.codes.iter().map(|&code| fp8::decode(code as u8) * scale).collect()
    };
    let loss = |factor: &Factor| {
        let codes = round(matrix, factor, &grid, None).unwrap().codes;
        let missed: Vec<f32> = weights.iter().zip(stand(&codes)).map(|(w, is)| is - w).collect();
        let hessian = inputs.hessian().unwrap();
        let at = |i: usize, j: usize| hessian[i.min(j) * n + i.max(j)];
        let row = |e: &[f32]| -> f64 {
            (0..n * n).map(|ij| f64::from(e[ij / n] * e[ij % n]) * at(ij / n, ij % n)).sum()
        };
        missed.chunks(n).map(row).sum::<f64>()
    };
    let apart = loss(&Factor::of_squares(&inputs));
    let together = loss(&Factor::new(&inputs, DAMPING).unwrap());
    assert!(together < 0.6 * apart, "{together} {apart}");
}
