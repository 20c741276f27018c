//! Codes of weights that were quantised before, got back from what they stand for.
//!
//! A source shows a weight of codes as numbers, and, on request, the scale, the zero point or the
//! group of each element in place of it. What an architecture does to a weight on its way (rows
//! sorted anew, matrices joined, heads cut out) happens to all of these alike, so what comes out
//! is a weight with the scale, the zero point and the group of each element, and its codes are
//!
//! ```text
//! code[o, i] = weight[o, i] / scale[o, i] + zero[o, i]
//! ```
//! That each of them is a whole number within bounds, from which exactly that weight comes back,
//! is checked: nothing is rounded, and whatever else was done to a weight is an error.

use std::ops::RangeInclusive;

use engraft_files::FileError;
use engraft_ir::{CodeKind, DType};
use engraft_weights::{Provider, Supply, WeightError};

use crate::made::{Made, Tensors};
use crate::{Grouping, QuantError, Role, Stored, codes};

/// What a source shows of the weights, all of `f32` and of the weights' shapes.
#[derive(Clone, Copy)]
pub struct Views<'a> {
    /// What codes stand for.
    pub weights: &'a dyn Provider,
    /// The scale of each element.
    pub scales: &'a dyn Provider,
    /// The zero point of each.
    pub zeros: &'a dyn Provider,
    /// The group of each.
    pub groups: &'a dyn Provider,
}

/// Provides the tensors of weights that were quantised before, and all other weights as `plain`
/// does.
pub struct Recovered<'a> {
    plain: &'a dyn Provider,
    views: Views<'a>,
    tensors: Tensors<'a>,
}

impl<'a> Recovered<'a> {
    /// The weights of `plain`, of which some are `stored` as codes.
    ///
    /// # Errors
    /// A weight that is cut within what only makes sense whole.
    pub fn new(
        plain: &'a dyn Provider,
        views: Views<'a>,
        stored: &'a Stored,
    ) -> Result<Recovered<'a>, QuantError> {
        let tensors = Tensors::new(plain, stored, DType::F32)?;
        Ok(Recovered { plain, views, tensors })
    }
}

impl Provider for Recovered<'_> {
    fn names(&self) -> &[String] {
        &self.tensors.names
    }

    fn get(&self, name: &str) -> Option<&Supply> {
        match self.tensors.made.get(name) {
            Some(made) => Some(&made.supply),
            None => self.plain.get(name),
        }
    }

    fn held(&self, name: &str) -> u64 {
        match self.tensors.made.get(name) {
            // Pieces of a view, and for codes the scales, zero points and groups as well.
            Some(made) => {
                // And of each view, what its source holds.
                let held = self.views.weights.held(made.weight).saturating_mul(4);
                held.saturating_add(made.coded.shape.iter().product::<u64>() / 4)
            }
            None => self.plain.held(name),
        }
    }

    fn stream(
        &self,
        name: &str,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), FileError>,
    ) -> Result<(), WeightError> {
        let Some(made) = self.tensors.made.get(name) else { return self.plain.stream(name, sink) };
        match made.role {
            Role::GroupIndex => {
                let index = self.group_index(made)?;
                Ok(sink(&bytes(index.iter().map(|group| group.to_le_bytes())))?)
            }
            Role::Scales => {
                let scales = self.grouped(made, self.views.scales, "scales")?;
                Ok(sink(&bytes(scales.iter().map(|scale| scale.to_le_bytes())))?)
            }
            Role::Zeros => {
                let zeros = self.grouped(made, self.views.zeros, "zero points")?;
                Ok(sink(&bytes(zeros.iter().map(|zero| (*zero as i16).to_le_bytes())))?)
            }
            Role::Codes => self.codes(made, sink),
            // No source has these.
            Role::InputScales | Role::ActivationScale => {
                Err(WeightError::Unknown { parameter: name.to_owned() })
            }
        }
    }
}

fn bytes<const N: usize>(elements: impl Iterator<Item = [u8; N]>) -> Vec<u8> {
    elements.flatten().collect()
}

/// That a weight's codes are not what its source says.
fn unlike(weight: &str, what: &'static str) -> WeightError {
    WeightError::NotCodes { parameter: weight.to_owned(), what }
}

