//! Which tensors stand for which weights, and what ranks keep of them.
//!
//! ```text
//! X.weight                    [out / 2, in], or [out, in]    codes of four bits, or of eight
//! X.weights_scaling_factor    [out, in / group], [out] or [1]
//! X.per_channel_scale         [out]           in place of these, of schemes that call them so
//! X.weights_zero_point        [out, in / group]              where groups have zero points
//! X.g_idx                     [in]            where inputs say of which group they are
//! X.prequant_scaling_factor   [in]            where inputs have scales
//! X.activation_scaling_factor [1]             where activations are rounded by one scale
//! ```
//! A mixture's have the experts' axis before these; their activations' scale is one for all. What
//! a rank keeps of the weight says what it keeps of each.

use std::collections::BTreeMap;

use engraft_ir::{CodeKind, DType};
use engraft_weights::{Cut, Listing, Piece, Provider, Share};

use crate::{Grouping, QuantError, Scheme};

/// What the name of a weight ends with, and that of its codes.
pub const WEIGHT: &str = ".weight";
/// What the names of scales end with.
pub const SCALES: &str = ".weights_scaling_factor";
/// The same where a scheme calls them so.
pub const CHANNEL_SCALES: &str = ".per_channel_scale";
/// What the names of zero points end with.
pub const ZEROS: &str = ".weights_zero_point";
/// What the names of inputs' groups end with.
pub const GROUP_INDEX: &str = ".g_idx";
/// What the names of inputs' scales end with.
pub const INPUT_SCALES: &str = ".prequant_scaling_factor";
/// What the names of activations' scales end with.
pub const ACTIVATION_SCALE: &str = ".activation_scaling_factor";

/// What a tensor of a quantised weight is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Codes, as many to a byte as fit.
    Codes,
    /// What a code is multiplied by.
    Scales,
    /// What is subtracted from a code.
    Zeros,
    /// The group of each input.
    GroupIndex,
    /// What activations are multiplied by.
    InputScales,
    /// What activations are rounded to multiples of.
    ActivationScale,
}

/// A quantised weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coded {
    /// How.
    pub scheme: Scheme,
    /// `[out, in]`, after the experts where there are some.
    pub shape: Vec<u64>,
}

impl Coded {
    /// Its tensors: what each is, what its name ends with, and what of it a rank keeps that keeps
    /// `cut` of the weight.
    ///
    /// # Errors
    /// [`QuantError::Cut`] where the cut goes through what only makes sense whole.
    pub fn tensors(
        &self,
        weight: &str,
        cut: &Cut,
    ) -> Result<Vec<(Role, &'static str, Cut)>, QuantError> {
        let within = |what: String| QuantError::Cut { weight: weight.to_owned(), what };
        let ([.., rows, columns], 2..) = (cut.axes.as_slice(), cut.axes.len()) else {
            return Err(within("its only axis".to_owned()));
        };
        let experts = &cut.axes[..cut.axes.len() - 2];
        let with = |axes: &[&Vec<Piece>]| Cut {
            axes: experts.iter().chain(axes.iter().copied()).cloned().collect(),
        };
        let Scheme { kind, grouping, zeros, group_index, input_scales, activations } = self.scheme;
        let codes = match kind {
            CodeKind::Int4 => {
                divided(rows, 2).ok_or_else(|| within("a pair of rows".to_owned()))?
            }
            CodeKind::Int8 | CodeKind::Fp8 => rows.clone(),
        };
        let all = |size: u64| vec![Piece::Keep(0..size)];
        let inputs = self.shape[self.shape.len() - 1];
        let scales = match grouping {
            Grouping::Tensor => with(&[&all(1)]),
            Grouping::Row => with(&[rows]),
            // Inputs of one group are anywhere.
            Grouping::Group(size) if group_index => with(&[rows, &all(inputs / size)]),
            Grouping::Group(size) => {
                let groups = divided(columns, size);
                let torn = || within(format!("a group of {size} inputs"));
                with(&[rows, &groups.ok_or_else(torn)?])
            }
        };
        let scale_name = match (kind, grouping) {
            (CodeKind::Fp8, Grouping::Row) => CHANNEL_SCALES,
            (_, Grouping::Row) if activations.is_none() => CHANNEL_SCALES,
            _ => SCALES,
        };
        let mut tensors = vec![(Role::Codes, WEIGHT, with(&[&codes, columns]))];
        tensors.push((Role::Scales, scale_name, scales.clone()));
        if zeros {
            tensors.push((Role::Zeros, ZEROS, scales));
        }
        if group_index {
            tensors.push((Role::GroupIndex, GROUP_INDEX, with(&[columns])));
        }
        if input_scales {
            tensors.push((Role::InputScales, INPUT_SCALES, with(&[columns])));
        }
        if activations.is_some_and(|activations| activations.is_static) {
            tensors.push((Role::ActivationScale, ACTIVATION_SCALE, Cut { axes: vec![all(1)] }));
        }
        Ok(tensors)
    }
}

