//! Matrices among the weights: floats where the engine maps them, or codes with what they are
//! told by.

use super::plan::unsupported;
use crate::device::Program;
use crate::error::RuntimeError;
use engraft_ir::{CodeKind, Coding, DType, Graph, Weight};
use engraft_kernels_cpu::convert::to_vec;
use engraft_kernels_cpu::{self as kernels, Coded, Codes, WeightKind, Weights};

/// A matrix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix {
    weight: Weight,
    elements: Elements,
}

#[derive(Clone, Copy, Debug)]
enum Elements {
    Floats(WeightKind),
    Codes(Told),
}

/// What codes are told by.
#[derive(Clone, Copy, Debug)]
struct Told {
    kind: kernels::CodeKind,
    /// Inputs of a row.
    columns: usize,
    scales: Scales,
    zeros: Option<Weight>,
    groups: Groups,
}

/// Where scales are.
#[derive(Clone, Copy, Debug)]
enum Scales {
    /// Where the engine maps them.
    Mapped(Weight),
    /// Among the plan's vectors.
    Widened(usize),
}

#[derive(Clone, Copy, Debug)]
enum Groups {
    Rows,
    Inputs(usize),
    Listed { groups: usize, lists: Weight },
}

impl Matrix {
    /// A matrix of a verified graph; scales that are not of `f32` are widened into `vectors`.
    ///
    /// # Errors
    /// Elements that there are no kernels for, as many bytes as its shape does not say, scales of
    /// inputs.
    pub(crate) fn new(
        program: &dyn Program,
        weight: Weight,
        vectors: &mut Vec<Vec<f32>>,
    ) -> Result<Matrix, RuntimeError> {
        let graph = program.graph();
        let Some(coding) = graph.weights[weight].coding else {
            return Ok(Matrix { weight, elements: Elements::Floats(floats(program, weight)?) });
        };
        check_size(program, weight)?;
        let told = told(program, weight, &coding, vectors)?;
        Ok(Matrix { weight, elements: Elements::Codes(told) })
    }

    /// Its elements; `vectors` are those that it was made with.
    pub(crate) fn elements<'a>(
        &self,
        program: &'a dyn Program,
        vectors: &'a [Vec<f32>],
    ) -> Result<Weights<'a>, RuntimeError> {
        let unaligned = || unsupported("its bytes are not aligned", self.weight);
        let bytes = program.weight(self.weight);
        let told = match self.elements {
            Elements::Floats(kind) => {
                return Weights::from_bytes(kind, bytes).ok_or_else(unaligned);
            }
            Elements::Codes(told) => told,
        };
        let scales: &[f32] = match told.scales {
            Scales::Widened(at) => &vectors[at],
            Scales::Mapped(scales) => {
                bytemuck::try_cast_slice(program.weight(scales)).map_err(|_| unaligned())?
            }
        };
        let zeros = match told.zeros {
            None => None,
            Some(zeros) => {
                let zeros = bytemuck::try_cast_slice(program.weight(zeros));
                Some(zeros.map_err(|_| unaligned())?)
            }
        };
        let grouping = match told.groups {
            Groups::Rows => kernels::Grouping::Rows,
            Groups::Inputs(inputs) => kernels::Grouping::Inputs(inputs),
            Groups::Listed { groups, lists } => {
                let lists = bytemuck::try_cast_slice(program.weight(lists));
                kernels::Grouping::Listed { groups, lists: lists.map_err(|_| unaligned())? }
            }
        };
        let (kind, columns) = (told.kind, told.columns);
        let coded = Coded::new(Codes { kind, codes: bytes, columns, scales, zeros, grouping });
        let misfit = |misfit: kernels::Misfit| unsupported(&misfit.to_string(), self.weight);
        Ok(Weights::Coded(coded.map_err(misfit)?))
    }
}

/// A weight of floats as `f32`.
pub(crate) fn widened(program: &dyn Program, weight: Weight) -> Result<Vec<f32>, RuntimeError> {
    let matrix = Matrix { weight, elements: Elements::Floats(floats(program, weight)?) };
    Ok(to_vec(matrix.elements(program, &[])?))
}

/// What the floats of a weight are.
fn floats(program: &dyn Program, weight: Weight) -> Result<WeightKind, RuntimeError> {
    let kind = match program.graph().weights[weight].dtype {
        DType::F32 => WeightKind::F32,
        DType::F16 => WeightKind::F16,
        DType::BF16 => WeightKind::BF16,
        other => {
            return Err(unsupported(&format!("there is no kernel for {other} weights"), weight));
        }
    };
    check_size(program, weight)?;
    Ok(kind)
}

/// That a weight has as many bytes as its shape says.
fn check_size(program: &dyn Program, weight: Weight) -> Result<(), RuntimeError> {
    let data = &program.graph().weights[weight];
    let (found, expected) = (program.weight(weight).len() as u64, data.bytes());
    match found == expected {
        true => Ok(()),
        false => Err(RuntimeError::WeightSize { name: data.name.clone(), found, expected }),
    }
}

fn told(
    program: &dyn Program,
    weight: Weight,
    coding: &Coding,
    vectors: &mut Vec<Vec<f32>>,
) -> Result<Told, RuntimeError> {
    let graph: &Graph = program.graph();
    if coding.input_scales.is_some() {
        return Err(unsupported("experts whose inputs have scales are not run", weight));
    }
    coding.weights().try_for_each(|told_by| check_size(program, told_by))?;
    let too_large = |_| unsupported("it is too large", weight);
    let shape = graph.weights[weight].shape();
    let columns = shape.last().copied().unwrap_or_default();
    let scales = &graph.weights[coding.scales];
    let of_rows = scales.shape();
    let groups = match (of_rows.strip_prefix(&shape[..shape.len() - 1]), coding.group_index) {
        (Some([groups]), Some(lists)) => {
            let groups = usize::try_from(*groups).map_err(too_large)?;
            Groups::Listed { groups, lists }
        }
        (Some([groups]), None) => {
            let inputs = columns.checked_div(*groups).unwrap_or_default();
            Groups::Inputs(usize::try_from(inputs).map_err(too_large)?)
        }
        // One a row, or one a matrix.
        _ => Groups::Rows,
    };
    let scales = match scales.dtype {
        DType::F32 => Scales::Mapped(coding.scales),
        _ => {
            vectors.push(widened(program, coding.scales)?);
            Scales::Widened(vectors.len() - 1)
        }
    };
    let kind = match coding.kind {
        CodeKind::Int4 => kernels::CodeKind::Int4,
        CodeKind::Int8 => kernels::CodeKind::Int8,
        CodeKind::Fp8 => kernels::CodeKind::Fp8,
    };
    let columns = usize::try_from(columns).map_err(too_large)?;
    Ok(Told { kind, columns, scales, zeros: coding.zeros, groups })
}