impl Recovered<'_> {
    /// The group of each input; of neighbours, where the scheme says no more.
    fn group_index(&self, made: &Made<'_>) -> Result<Vec<i32>, WeightError> {
        let columns = made.coded.shape[made.coded.shape.len() - 1] as usize;
        let Grouping::Group(size) = made.coded.scheme.grouping else {
            return Ok(vec![0; columns]);
        };
        if !made.coded.scheme.group_index {
            return Ok((0..columns).map(|input| (input as u64 / size) as i32).collect());
        }
        let mut index: Vec<i32> = Vec::new();
        let mut same = true;
        rows(self.views.groups, made.weight, columns, &mut |row| {
            let groups = row.iter().map(|group| *group as i32);
            if index.is_empty() {
                index = groups.collect();
            } else {
                same &= groups.eq(index.iter().copied());
            }
            Ok(())
        })?;
        match same {
            true => Ok(index),
            false => Err(unlike(made.weight, "rows with different groups of inputs")),
        }
    }

    /// Of each row, what a view shows of each group.
    fn grouped(
        &self,
        made: &Made<'_>,
        view: &dyn Provider,
        what: &'static str,
    ) -> Result<Vec<f32>, WeightError> {
        let index = self.group_index(made)?;
        let groups = match made.coded.scheme.grouping {
            Grouping::Group(size) => index.len() / size as usize,
            Grouping::Tensor | Grouping::Row => 1,
        };
        let mut all = Vec::new();
        let mut same = true;
        rows(view, made.weight, index.len(), &mut |row| {
            let from = all.len();
            all.resize(from + groups, f32::NAN);
            for (shown, &group) in row.iter().zip(&index) {
                let of = &mut all[from + group as usize];
                if of.is_nan() {
                    *of = *shown;
                }
                same &= of == shown;
            }
            // A group that no input is of.
            all[from..].iter_mut().filter(|of| of.is_nan()).for_each(|of| *of = 0.0);
            Ok(())
        })?;
        let difference = match what {
            "scales" => "scales that differ within a group",
            _ => "zero points that differ within a group",
        };
        if same { Ok(all) } else { Err(unlike(made.weight, difference)) }
    }

    fn codes(
        &self,
        made: &Made<'_>,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), FileError>,
    ) -> Result<(), WeightError> {
        let scheme = made.coded.scheme;
        let index = self.group_index(made)?;
        let scales = self.grouped(made, self.views.scales, "scales")?;
        let zeros = match scheme.zeros {
            true => self.grouped(made, self.views.zeros, "zero points")?,
            false => vec![0.0; scales.len()],
        };
        let groups = match scheme.grouping {
            Grouping::Group(size) => index.len() / size as usize,
            Grouping::Tensor | Grouping::Row => 1,
        };
        let within: RangeInclusive<f32> = match scheme.kind {
            CodeKind::Int4 => -8.0..=7.0,
            CodeKind::Int8 | CodeKind::Fp8 => -128.0..=127.0,
        };
        let (mut number, mut exact) = (0, true);
        let (mut even, mut row_codes): (Vec<i8>, Vec<i8>) = (Vec::new(), Vec::new());
        rows(self.views.weights, made.weight, index.len(), &mut |row| {
            let (scales, zeros) = (&scales[number * groups..], &zeros[number * groups..]);
            row_codes.clear();
            row_codes.extend(row.iter().zip(&index).map(|(&weight, &group)| {
                let (scale, zero) = (scales[group as usize], zeros[group as usize]);
                let steps = if scale == 0.0 { 0.0 } else { (weight / scale).round() };
                let code = match scale == 0.0 {
                    // All codes stand for 0.
                    true => zero.clamp(*within.start(), *within.end()),
                    false => steps + zero,
                };
                exact &= within.contains(&code) && steps * scale == weight;
                code as i8
            }));
            number += 1;
            match scheme.kind {
                CodeKind::Int4 if number % 2 == 1 => {
                    std::mem::swap(&mut even, &mut row_codes);
                    Ok(())
                }
                CodeKind::Int4 => sink(&codes::pack(&even, &row_codes)),
                _ => sink(&bytes(row_codes.iter().map(|code| code.to_le_bytes()))),
            }
        })?;
        match exact {
            true => Ok(()),
            false => Err(unlike(made.weight, "numbers that are no codes times their scales")),
        }
    }
}

