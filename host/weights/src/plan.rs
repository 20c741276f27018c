//! Everything about a model's parameters that can be known before a byte of weights is read.

use crate::error::{Listing, WeightError};
use crate::origin::{Origin, Parameter, Part, full_name};
use crate::provider::{Provider, Supply};
use crate::steps::{Recipe, cook};
use crate::stream::{self, PIECE, PartStream};
use engraft_files::FileError;
use engraft_ir::{DType, PlaceKind, display_axes};
use engraft_source::Source;
use globset::{GlobBuilder, GlobMatcher};
use std::collections::{BTreeMap, BTreeSet};

/// The parameters of a model over a source: all there, all of the right shape, and nothing of
/// the source left over.
pub struct Plan<'a> {
    source: &'a Source,
    names: Vec<String>,
    entries: BTreeMap<String, Entry>,
    left_out: Vec<(String, String)>,
    piece: usize,
}

struct Entry {
    supply: Supply,
    /// One behind the other; none where it is tied.
    runs: Vec<Run>,
}

/// Parts side by side.
struct Run {
    /// How often their rows alternate: the axes outside of the one along which they are joined.
    outer: u64,
    parts: Vec<Recipe>,
}

impl<'a> Plan<'a> {
    /// Plans `parameters`, in the order of places, as elements of type `dtype`.
    ///
    /// One whose [`crate::Precision`] is `Single` is of F32 instead; `Keep` does not matter here, for it
    /// holds off quantisation alone. What is tied has the type of what it is tied to.
    ///
    /// `unused` are patterns (`*.rotary_emb.inv_freq`) of tensors that are left out, with the
    /// reason of each.
    ///
    /// # Errors
    /// All source tensors that are missing, or else all that are left over, in one error; the
    /// first shape that does not come out; whatever a plugin said that no source can satisfy.
    pub fn new(
        source: &'a Source,
        parameters: &[(PlaceKind, Parameter)],
        dtype: DType,
        unused: &[(String, String)],
    ) -> Result<Plan<'a>, WeightError> {
        let patterns = patterns(unused)?;
        let used: BTreeSet<&str> = parameters
            .iter()
            .flat_map(|(_, parameter)| parameter.origin.joints())
            .flat_map(|(_, parts)| parts.iter().flat_map(Part::tensors))
            .collect();
        let mut left_out = Vec::new();
        let mut unexplained = Listing::default();
        for (name, info) in source.tensors().iter().filter(|(n, _)| !used.contains(n.as_str())) {
            match patterns.iter().find(|(pattern, _)| pattern.is_match(name)) {
                Some((_, reason)) => left_out.push((name.clone(), (*reason).clone())),
                None => {
                    let line = format!("`{name}` {:?} {}", info.shape, info.stored);
                    unexplained.0.push(line);
                }
            }
        }
        let missing = missing(source, parameters);
        if !missing.0.is_empty() {
            let source_path = source.path().to_owned();
            return Err(WeightError::Missing { missing, unused: unexplained, source_path });
        }

        let mut names = Vec::with_capacity(parameters.len());
        let mut entries = BTreeMap::new();
        for (place, parameter) in parameters {
            let name = full_name(*place, &parameter.name);
            let entry = match &parameter.origin {
                Origin::Tied(to) => tied(&entries, *place, &name, to)?,
                origin => entry(source, *place, &name, origin, parameter.precision.dtype(dtype))?,
            };
            if entries.insert(name.clone(), entry).is_some() {
                return Err(WeightError::Twice { parameter: name, place: place.to_string() });
            }
            names.push(name);
        }
        if !unexplained.0.is_empty() {
            let source_path = source.path().to_owned();
            return Err(WeightError::Unused { unused: unexplained, source_path });
        }
        Ok(Plan { source, names, entries, left_out, piece: PIECE })
    }

    /// Source tensors that are left out on purpose, each with the reason.
    pub fn left_out(&self) -> &[(String, String)] {
        &self.left_out
    }

    /// The source tensors that are used and all zeros. Of each that is not, only the beginning is
    /// read.
    ///
    /// # Errors
    /// What cannot be read.
    pub fn zeros(&self) -> Result<Vec<String>, WeightError> {
        let runs = self.entries.values().flat_map(|entry| &entry.runs);
        let used: BTreeSet<&str> =
            runs.flat_map(|run| &run.parts).flat_map(Recipe::tensors).collect();
        let mut zeros = Vec::new();
        for name in used {
            if self.is_zero(name)? {
                zeros.push(name.to_owned());
            }
        }
        Ok(zeros)
    }

    fn is_zero(&self, name: &str) -> Result<bool, WeightError> {
        let Some(info) = self.source.tensors().get(name) else { return Ok(false) };
        let count: u64 = info.shape.iter().product();
        let (mut at, mut step) = (0, 64);
        let mut bytes = Vec::new();
        while at < count {
            let end = count.min(at + step);
            bytes.clear();
            self.source.read_elements(name, at..end, &mut bytes)?;
            if bytes.iter().any(|&byte| byte != 0) {
                return Ok(false);
            }
            // Longer and longer: what begins with zeros may be all zeros.
            (at, step) = (end, (step * 8).min(1 << 20));
        }
        Ok(count > 0)
    }

    /// The same plan with pieces of another size.
    #[cfg(test)]
    pub(crate) fn in_pieces_of(self, piece: usize) -> Plan<'a> {
        Plan { piece, ..self }
    }
}

