//! A mixture of experts in the plan, and what the kernel is told of it in a step.

use super::matrix::Matrix;
use super::plan::unsupported;
use crate::device::Program;
use crate::error::RuntimeError;
use engraft_ir::{MixtureData, Weight};
use engraft_kernels_cpu::{Experts, Gating, Routing, RoutingGroups, Rows};

/// What a mixture needs besides its operands. A vector is an index into the plan's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mixture {
    up: Matrix,
    down: Matrix,
    /// Of both matrices.
    biases: Option<[usize; 2]>,
    prefer: Option<usize>,
    inner: usize,
    chosen: usize,
    sigmoid: bool,
    renormalize: bool,
    scale: f32,
    groups: Option<RoutingGroups>,
    stretch: Option<[usize; 2]>,
    gating: Gating,
    /// What the threads share while they work on it.
    pub(crate) work: Rows,
}

/// How much a mixture's rows and columns are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Experts of each row.
    pub(crate) chosen: usize,
    /// Columns between the two matrices.
    pub(crate) inner: usize,
    /// Experts whose matrices are here.
    pub(crate) here: usize,
}

/// A mixture's sizes, if they can be counted.
pub(crate) fn sizes(
    graph: &engraft_ir::Graph,
    down: Weight,
    options: &MixtureData,
) -> Option<Sizes> {
    let shape = graph.weights[down].shape();
    let number = |n: u64| usize::try_from(n).ok();
    Some(Sizes {
        chosen: usize::try_from(options.chosen).ok()?,
        inner: number(*shape.last()?)?,
        here: number(*shape.first()?)?,
    })
}

impl Mixture {
    /// Of a verified graph's options; `vector` widens a weight and says where it is.
    ///
    /// # Errors
    /// What `vector` says.
    pub(crate) fn new(
        options: &MixtureData,
        [up, down]: [Matrix; 2],
        Sizes { chosen, inner, here }: Sizes,
        work: Rows,
        mut vector: impl FnMut(Weight) -> Result<usize, RuntimeError>,
    ) -> Result<Mixture, RuntimeError> {
        let biases = match options.biases {
            Some([up, down]) => Some([vector(up)?, vector(down)?]),
            None => None,
        };
        let prefer = options.prefer.map(vector).transpose()?;
        let groups = options.groups.map(|groups| RoutingGroups {
            count: groups.groups as usize,
            chosen: groups.chosen as usize,
            best: groups.best as usize,
        });
        let stretch = options.first.map(|first| [first as usize, here]);
        let gating = match options.bounded {
            Some(bounded) => {
                let (bound, slope) = (bounded.bound as f32, bounded.slope as f32);
                Gating::BoundedSwish { bound, slope }
            }
            None => Gating::Plain(super::exec::kernel(options.activation)),
        };
        Ok(Mixture {
            up,
            down,
            biases,
            prefer,
            inner,
            chosen,
            sigmoid: options.sigmoid,
            renormalize: options.renormalize,
            scale: options.scale.unwrap_or(1.0) as f32,
            groups,
            stretch,
            gating,
            work,
        })
    }

    /// How rows are routed.
    pub(crate) fn routing<'a>(&self, vectors: &'a [Vec<f32>]) -> Routing<'a> {
        Routing {
            chosen: self.chosen,
            sigmoid: self.sigmoid,
            prefer: self.prefer.map(|at| vectors[at].as_slice()),
            groups: self.groups,
            renormalize: self.renormalize,
            scale: self.scale,
        }
    }

    /// What rows go through.
    ///
    /// # Errors
    /// Where the engine maps a matrix that is not aligned.
    pub(crate) fn experts<'a>(
        &self,
        program: &'a dyn Program,
        vectors: &'a [Vec<f32>],
    ) -> Result<Experts<'a>, RuntimeError> {
        let bias = |which: usize| self.biases.map(|at| vectors[at[which]].as_slice());
        Ok(Experts {
            up: self.up.elements(program, vectors)?,
            down: self.down.elements(program, vectors)?,
            up_bias: bias(0),
            down_bias: bias(1),
            inner: self.inner,
            gating: self.gating,
            stretch: self.stretch,
        })
    }
}

/// `[channels, taps]` the other way round: the kernel goes tap by tap.
pub(crate) fn by_tap(weights: &[f32], channels: usize) -> Vec<f32> {
    let taps = weights.len() / channels.max(1);
    let tap = |tap: usize| weights.iter().skip(tap).step_by(taps.max(1)).copied();
    (0..taps).flat_map(tap).collect()
}

/// The logarithm of what a recurrence keeps where its gate is open: `-8 · softplus(decay)`.
pub(crate) fn rates(decay: &[f32]) -> Vec<f32> {
    let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
    decay.iter().map(|&x| (-8.0 * softplus(f64::from(x))) as f32).collect()
}

/// A place that the memory plan did not make.
pub(crate) fn homeless(value: engraft_ir::Value) -> RuntimeError {
    unsupported("there is no place for what it keeps", value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taps_lie_side_by_side() {
        assert_eq!(by_tap(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    }

    #[test]
    fn rates_are_minus_eight_softplus() {
        for (decay, rate) in [(0.0, -8.0 * 2f64.ln()), (100.0, -800.0), (-50.0, -8.0 * 2e-22)] {
            let found = f64::from(rates(&[decay])[0]);
            assert!((found - rate).abs() <= 0.05 * rate.abs(), "{found} is not {rate}");
        }
    }
}