/// The tensors of a checkpoint of which some weights are quantised.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    weights: BTreeMap<String, Coded>,
    /// Every tensor with its shape, in the order of the weights that they stand for.
    pub tensors: Vec<(String, Vec<u64>)>,
}

impl Stored {
    /// What is stored for `weights`, of which those that `scheme` says are quantised.
    ///
    /// # Errors
    /// A quantised weight that is no matrix, has an odd number of rows that lie in pairs, or no
    /// whole groups.
    pub fn new(
        weights: &[(String, Vec<u64>)],
        scheme: &dyn Fn(&str, &[u64]) -> Option<Scheme>,
    ) -> Result<Stored, QuantError> {
        let mut all = Stored::default();
        for (name, shape) in weights {
            let quantised = name.strip_suffix(WEIGHT).zip(scheme(name, shape));
            let Some((module, scheme)) = quantised else {
                all.tensors.push((name.clone(), shape.clone()));
                continue;
            };
            let coded = Coded { scheme, shape: shape.clone() };
            for (_, suffix, cut) in coded.tensors(name, &Cut::whole(shape))? {
                all.tensors.push((format!("{module}{suffix}"), cut.shape()));
            }
            all.weights.insert(name.clone(), coded);
        }
        Ok(all)
    }

    /// What a quantised weight is; none for any other tensor.
    pub fn get(&self, name: &str) -> Option<&Coded> {
        self.weights.get(name)
    }

    /// A quantised weight with its name.
    pub(crate) fn find(&self, name: &str) -> Option<(&str, &Coded)> {
        self.weights.get_key_value(name).map(|(name, coded)| (name.as_str(), coded))
    }

    /// The quantised weights, by name.
    pub fn weights(&self) -> impl Iterator<Item = (&str, &Coded)> {
        self.weights.iter().map(|(name, coded)| (name.as_str(), coded))
    }

    /// How many weights are quantised.
    pub fn count(&self) -> usize {
        self.weights.len()
    }

    /// What ranks keep of the tensors, given what they keep of the weights.
    ///
    /// # Errors
    /// [`QuantError::Cut`] for a rank whose part begins within a group, or between two rows of
    /// which one byte has both codes.
    pub fn shares(&self, shares: &[Share]) -> Result<Vec<Share>, QuantError> {
        let of = |share: &Share| -> Result<Vec<Share>, QuantError> {
            let coded = self.weights.get(&share.source);
            let modules = share.source.strip_suffix(WEIGHT).zip(share.name.strip_suffix(WEIGHT));
            let Some((coded, (source, name))) = coded.zip(modules) else {
                return Ok(vec![share.clone()]);
            };
            let tensors = coded.tensors(&share.source, &share.cut)?.into_iter();
            let share = |(_, suffix, cut)| Share {
                name: format!("{name}{suffix}"),
                source: format!("{source}{suffix}"),
                cut,
            };
            Ok(tensors.map(share).collect())
        };
        Ok(shares.iter().map(of).collect::<Result<Vec<_>, _>>()?.concat())
    }

    /// Whether a provider has the tensors of all quantised weights.
    ///
    /// # Errors
    /// [`QuantError::Misfits`]: all tensors that are missing, have another shape or another type.
    pub fn check(&self, provider: &dyn Provider) -> Result<(), QuantError> {
        let mut misfits = Vec::new();
        for (weight, coded) in &self.weights {
            let module = weight.strip_suffix(WEIGHT).unwrap_or(weight);
            for (role, suffix, cut) in coded.tensors(weight, &Cut::whole(&coded.shape))? {
                let (name, shape) = (format!("{module}{suffix}"), cut.shape());
                let (fits, kind): (fn(DType, CodeKind) -> bool, _) = match role {
                    Role::Codes => (is_code, "codes"),
                    Role::Zeros => (|dtype, _| dtype == DType::I16, "i16"),
                    Role::GroupIndex => (|dtype, _| dtype == DType::I32, "i32"),
                    _ => (|dtype, _| dtype.is_float(), "floats"),
                };
                match provider.get(&name) {
                    None => misfits.push(format!("`{name}` {shape:?} is missing")),
                    Some(found) if found.shape() != shape => {
                        misfits.push(format!("`{name}` is {:?}, not {shape:?}", found.shape()));
                    }
                    Some(found) if !fits(found.dtype, coded.scheme.kind) => {
                        misfits.push(format!("`{name}` holds {}, and no {kind}", found.dtype));
                    }
                    Some(_) => {}
                }
            }
        }
        if misfits.is_empty() { Ok(()) } else { Err(QuantError::Misfits(Listing(misfits))) }
    }
}

