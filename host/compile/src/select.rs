//! Kernel selection and the layout of weights, by target.
//!
//! For the CPU a weight of floating-point elements stays as the checkpoint has it: row-major,
//! `[out, in]`. A matrix product reads each row of it as one stream of memory while the
//! activations stay in cache, and decoding, which is bound by that stream, gains nothing from
//! another order. So the checkpoint's bytes are the engine's, and any reader of safetensors sees
//! the weights as they are. Which kernel computes on them (plain, AVX2, AVX-512) is chosen when
//! an engine is loaded, by what the processor has: an engine outlives the machine that built it.

use crate::error::CompileError;
use engraft_ir::{DType, Graph, Weight, WeightData};
use std::collections::BTreeSet;

/// A device that engines are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Any processor.
    Cpu,
}

/// Every target with its name.
const NAMES: [(Target, &str); 1] = [(Target::Cpu, "cpu")];

impl Target {
    /// The target with this name.
    ///
    /// # Errors
    /// [`CompileError::Target`] where there is none.
    pub fn from_name(name: &str) -> Result<Target, CompileError> {
        NAMES.iter().find(|(_, known)| *known == name).map(|(target, _)| *target).ok_or_else(|| {
            CompileError::Target {
                found: name.to_owned(),
                known: NAMES.map(|(_, name)| name).join(", "),
            }
        })
    }

    /// Its name, as flags and `config.json` have it.
    pub fn name(self) -> &'static str {
        NAMES[self as usize].1
    }

    /// Whether it has kernels for all weights of a graph.
    ///
    /// # Errors
    /// [`CompileError::NoKernel`] with the first that it has none for.
    pub fn check(self, graph: &Graph) -> Result<(), CompileError> {
        let Target::Cpu = self;
        let told_by: BTreeSet<Weight> = graph
            .weights
            .values()
            .filter_map(|w| w.coding)
            .flat_map(|c| c.weights().collect::<Vec<_>>())
            .collect();
        let known = |(weight, data): &(Weight, &WeightData)| {
            matches!(data.dtype, DType::F32 | DType::F16 | DType::BF16)
                || data.coding.is_some()
                || told_by.contains(weight)
        };
        match graph.weights.iter().find(|weight| !known(weight)).map(|(_, data)| data) {
            None => Ok(()),
            Some(weight) => Err(CompileError::NoKernel {
                target: self.name(),
                name: weight.name.clone(),
                dtype: weight.dtype,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_found_by_its_name_and_an_unknown_one_lists_them() {
        assert_eq!(Target::from_name("cpu").unwrap(), Target::Cpu);
        assert_eq!(Target::Cpu.name(), "cpu");
        let error = Target::from_name("sm_90").unwrap_err().to_string();
        assert!(error.contains("sm_90") && error.contains("cpu"), "{error}");
    }
}
