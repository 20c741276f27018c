//! What a scheme makes of a weight whose inputs are known.
//!
//! | scheme | how |
//! | --- | --- |
//! | integers by group, inputs with scales | AWQ's scales of inputs, then GPTQ's rounding |
//! | integers by group | GPTQ's rounding |
//! | int8 by row, activations too | SmoothQuant's scales of inputs, then GPTQ's rounding |
//! | FP8 by tensor, activations too | the largest weight and the largest input, then GPTQ's rounding |
//! | FP8 by row | the largest weight of a row |

use crate::codes::{Codes, Grid, Precision};
use crate::drive::{Method, Wants};
use crate::gptq::{self, Factor};
use crate::spill::{Spill, Tensor};
use crate::{CalibrateError, Distance, Inputs, Matrix, RunError, awq, fp8, range, smooth};
use engraft_ir::{CodeKind, DType};
use engraft_quant::{Coded, Grouping, Role, Scheme, Stored, codes};
use half::{bf16, f16};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Tokens that are kept where activations are rounded too.
const SAMPLE: usize = 512;

/// How weights are calibrated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// How much of the difficulty SmoothQuant moves from activations to weights, 0 to 1; none
    /// searches.
    pub alpha: Option<f64>,
    /// The type of scales of inputs.
    pub dtype: DType,
}

/// What quantising did to a weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// How much larger the weight is than its error, in decibels; none where there is no error.
    pub sqnr: Option<f64>,
    /// The largest error.
    pub max_error: f32,
    /// The cosine of the angle between the weight and what its codes stand for.
    pub cosine: f64,
    /// How much of the difficulty was moved to the weight or away from it, where that was chosen.
    pub alpha: Option<f64>,
}

/// Quantises as `stored` says, into a store.
pub struct Quantiser<'a> {
    stored: &'a Stored,
    spill: &'a Spill,
    settings: Settings,
    /// The factor of the Hessian of the inputs that are looked at.
    factor: Option<Factor>,
    reports: BTreeMap<String, Report>,
}

/// A weight as its scheme has it.
struct Made {
    tensors: Vec<Tensor>,
    floats: Vec<f32>,
    alpha: Option<f64>,
}

impl<'a> Quantiser<'a> {
    /// Weights that are `stored` so, into `spill`.
    pub fn new(stored: &'a Stored, spill: &'a Spill, settings: Settings) -> Quantiser<'a> {
        Quantiser { stored, spill, settings, factor: None, reports: BTreeMap::new() }
    }

    /// What quantising did to each weight.
    pub fn into_reports(self) -> BTreeMap<String, Report> {
        self.reports
    }

    fn precision(&self) -> Precision {
        match self.settings.dtype {
            DType::F16 => Precision::F16,
            DType::BF16 => Precision::Bf16,
            _ => Precision::F32,
        }
    }

    fn made(
        &self,
        coded: &Coded,
        matrix: Matrix<'_>,
        inputs: &Inputs,
    ) -> Result<Made, CalibrateError> {
        let Scheme { kind, grouping, activations, .. } = coded.scheme;
        let own;
        let factor = match &self.factor {
            Some(factor) => factor,
            None => {
                own = Factor::of_squares(inputs);
                &own
            }
        };
        match (kind, grouping, activations) {
            (CodeKind::Fp8, Grouping::Tensor, activations) => {
                // A scale for each matrix of several.
                let matrices = coded.shape[..coded.shape.len() - 2].iter().product::<u64>();
                let rows = matrix.rows() / (matrices as usize).max(1);
                let (mut codes, mut scales) = (Vec::new(), Vec::new());
                for one in matrix.data().chunks((rows * matrix.columns()).max(1)) {
                    let one = Matrix::new(rows, matrix.columns(), one)?;
                    let scale = range::scale(one.absmax(), fp8::MOST);
                    let grid = Grid::floats(scale, matrix.columns());
                    let rounded = gptq::round(one, factor, &grid, None)?;
                    codes.extend(rounded.codes.codes.iter().map(|&code| code as u8));
                    scales.push(scale);
                }
                let largest = crate::matrix::absmax(inputs.absmax());
                let activations = activations.filter(|activations| activations.is_static);
                let activations = activations.map(|_| range::scale(largest, fp8::MOST));
                Ok(floating(&codes, &scales, matrix, activations))
            }
            (CodeKind::Fp8, ..) => {
                let floats = fp8::per_channel(matrix);
                Ok(floating(&floats.codes, &floats.scales, matrix, None))
            }
            (_, Grouping::Tensor | Grouping::Row, Some(rounded))
                if coded.scheme.input_scales && inputs.tokens() > 0 =>
            {
                let activations = match rounded.is_static {
                    true => smooth::Activations::PerTensor,
                    false => smooth::Activations::PerToken,
                };
                let alpha = self.settings.alpha;
                let precision = self.precision();
                let smoothed =
                    smooth::round(matrix, inputs, factor, alpha, activations, precision)?;
                let scale = rounded.is_static.then_some(smoothed.activation_scale);
                Ok(self.integers(coded, smoothed.codes, scale, Some(smoothed.alpha)))
            }
            (_, Grouping::Tensor | Grouping::Row, _) => {
                let grid = Grid::channel(kind.bits(), matrix.columns());
                let rounded = gptq::round(matrix, factor, &grid, None)?;
                Ok(self.integers(coded, rounded.codes, None, None))
            }
            (_, Grouping::Group(size), _) => {
                let group = size as usize;
                let grid = match coded.scheme.zeros {
                    true => Grid::zero_points(group),
                    false => Grid::symmetric(group),
                };
                let grid = grid.with_bits(kind.bits());
                if coded.scheme.input_scales && inputs.tokens() > 0 {
                    let found = awq::round(matrix, inputs, factor, &grid, self.precision())?;
                    return Ok(self.integers(coded, found.rounded.codes, None, found.alpha));
                }
                let rounded = gptq::round(matrix, factor, &grid, None)?;
                Ok(self.integers(coded, rounded.codes, None, None))
            }
        }
    }

    /// Integers as they are stored.
    fn integers(
        &self,
        coded: &Coded,
        made: Codes,
        activation_scale: Option<f32>,
        alpha: Option<f64>,
    ) -> Made {
        let floats = made.weights();
        let packed = match coded.scheme.kind {
            CodeKind::Int4 => {
                let pairs = made.codes.chunks(2 * made.columns);
                pairs
                    .flat_map(|pair| {
                        let (even, odd) = pair.split_at(made.columns);
                        codes::pack(even, odd)
                    })
                    .collect()
            }
            CodeKind::Int8 | CodeKind::Fp8 => made.codes.iter().map(|&code| code as u8).collect(),
        };
        let mut tensors = vec![
            (Role::Codes, coded.scheme.kind.dtype(), packed),
            (Role::Scales, DType::F32, bytes(&made.scales)),
        ];
        if let Some(zeros) = &made.zeros {
            let zeros = zeros.iter().flat_map(|zero| zero.to_le_bytes()).collect();
            tensors.push((Role::Zeros, DType::I16, zeros));
        }
        if coded.scheme.input_scales {
            let ones = vec![1.0; made.columns];
            let scales = made.input_scales.as_ref().unwrap_or(&ones);
            tensors.push((Role::InputScales, self.settings.dtype, self.narrowed(scales)));
        }
        if let Some(scale) = activation_scale {
            tensors.push((Role::ActivationScale, DType::F32, bytes(&[scale])));
        }
        Made { tensors, floats, alpha }
    }

    /// Numbers as the checkpoint's type has them.
    fn narrowed(&self, numbers: &[f32]) -> Vec<u8> {
        match self.settings.dtype {
            DType::F16 => numbers.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
            DType::BF16 => numbers.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
            _ => bytes(numbers),
        }
    }
}

