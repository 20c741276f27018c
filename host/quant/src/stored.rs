//! Which tensors stand for which weights, and what ranks keep of them.
//!
//! ```text
//! X.weight                  [out / 2, in]      codes
//! X.weights_scaling_factor  [out, in / group]
//! X.prequant_scaling_factor [in]               where inputs have scales
//! ```
//! A mixture's have the experts' axis before these. What a rank keeps of the weight says what it
//! keeps of each.

use std::collections::BTreeMap;

use engraft_weights::{Cut, Piece, Share};

use crate::{QuantError, Scheme};

const WEIGHT: &str = ".weight";
pub(crate) const SCALES: &str = ".weights_scaling_factor";
pub(crate) const INPUT_SCALES: &str = ".prequant_scaling_factor";

/// The tensors of a checkpoint of a scheme.
#[derive(Clone, Debug)]
pub struct Stored {
    scheme: Scheme,
    /// The weights that are quantised, with their shapes.
    weights: BTreeMap<String, Vec<u64>>,
    /// Every tensor with its shape, in the order of the weights that they stand for.
    pub tensors: Vec<(String, Vec<u64>)>,
}

impl Stored {
    /// What a scheme stores for `weights`, of which `is_quantised` are not floats.
    ///
    /// # Errors
    /// A quantised weight that is no matrix, has an odd number of rows, or no whole groups.
    pub fn new(
        scheme: Scheme,
        weights: &[(String, Vec<u64>)],
        is_quantised: &dyn Fn(&str) -> bool,
    ) -> Result<Stored, QuantError> {
        let mut all = Stored { scheme, weights: BTreeMap::new(), tensors: Vec::new() };
        for (name, shape) in weights {
            let Some(module) = name.strip_suffix(WEIGHT).filter(|_| is_quantised(name)) else {
                all.tensors.push((name.clone(), shape.clone()));
                continue;
            };
            let cut = Cut::whole(shape);
            for (suffix, cut) in all.cuts(name, &cut)? {
                all.tensors.push((format!("{module}{suffix}"), cut.shape()));
            }
            all.weights.insert(name.clone(), shape.clone());
        }
        Ok(all)
    }

    /// How it is quantised.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The shape of a quantised weight; none for any other tensor.
    pub fn weight(&self, name: &str) -> Option<&[u64]> {
        self.weights.get(name).map(Vec::as_slice)
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
    pub fn shares(&self, ranks: &[Vec<Share>]) -> Result<Vec<Vec<Share>>, QuantError> {
        let of = |share: &Share| -> Result<Vec<Share>, QuantError> {
            let whole = share.source.strip_suffix(WEIGHT);
            let named = share.name.strip_suffix(WEIGHT);
            let (Some(source), Some(name)) = (whole, named) else { return Ok(vec![share.clone()]) };
            if self.weight(&share.source).is_none() {
                return Ok(vec![share.clone()]);
            }
            let cuts = self.cuts(&share.source, &share.cut)?.into_iter();
            let share = |(suffix, cut)| Share {
                name: format!("{name}{suffix}"),
                source: format!("{source}{suffix}"),
                cut,
            };
            Ok(cuts.map(share).collect())
        };
        let rank = |shares: &Vec<Share>| -> Result<Vec<Share>, QuantError> {
            Ok(shares.iter().map(of).collect::<Result<Vec<_>, _>>()?.concat())
        };
        ranks.iter().map(rank).collect()
    }

    /// What is kept of each tensor of a weight, by what its name ends with.
    fn cuts(&self, weight: &str, cut: &Cut) -> Result<Vec<(&'static str, Cut)>, QuantError> {
        let within = |what: String| QuantError::Cut { weight: weight.to_owned(), what };
        let ([.., rows, columns], 2..) = (cut.axes.as_slice(), cut.axes.len()) else {
            return Err(within("its only axis".to_owned()));
        };
        let experts = &cut.axes[..cut.axes.len() - 2];
        let pairs = divided(rows, 2).ok_or_else(|| within("a pair of rows".to_owned()))?;
        let group = self.scheme.group;
        let groups =
            divided(columns, group).ok_or_else(|| within(format!("a group of {group} inputs")))?;
        let with = |axes: &[&Vec<Piece>]| Cut {
            axes: experts.iter().chain(axes.iter().copied()).cloned().collect(),
        };
        let mut all = vec![(WEIGHT, with(&[&pairs, columns])), (SCALES, with(&[rows, &groups]))];
        if self.scheme.input_scales {
            all.push((INPUT_SCALES, with(&[columns])));
        }
        Ok(all)
    }
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

    const SCHEME: Scheme = Scheme { group: 4, input_scales: true };

    fn stored(shape: &[u64]) -> Result<Stored, QuantError> {
        let weights = [("a.weight".to_owned(), shape.to_vec()), ("n.weight".to_owned(), vec![8])];
        Stored::new(SCHEME, &weights, &|name| name == "a.weight")
    }

    fn share(axes: Vec<Vec<Piece>>) -> Vec<Vec<Share>> {
        let name = "a.weight".to_owned();
        vec![vec![Share { source: name.clone(), name, cut: Cut { axes } }]]
    }

    #[test]
    fn a_weight_is_three_tensors() {
        let all = stored(&[6, 8]).unwrap().tensors;
        let named: Vec<(&str, &[u64])> = all.iter().map(|(n, s)| (n.as_str(), &s[..])).collect();
        let expected: [(&str, &[u64]); 4] = [
            ("a.weight", &[3, 8]),
            ("a.weights_scaling_factor", &[6, 2]),
            ("a.prequant_scaling_factor", &[8]),
            ("n.weight", &[8]),
        ];
        assert_eq!(named, expected);
        let experts = stored(&[5, 6, 8]).unwrap().tensors;
        assert_eq!(experts[1].1, [5, 6, 2]);
        assert_eq!(experts[2].1, [5, 8]);
    }

    #[test]
    fn odd_rows_and_torn_groups_are_turned_down() {
        for (shape, word) in [(&[5, 8][..], "pair"), (&[6, 6], "group of 4"), (&[8], "only axis")] {
            let error = stored(shape).map(drop).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
    }

    #[test]
    fn ranks_keep_of_each_tensor_what_they_keep_of_the_weight() {
        let all = stored(&[8, 8]).unwrap();
        let keep = |range| vec![Piece::Keep(range)];
        let rows = all.shares(&share(vec![keep(2..6), keep(0..8)])).unwrap();
        let cuts: Vec<String> = rows[0].iter().map(|share| share.cut.to_string()).collect();
        assert_eq!(cuts, ["[1..3, 0..8]", "[2..6, 0..2]", "[0..8]"]);
        let columns = all.shares(&share(vec![keep(0..8), keep(4..8)])).unwrap();
        let cuts: Vec<String> = columns[0].iter().map(|share| share.cut.to_string()).collect();
        assert_eq!(cuts, ["[0..4, 4..8]", "[0..8, 1..2]", "[4..8]"]);
        assert!(all.shares(&share(vec![keep(1..5), keep(0..8)])).is_err());
        assert!(all.shares(&share(vec![keep(0..8), keep(2..8)])).is_err());
    }
}