fn patterns(unused: &[(String, String)]) -> Result<Vec<(GlobMatcher, &String)>, WeightError> {
    unused
        .iter()
        .map(|(glob, reason)| {
            let pattern = GlobBuilder::new(glob).build().map_err(|error| WeightError::Glob {
                glob: glob.clone(),
                reason: error.kind().to_string(),
            })?;
            Ok((pattern.compile_matcher(), reason))
        })
        .collect()
}

/// Every tensor that an origin names and the source lacks, with the parameter that needs it.
fn missing(source: &Source, parameters: &[(PlaceKind, Parameter)]) -> Listing {
    let mut lines = Vec::new();
    for (place, parameter) in parameters {
        let axes = match parameter.origin.axes() {
            Ok(Some(axes)) => display_axes(&axes),
            _ => String::new(),
        };
        for part in parameter.origin.joints().into_iter().flat_map(|(_, parts)| parts) {
            for tensor in part.tensors().filter(|t| !source.tensors().contains_key(*t)) {
                let name = full_name(*place, &parameter.name);
                lines.push(format!("`{tensor}`, for `{name}` {axes}"));
            }
        }
    }
    Listing(lines)
}

fn tied(
    entries: &BTreeMap<String, Entry>,
    place: PlaceKind,
    name: &str,
    to: &str,
) -> Result<Entry, WeightError> {
    let to = full_name(PlaceKind::Embed, to);
    match entries.get(&to) {
        Some(Entry { supply, .. }) if supply.tied.is_none() => {
            let supply = Supply { tied: Some(to), ..supply.clone() };
            Ok(Entry { supply, runs: Vec::new() })
        }
        _ => Err(WeightError::TiedToNothing {
            parameter: name.to_owned(),
            place: place.to_string(),
            to,
        }),
    }
}

fn entry(
    source: &Source,
    place: PlaceKind,
    name: &str,
    origin: &Origin,
    dtype: DType,
) -> Result<Entry, WeightError> {
    let axes = origin.axes().map_err(|reason| WeightError::Origin {
        parameter: name.to_owned(),
        place: place.to_string(),
        reason: Box::new(reason),
    })?;
    let mut runs = Vec::new();
    for (axis, parts) in origin.joints() {
        let outer = parts.first().map_or(1, |p| p.shape().iter().take(axis).product());
        let parts = parts
            .iter()
            .map(|part| recipe(source, place, name, part))
            .collect::<Result<Vec<_>, WeightError>>()?;
        runs.push(Run { outer, parts });
    }
    let supply = Supply { dtype, axes: axes.unwrap_or_default(), tied: None };
    Ok(Entry { supply, runs })
}