fn bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// Floats of eight bits as they are stored: a scale for all, or for each row.
fn floating(codes: &[u8], scales: &[f32], matrix: Matrix<'_>, activation: Option<f32>) -> Made {
    let rows_of_scale = matrix.rows() / scales.len().max(1);
    let rows = codes.chunks(matrix.columns()).enumerate();
    let floats = rows.flat_map(|(row, codes)| {
        let scale = scales[row / rows_of_scale.max(1)];
        codes.iter().map(move |&code| fp8::decode(code) * scale)
    });
    let mut tensors = vec![
        (Role::Codes, DType::F8E4M3, codes.to_vec()),
        (Role::Scales, DType::F32, bytes(scales)),
    ];
    tensors.extend(activation.map(|scale| (Role::ActivationScale, DType::F32, bytes(&[scale]))));
    Made { tensors, floats: floats.collect(), alpha: None }
}

impl Method for Quantiser<'_> {
    fn wants(&self, name: &str) -> Option<Wants> {
        let scheme = self.stored.get(name)?.scheme;
        let hessian = scheme.kind != CodeKind::Fp8 || scheme.grouping == Grouping::Tensor;
        Some(Wants { hessian, sample: if scheme.activations.is_some() { SAMPLE } else { 0 } })
    }

    fn known(&mut self, name: &str) -> Result<Option<Vec<f32>>, RunError> {
        if !self.spill.has(name) {
            return Ok(None);
        }
        let Some(coded) = self.stored.get(name) else { return Ok(None) };
        let (tensors, report) = self.spill.get(self.stored, name)?;
        let Ok(report) = serde_json::from_str(&report) else { return Ok(None) };
        self.reports.insert(name.to_owned(), report);
        Ok(Some(engraft_quant::weights(coded, &tensors)))
    }

    fn begin(&mut self, inputs: &Inputs) -> Result<(), CalibrateError> {
        self.factor = match inputs.hessian() {
            Some(_) => Some(Factor::new(inputs, gptq::DAMPING)?),
            None => None,
        };
        Ok(())
    }

    fn quantise(
        &mut self,
        name: &str,
        matrix: Matrix<'_>,
        inputs: &Inputs,
    ) -> Result<Vec<f32>, RunError> {
        let fault = |source| RunError::Weight { weight: name.to_owned(), source };
        let unknown = || engraft_weights::WeightError::Unknown { parameter: name.to_owned() };
        let coded = self.stored.get(name).ok_or_else(unknown)?;
        let made = self.made(coded, matrix, inputs).map_err(fault)?;
        let distance = Distance::between(matrix.data(), &made.floats);
        let report = Report {
            sqnr: distance.sqnr.is_finite().then_some(distance.sqnr),
            max_error: distance.max,
            cosine: distance.cosine,
            alpha: made.alpha,
        };
        let text = serde_json::to_string(&report).unwrap_or_default();
        self.spill.put(self.stored, name, &made.tensors, &text)?;
        self.reports.insert(name.to_owned(), report);
        Ok(made.floats)
    }
}