/// Whether elements can be codes of a kind: floats of eight bits may be stored as plain bytes.
fn is_code(dtype: DType, kind: CodeKind) -> bool {
    dtype == kind.dtype() || dtype == DType::U8 || dtype == DType::I8
}

/// The same stretches of an axis of which each index stands for `by`; none where one would be cut.
fn divided(pieces: &[Piece], by: u64) -> Option<Vec<Piece>> {
    let whole = |n: u64| n.is_multiple_of(by).then_some(n / by);
    let piece = |piece: &Piece| match piece {
        Piece::Keep(range) => Some(Piece::Keep(whole(range.start)?..whole(range.end)?)),
        Piece::Zeros(count) => Some(Piece::Zeros(whole(*count)?)),
    };
    pieces.iter().map(piece).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scheme(name: &str) -> Scheme {
        let scheme = Scheme::from_name(name).unwrap();
        match scheme.grouping {
            Grouping::Group(_) => Scheme { grouping: Grouping::Group(4), ..scheme },
            _ => scheme,
        }
    }

    fn stored(shape: &[u64], scheme: Scheme) -> Result<Stored, QuantError> {
        let weights = [("a.weight".to_owned(), shape.to_vec()), ("n.weight".to_owned(), vec![8])];
        Stored::new(&weights, &|name, _| (name == "a.weight").then_some(scheme))
    }

    fn share(axes: Vec<Vec<Piece>>) -> Vec<Share> {
        let name = "a.weight".to_owned();
        vec![Share { source: name.clone(), name, cut: Cut { axes } }]
    }

    fn cuts(shares: &[Share]) -> Vec<String> {
        shares.iter().map(|share| share.cut.to_string()).collect()
    }

    #[test]
    fn a_weight_is_several_tensors() {
        let awq = Scheme { input_scales: true, ..scheme("W4A16_AWQ") };
        let all = stored(&[6, 8], awq).unwrap().tensors;
        let named: Vec<(&str, &[u64])> = all.iter().map(|(n, s)| (n.as_str(), &s[..])).collect();
        let expected: [(&str, &[u64]); 4] = [
            ("a.weight", &[3, 8]),
            ("a.weights_scaling_factor", &[6, 2]),
            ("a.prequant_scaling_factor", &[8]),
            ("n.weight", &[8]),
        ];
        assert_eq!(named, expected);
        let experts = stored(&[5, 6, 8], awq).unwrap().tensors;
        assert_eq!(experts[1].1, [5, 6, 2]);
        assert_eq!(experts[2].1, [5, 8]);
        let fp8 = stored(&[5, 6, 8], scheme("FP8")).unwrap().tensors;
        assert_eq!(fp8[1], ("a.weights_scaling_factor".to_owned(), vec![5, 1]));
        assert_eq!(fp8[2], ("a.activation_scaling_factor".to_owned(), vec![1]));
        let rows = stored(&[6, 8], scheme("FP8_PER_CHANNEL_PER_TOKEN")).unwrap().tensors;
        assert_eq!(rows[1], ("a.per_channel_scale".to_owned(), vec![6]));
        assert_eq!(rows.len(), 3);
    }

    #[test]
    fn odd_rows_and_torn_groups_are_turned_down() {
        for (shape, word) in [(&[5, 8][..], "pair"), (&[6, 6], "group of 4"), (&[8], "only axis")] {
            let error = stored(shape, scheme("W4A16_GPTQ")).map(drop).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
        assert!(stored(&[5, 8], scheme("W8A16_GPTQ")).is_ok());
    }

    #[test]
    fn ranks_keep_of_each_tensor_what_they_keep_of_the_weight() {
        let awq = Scheme { input_scales: true, ..scheme("W4A16_AWQ") };
        let all = stored(&[8, 8], awq).unwrap();
        let keep = |range| vec![Piece::Keep(range)];
        let rows = all.shares(&share(vec![keep(2..6), keep(0..8)])).unwrap();
        assert_eq!(cuts(&rows), ["[1..3, 0..8]", "[2..6, 0..2]", "[0..8]"]);
        let columns = all.shares(&share(vec![keep(0..8), keep(4..8)])).unwrap();
        assert_eq!(cuts(&columns), ["[0..4, 4..8]", "[0..8, 1..2]", "[4..8]"]);
        assert!(all.shares(&share(vec![keep(1..5), keep(0..8)])).is_err());
        assert!(all.shares(&share(vec![keep(0..8), keep(2..8)])).is_err());

        let by_activation = Scheme { zeros: true, group_index: true, ..scheme("W4A16_GPTQ") };
        let all = stored(&[8, 8], by_activation).unwrap();
        let columns = all.shares(&share(vec![keep(0..8), keep(2..8)])).unwrap();
        assert_eq!(cuts(&columns), ["[0..4, 2..8]", "[0..8, 0..2]", "[0..8, 0..2]", "[2..8]"]);
    }
}
