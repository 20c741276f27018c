//! The tensors that are made of weights which a provider has as floats.

use std::collections::BTreeMap;

use engraft_files::FileError;
use engraft_ir::{Axis, CodeKind, DType, Meaning};
use engraft_weights::{Cut, Provider, Supply, WeightError};

use crate::stored::WEIGHT;
use crate::{Coded, Grouping, QuantError, Role, Stored};

/// A tensor that is made of a weight.
#[derive(Clone, Debug)]
pub struct Made<'a> {
    /// The weight.
    pub weight: &'a str,
    /// How it is quantised.
    pub coded: &'a Coded,
    /// What of it this is.
    pub role: Role,
    /// What it is like.
    pub supply: Supply,
}

/// The names of a checkpoint's tensors, and those of them that are made of weights.
#[derive(Clone, Debug)]
pub struct Tensors<'a> {
    /// All, in the order of the weights that they stand for.
    pub names: Vec<String>,
    /// By name.
    pub made: BTreeMap<String, Made<'a>>,
}

impl<'a> Tensors<'a> {
    /// What becomes of the weights of `plain` of which some are `stored` as codes; scales of
    /// inputs, and those that take the place of a float weight's type, are of `dtype`.
    ///
    /// # Errors
    /// A weight that is cut within what only makes sense whole.
    pub fn new(
        plain: &dyn Provider,
        stored: &'a Stored,
        dtype: DType,
    ) -> Result<Tensors<'a>, QuantError> {
        let mut all = Tensors { names: Vec::new(), made: BTreeMap::new() };
        for name in plain.names() {
            let Some((weight, coded)) = stored.find(name) else {
                all.names.push(name.clone());
                continue;
            };
            let module = weight.strip_suffix(WEIGHT).unwrap_or(weight);
            for (role, suffix, cut) in coded.tensors(weight, &Cut::whole(&coded.shape))? {
                let axes = cut.shape().iter().map(|&n| Axis::new(n, Meaning::Plain)).collect();
                let supply = Supply { dtype: element(coded, role, dtype), axes, tied: None };
                all.names.push(format!("{module}{suffix}"));
                all.made.insert(format!("{module}{suffix}"), Made { weight, coded, role, supply });
            }
        }
        Ok(all)
    }
}

/// What a tensor's elements are, as TensorRT-LLM has them.
fn element(coded: &Coded, role: Role, dtype: DType) -> DType {
    let by_row = coded.scheme.grouping == Grouping::Row && coded.scheme.kind != CodeKind::Fp8;
    match role {
        Role::Codes => coded.scheme.kind.dtype(),
        Role::Scales if by_row && coded.scheme.activations.is_none() => dtype,
        Role::Scales | Role::ActivationScale => DType::F32,
        Role::Zeros => DType::I16,
        Role::GroupIndex => DType::I32,
        Role::InputScales => dtype,
    }
}

/// Says what tensors there would be, and has none of their elements.
pub struct Blank<'a> {
    plain: &'a dyn Provider,
    tensors: Tensors<'a>,
}

impl<'a> Blank<'a> {
    /// As [`Tensors::new`].
    ///
    /// # Errors
    /// As [`Tensors::new`].
    pub fn new(
        plain: &'a dyn Provider,
        stored: &'a Stored,
        dtype: DType,
    ) -> Result<Blank<'a>, QuantError> {
        Ok(Blank { plain, tensors: Tensors::new(plain, stored, dtype)? })
    }
}

impl Provider for Blank<'_> {
    fn names(&self) -> &[String] {
        &self.tensors.names
    }

    fn get(&self, name: &str) -> Option<&Supply> {
        let made = self.tensors.made.get(name).map(|made| &made.supply);
        made.or_else(|| self.plain.get(name))
    }

    fn stream(
        &self,
        name: &str,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), FileError>,
    ) -> Result<(), WeightError> {
        match self.tensors.made.contains_key(name) {
            true => Err(WeightError::Unknown { parameter: name.to_owned() }),
            false => self.plain.stream(name, sink),
        }
    }
}