/// The recipe of a part whose tensors are all there, after holding every shape against it.
fn recipe(
    source: &Source,
    place: PlaceKind,
    name: &str,
    part: &Part,
) -> Result<Recipe, WeightError> {
    let shape_of = |tensor: &str| source.tensors().get(tensor).map(|info| info.shape.clone());
    let found = shape_of(&part.tensor).unwrap_or_default();
    let wrong = |tensor: &str, found: &[u64], reason: String| WeightError::Shape {
        tensor: tensor.to_owned(),
        found: found.to_vec(),
        reason,
        parameter: name.to_owned(),
        place: place.to_string(),
    };
    for (tensor, info) in part.tensors().filter_map(|t| source.tensors().get_key_value(t)) {
        if !info.dtype.is_float() {
            return Err(WeightError::NotFloat {
                tensor: tensor.clone(),
                dtype: info.dtype,
                parameter: name.to_owned(),
                place: place.to_string(),
            });
        }
        if info.shape.contains(&0) {
            return Err(wrong(tensor, &info.shape, "a parameter cannot be empty".to_owned()));
        }
    }
    let expected = part.shape();
    let recipe = cook(&part.tensor, &found, &part.steps, &shape_of).map_err(|bad| {
        let (number, step) = (bad.step + 1, &part.steps[bad.step]);
        let (shape, why) = (&bad.shape, &bad.reason);
        let reason = format!(
            "its step {number}, `{step}`, towards {expected:?} cannot be applied to {shape:?}: {why}"
        );
        wrong(&part.tensor, &found, reason)
    })?;
    if recipe.shape == expected {
        return Ok(recipe);
    }
    let reason = match part.steps.last() {
        None => format!("{expected:?} is needed"),
        Some(step) => {
            let made = &recipe.shape;
            format!(
                "its steps, the last of them `{step}`, make {made:?}, and {expected:?} is needed"
            )
        }
    };
    Err(wrong(&part.tensor, &found, reason))
}

impl Provider for Plan<'_> {
    fn names(&self) -> &[String] {
        &self.names
    }

    fn get(&self, name: &str) -> Option<&Supply> {
        self.entries.get(name).map(|entry| &entry.supply)
    }

    fn held(&self, name: &str) -> u64 {
        let Some(entry) = self.entries.get(name) else { return 0 };
        let target = entry.supply.dtype;
        let run = |run: &Run| {
            let piece = self.piece / run.parts.len().max(1);
            let part = |recipe| stream::held(self.source, recipe, target, piece);
            let parts = run.parts.iter().map(part);
            if run.outer == 1 {
                parts.max().unwrap_or(0)
            } else {
                // All at a time, and a piece of what they come to.
                let rows = entry.supply.bytes().min(self.piece as u64);
                parts.fold(rows, u64::saturating_add)
            }
        };
        entry.runs.iter().map(run).max().unwrap_or(0)
    }

    fn stream(
        &self,
        name: &str,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), FileError>,
    ) -> Result<(), WeightError> {
        let unknown = || WeightError::Unknown { parameter: name.to_owned() };
        let entry = self.entries.get(name).ok_or_else(unknown)?;
        if let Some(to) = &entry.supply.tied {
            return self.stream(to, sink);
        }
        for run in &entry.runs {
            if run.outer == 1 {
                for recipe in &run.parts {
                    let mut part = self.part(name, recipe, entry, 1)?;
                    loop {
                        let bytes = part.next(self.piece)?;
                        if bytes.is_empty() {
                            break;
                        }
                        sink(bytes)?;
                    }
                }
            } else {
                self.alternate(name, entry, run, sink)?;
            }
        }
        Ok(())
    }
}

impl Plan<'_> {
    /// A stream of one part, where `beside` parts are streamed at a time.
    fn part<'p>(
        &'p self,
        name: &'p str,
        recipe: &'p Recipe,
        entry: &Entry,
        beside: usize,
    ) -> Result<PartStream<'p>, WeightError> {
        PartStream::new(self.source, recipe, name, entry.supply.dtype, self.piece / beside)
    }

    /// Rows of all parts in turn, as parts lie that are joined along an inner axis.
    fn alternate(
        &self,
        name: &str,
        entry: &Entry,
        run: &Run,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), FileError>,
    ) -> Result<(), WeightError> {
        let mut parts = run
            .parts
            .iter()
            .map(|recipe| self.part(name, recipe, entry, run.parts.len()))
            .collect::<Result<Vec<_>, _>>()?;
        let width = entry.supply.dtype.size();
        let rows: Vec<u64> = run
            .parts
            .iter()
            .map(|recipe| recipe.shape.iter().product::<u64>() / run.outer * width as u64)
            .collect();
        let mut out = Vec::new();
        for _ in 0..run.outer {
            for (part, &row) in parts.iter_mut().zip(&rows) {
                let mut missing = row as usize;
                while missing > 0 {
                    let bytes = part.next(missing.min(self.piece))?;
                    if bytes.is_empty() {
                        break;
                    }
                    out.extend_from_slice(bytes);
                    missing -= bytes.len();
                    if out.len() >= self.piece {
                        sink(&out)?;
                        out.clear();
                    }
                }
            }
        }
        sink(&out)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