/// Hands the rows of a weight of `f32` to `each`.
fn rows(
    provider: &dyn Provider,
    name: &str,
    columns: usize,
    each: &mut dyn FnMut(&[f32]) -> Result<(), FileError>,
) -> Result<(), WeightError> {
    let mut rest = Vec::new();
    let mut row = Vec::with_capacity(columns);
    provider.stream(name, &mut |piece| {
        rest.extend_from_slice(piece);
        let whole = rest.len() - rest.len() % (4 * columns.max(1));
        for bytes in rest[..whole].chunks_exact(4 * columns.max(1)) {
            row.clear();
            row.extend(bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)));
            each(&row)?;
        }
        rest.drain(..whole);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scheme;
    use crate::testing::{Lone, of};

    /// A scheme of groups of two.
    fn pairs(zeros: bool, group_index: bool) -> Scheme {
        let scheme = Scheme::from_name("W4A16_GPTQ").unwrap();
        Scheme { grouping: Grouping::Group(2), zeros, group_index, ..scheme }
    }

    fn stored(scheme: Scheme) -> Stored {
        Stored::new(&[("x.weight".to_owned(), vec![2, 4])], &|_, _| Some(scheme)).unwrap()
    }

    fn lone(values: [f32; 8]) -> Lone {
        Lone::new(&[2, 4], &values)
    }

    #[test]
    fn codes_come_back_with_their_scales_and_zero_points() {
        let weights = lone([1.0, -0.5, 6.0, 0.0, 0.25, 0.5, 3.0, 1.0]);
        let scales = lone([0.5, 0.5, 2.0, 2.0, 0.25, 0.25, 1.0, 1.0]);
        let zeros = lone([1.0, 1.0, -2.0, -2.0, 0.0, 0.0, 4.0, 4.0]);
        let groups = lone([0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0]);
        let views = Views { weights: &weights, scales: &scales, zeros: &zeros, groups: &groups };
        let stored = stored(pairs(true, false));
        let all = Recovered::new(&weights, views, &stored).unwrap();
        assert_eq!(of(&all, "x.weight"), codes::pack(&[3, 0, 1, -2], &[1, 2, 7, 5]));
        let zeros: Vec<u8> = [1i16, -2, 0, 4].iter().flat_map(|zero| zero.to_le_bytes()).collect();
        assert_eq!(of(&all, "x.weights_zero_point"), zeros);
        let scales: Vec<u8> =
            [0.5f32, 2.0, 0.25, 1.0].iter().flat_map(|scale| scale.to_le_bytes()).collect();
        assert_eq!(of(&all, "x.weights_scaling_factor"), scales);
    }

    #[test]
    fn groups_may_be_anywhere() {
        let weights = lone([1.0, 2.0, -1.0, 4.0, 3.0, 0.0, 3.0, 0.0]);
        let scales = lone([1.0, 2.0, 1.0, 2.0, 3.0, 1.0, 3.0, 1.0]);
        let groups = lone([0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0]);
        let views = Views { weights: &weights, scales: &scales, zeros: &scales, groups: &groups };
        let stored = stored(pairs(false, true));
        let all = Recovered::new(&weights, views, &stored).unwrap();
        assert_eq!(of(&all, "x.weight"), codes::pack(&[1, 1, -1, 2], &[1, 0, 1, 0]));
        let index: Vec<u8> = [0i32, 1, 0, 1].iter().flat_map(|group| group.to_le_bytes()).collect();
        assert_eq!(of(&all, "x.g_idx"), index);
    }

    #[test]
    fn what_is_no_code_is_an_error() {
        let ones = lone([1.0; 8]);
        let stored = stored(pairs(false, false));
        let fails = |weights: &Lone, scales: &Lone| {
            let views = Views { weights, scales, zeros: &ones, groups: &ones };
            let all = Recovered::new(weights, views, &stored).unwrap();
            all.stream("x.weight", &mut |_| Ok(())).unwrap_err().to_string()
        };
        let weights = lone([1.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert!(fails(&weights, &ones).contains("no codes"));
        let weights = lone([8.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert!(fails(&weights, &ones).contains("no codes"));
        let scales = lone([1.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
        assert!(fails(&ones, &scales).contains("within a group"));
    }
}
