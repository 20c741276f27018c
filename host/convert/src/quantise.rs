//! Which weights of a model are quantised, and where their codes come from.

use crate::{Calibration, ConvertError};
use engraft_checkpoint::{Config, Quantization};
use engraft_compile::Part;
use engraft_ir::{CodeKind, Graph, Op, PlaceKind};
use engraft_quant::{
    Activations, BY_BUILDER, Coded, Grouping, Labelled, QuantError, Rounded, Scheme, Stored,
};
use engraft_source::{Packing, Source};
use engraft_weights::{Parameter, Provider, full_name};
use globset::{Glob, GlobSet, GlobSetBuilder};
use std::collections::{BTreeMap, BTreeSet};

/// How a model is to be quantised.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantise {
    /// By TensorRT-LLM's name; none makes floats of all, also of what is quantised already.
    pub algorithm: Option<String>,
    /// Inputs that share a scale at most, of a scheme with groups.
    pub group_size: u64,
    /// Whether groups have zero points.
    pub zeros: bool,
    /// Whether each token's activations have a scale of their own, of a scheme that rounds them.
    pub per_token: bool,
    /// Modules left alone, as patterns; none is the scheme's default list.
    pub exclude: Option<Vec<String>>,
    /// By what weights are fitted to what they meet; where nothing is said, they are rounded to the
    /// nearest.
    pub calibration: Option<Calibration>,
}

/// Modules that are left alone where nothing else is said.
pub(crate) const EXCLUDED: [&str; 6] = [
    "*lm_head",
    "*router",
    "*vocab_embedding",
    "*position_embedding",
    "*block_embedding",
    "*shared_expert_gate",
];

/// Where codes come from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Way {
    /// A checkpoint holds floats; whoever builds an engine rounds them.
    Builder,
    /// A checkpoint has them.
    Files,
    /// They are rounded as the checkpoint is written.
    Rounding,
    /// The model is run over texts before the checkpoint is written.
    Calibration(Calibration),
    /// The source has them.
    Source,
}

/// Weights that stay as they are, each with the reason.
pub(crate) type Left = Vec<(String, &'static str)>;

/// What of a model is quantised.
#[derive(Clone, Debug)]
pub(crate) struct Quantised {
    /// Which tensors stand for which weights.
    pub stored: Stored,
    /// Where their codes come from.
    pub way: Way,
    /// Weights that the scheme leaves as they are though nothing excludes them, with the reason.
    pub left: Left,
    /// What else is to be said, a sentence each.
    pub notes: Vec<String>,
}

impl Quantised {
    /// `210 weights of W4A16_AWQ, groups of 64`
    pub(crate) fn summary(&self, config: &Config) -> String {
        let Quantization { quant_algo, group_size, .. } = &config.quantization;
        let (count, name) = (self.stored.count(), quant_algo.as_deref().unwrap_or_default());
        let s = if count == 1 { "" } else { "s" };
        let has_groups =
            |(_, coded): (&str, &Coded)| matches!(coded.scheme.grouping, Grouping::Group(_));
        let groups = match self.stored.weights().any(has_groups) {
            true => format!(", groups of {group_size}"),
            false => String::new(),
        };
        let zeros = if config.quantization.has_zero_point { ", with zero points" } else { "" };
        let ordered = self.stored.weights().any(|(_, coded)| coded.scheme.group_index);
        let ordered = if ordered { ", in the order of activations" } else { "" };
        format!("{count} weight{s} of {name}{groups}{zeros}{ordered}")
    }

    /// What is in the files of a checkpoint.
    pub(crate) fn in_files(&self) -> Option<&Stored> {
        (!matches!(self.way, Way::Builder)).then_some(&self.stored)
    }
}

/// The modules that patterns leave alone; `*` stands for anything.
pub(crate) fn excluded(patterns: Option<&[String]>) -> Result<GlobSet, ConvertError> {
    let default: Vec<String> = EXCLUDED.map(str::to_owned).to_vec();
    let mut set = GlobSetBuilder::new();
    for pattern in patterns.unwrap_or(&default) {
        let wrong = |_| QuantError::Pattern { pattern: pattern.clone() };
        set.add(Glob::new(pattern).map_err(wrong)?);
    }
    let wrong = |_| QuantError::Pattern { pattern: patterns.unwrap_or(&default).join(", ") };
    Ok(set.build().map_err(wrong)?)
}

/// The matrices of a graph that may be quantised: those of products, whose precision no plugin
/// holds and which nothing leaves alone.
fn candidates<'g>(
    graph: &'g Graph,
    keep: &BTreeSet<String>,
    excluded: &GlobSet,
) -> BTreeMap<&'g str, Vec<u64>> {
    let mut found = BTreeMap::new();
    for (_, node) in graph.schedule() {
        let weights = match graph.nodes[node].op {
            Op::Linear { weight, .. } => [Some(weight), None],
            Op::Mix { up, down, .. } => [Some(up), Some(down)],
            _ => [None, None],
        };
        for weight in weights.into_iter().flatten() {
            let data = &graph.weights[weight];
            let module = data.name.strip_suffix(engraft_quant::stored::WEIGHT);
            let free = module.is_some_and(|module| !excluded.is_match(module));
            let shared =
                data.tied.is_some() || graph.weights.values().any(|w| w.tied == Some(weight));
            if free && !shared && !keep.contains(&data.name) {
                found.insert(data.name.as_str(), data.shape());
            }
        }
    }
    found
}

/// What is common to all ways of quantising a model.
pub(crate) struct Model<'a> {
    pub graph: &'a Graph,
    pub parts: &'a [Part],
    /// The parameters whose precision the plugin holds.
    pub keep: &'a BTreeSet<String>,
}

impl Model<'_> {
    /// What `scheme` says of the candidates, without those that ranks cut through codes or groups,
    /// or whose rows are odd.
    fn stored(
        &self,
        excluded: &GlobSet,
        mut left: Left,
        scheme: &dyn Fn(&str, &[u64]) -> Option<Scheme>,
    ) -> Result<(Stored, Left), QuantError> {
        let mut taken: BTreeMap<&str, Scheme> = BTreeMap::new();
        for (name, shape) in candidates(self.graph, self.keep, excluded) {
            let Some(scheme) = scheme(name, &shape) else { continue };
            let coded = Coded { scheme, shape };
            let cuts = self.parts.iter().flat_map(|part| &part.stored);
            let mut cuts = cuts.filter(|share| share.source == name).map(|share| &share.cut);
            let whole = engraft_weights::Cut::whole(&coded.shape);
            let fits = coded.tensors(name, &whole).is_ok()
                && cuts.all(|cut| coded.tensors(name, cut).is_ok());
            match fits {
                true => drop(taken.insert(name, scheme)),
                false => left.push((name.to_owned(), "its rows or groups do not come out even")),
            }
        }
        let all = self.graph.weights.values().map(|data| (data.name.clone(), data.shape()));
        let all: Vec<_> = all.collect();
        let stored = Stored::new(&all, &|name, _| taken.get(name).copied())?;
        Ok((stored, left))
    }

    /// The most inputs of a group, `wished` at most, that divide the inputs of all candidates on
    /// every rank: a power of two, 8 at least; `wished` where there is none.
    fn group_size(&self, wished: u64, excluded: &GlobSet) -> u64 {
        let candidates = candidates(self.graph, self.keep, excluded);
        let shares = self.parts.iter().flat_map(|part| &part.stored);
        let widths: Vec<u64> = shares
            .filter(|share| candidates.contains_key(share.source.as_str()))
            .filter_map(|share| share.cut.shape().last().copied())
            .collect();
        let sizes = std::iter::once(wished).chain((3..63).rev().map(|power| 1 << power));
        let mut sizes = sizes.filter(|&size| size <= wished);
        sizes.find(|&size| widths.iter().all(|width| width.is_multiple_of(size))).unwrap_or(wished)
    }

    /// Quantises as asked for, and writes it into the config.
    pub(crate) fn quantised(
        &self,
        request: &Quantise,
        algorithm: &str,
        config: &mut Config,
    ) -> Result<Quantised, ConvertError> {
        let mut scheme = Scheme::from_name(algorithm)?;
        scheme.zeros = request.zeros;
        if request.per_token {
            let dynamic = |activations| Activations { is_static: false, ..activations };
            scheme.activations = scheme.activations.map(dynamic);
        }
        let is_calibrated = request.calibration.is_some();
        // Rounding to the nearest asks nothing of inputs.
        scheme.input_scales =
            is_calibrated && matches!(algorithm, "W4A16_AWQ" | "W8A8_SQ_PER_CHANNEL");
        let excluded = excluded(request.exclude.as_deref())?;
        let mut quantization = Quantization {
            quant_algo: Some(algorithm.to_owned()),
            has_zero_point: scheme.zeros,
            pre_quant_scale: scheme.input_scales && algorithm == "W4A16_AWQ",
            exclude_modules: request.exclude.clone(),
            ..Quantization::default()
        };
        let mut notes = Vec::new();
        if let Grouping::Group(_) = scheme.grouping {
            let size = self.group_size(request.group_size, &excluded);
            scheme.grouping = Grouping::Group(size);
            quantization.group_size = size;
            if size != request.group_size {
                notes.push(format!(
                    "groups of {size} inputs: {} do not divide those of every matrix",
                    request.group_size
                ));
            }
        }
        if BY_BUILDER.contains(&algorithm) {
            notes.push(format!(
                "{algorithm}: a checkpoint holds floats, and codes are made when an engine is built"
            ));
        }
        let texts = request.calibration.as_ref().map(|calibration| &calibration.dataset);
        if texts == Some(&None) && !BY_BUILDER.contains(&algorithm) {
            notes.push("calibrated by the text that is built in: your own is better".to_owned());
        }
        let way = match &request.calibration {
            _ if BY_BUILDER.contains(&algorithm) => Way::Builder,
            Some(calibration) => Way::Calibration(calibration.clone()),
            None => Way::Rounding,
        };
        // Of experts, nobody sees what goes from one of their matrices to the next.
        let unseen = |activations| Activations { is_static: false, ..activations };
        let activations = scheme.activations.map(unseen);
        let of_experts = Scheme { input_scales: false, activations, ..scheme };
        let scheme =
            |_: &str, shape: &[u64]| Some(if shape.len() > 2 { of_experts } else { scheme });
        let (stored, left) = self.stored(&excluded, Vec::new(), &scheme)?;
        config.quantization = quantization;
        leave(config, &left);
        Ok(Quantised { stored, way, left, notes })
    }

    /// What a source has quantised already, taken over code by code. None where nothing is.
    pub(crate) fn taken_over(
        &self,
        source: &Source,
        parameters: &[(PlaceKind, Parameter)],
        config: &mut Config,
    ) -> Result<Option<Quantised>, ConvertError> {
        let mut packed: BTreeMap<String, Vec<Packing>> = BTreeMap::new();
        let mut left = Left::new();
        for (place, parameter) in parameters {
            let name = full_name(*place, &parameter.name);
            let tensors = parameter.origin.tensors().into_iter();
            let all: Vec<Option<Packing>> =
                tensors.map(|tensor| source.packing(tensor)).collect::<Result<_, _>>()?;
            let some: Vec<Packing> = all.iter().copied().flatten().collect();
            if some.is_empty() {
                continue;
            }
            let alike = |a: &Packing, b: &Packing| (a.bits, a.group) == (b.bits, b.group);
            if some.len() == all.len() && some.iter().all(|packing| alike(packing, &some[0])) {
                packed.insert(name, some);
            } else {
                left.push((name, "it is joined of weights that are not quantised alike"));
            }
        }
        if packed.is_empty() {
            return Ok(None);
        }
        let nothing = GlobSet::empty();
        let names = candidates(self.graph, self.keep, &nothing);
        for name in packed.keys().filter(|name| !names.contains_key(name.as_str())) {
            left.push((name.clone(), "no product is by it"));
        }
        let scheme = |name: &str, shape: &[u64]| {
            let all = packed.get(name)?;
            let kind = if all[0].bits == 4 { CodeKind::Int4 } else { CodeKind::Int8 };
            let inputs = *shape.last()?;
            let whole = inputs.is_multiple_of(all[0].group)
                && all.iter().all(|packing| packing.groups == inputs / packing.group);
            let weights = Scheme::from_name("W4A16_GPTQ").ok()?;
            whole.then_some(Scheme {
                kind,
                grouping: Grouping::Group(all[0].group),
                zeros: all.iter().any(|packing| packing.zeros),
                group_index: all.iter().any(|packing| packing.ordered),
                ..weights
            })
        };
        let (stored, mut left) = self.stored(&nothing, left, &scheme)?;
        // What is a product's and not packed was left out by whoever packed.
        let excluded = excluded(None)?;
        for name in candidates(self.graph, self.keep, &excluded).keys() {
            if stored.get(name).is_none() && !left.iter().any(|(other, _)| other == name) {
                left.push(((*name).to_owned(), "the source does not quantise it"));
            }
        }
        let schemes = || stored.weights().map(|(_, coded)| coded.scheme);
        let bits = schemes().map(|scheme| scheme.kind.bits()).max().unwrap_or(4);
        let sizes = schemes().map(|scheme| match scheme.grouping {
            Grouping::Group(size) => size,
            Grouping::Tensor | Grouping::Row => 0,
        });
        let (zeros, ordered) =
            (schemes().any(|scheme| scheme.zeros), schemes().any(|scheme| scheme.group_index));
        // What ModelOpt's form can say is said so.
        let algorithm = match (bits, zeros || ordered) {
            (4, false) => "W4A16_AWQ",
            (4, true) => "W4A16_GPTQ",
            _ => "W8A16_GPTQ",
        };
        config.quantization = Quantization {
            quant_algo: Some(algorithm.to_owned()),
            group_size: sizes.min().unwrap_or(128),
            has_zero_point: zeros,
            ..Quantization::default()
        };
        leave(config, &left);
        Ok(Some(Quantised { stored, way: Way::Source, left, notes: Vec::new() }))
    }
}

/// Says in the config which modules stay as they are beside those that always do.
fn leave(config: &mut Config, left: &[(String, &'static str)]) {
    if left.is_empty() {
        return;
    }
    let modules = config.quantization.exclude_modules.get_or_insert_with(|| {
        // A list takes the place of the usual one.
        EXCLUDED.map(str::to_owned).to_vec()
    });
    let module =
        |name: &str| name.strip_suffix(engraft_quant::stored::WEIGHT).unwrap_or(name).to_owned();
    modules.extend(left.iter().map(|(name, _)| module(name)));
}

/// What the weights of a checkpoint are whose config says so and whose codes are not made yet.
pub(crate) fn by_builder(
    config: &Config,
    model: &Model<'_>,
) -> Result<Option<Quantised>, ConvertError> {
    let Some(algorithm) = config.quantization.quant_algo.as_deref() else { return Ok(None) };
    if !BY_BUILDER.contains(&algorithm) {
        return Ok(None);
    }
    let scheme = Scheme::from_name(algorithm)?;
    let excluded = excluded(config.quantization.exclude_modules.as_deref())?;
    let (stored, left) = model.stored(&excluded, Vec::new(), &|_, _| Some(scheme))?;
    Ok(Some(Quantised { stored, way: Way::Builder, left, notes: Vec::new() }))
}

/// Does something with the parts of an engine and the provider of their weights; `files` provides
/// the tensors of a checkpoint.
pub(crate) fn engine<T>(
    parts: &[Part],
    quantised: Option<&Quantised>,
    files: &dyn Provider,
    config: &Config,
    then: impl FnOnce(Vec<Part>, &dyn Provider) -> Result<T, ConvertError>,
) -> Result<T, ConvertError> {
    let Some(Quantised { stored, way, .. }) = quantised else {
        return then(parts.to_vec(), files);
    };
    let with = |provider: &dyn Provider| {
        let parts =
            parts.iter().cloned().map(|part| engraft_compile::quantise(part, stored, provider));
        then(parts.collect::<Result<_, _>>()?, provider)
    };
    match way {
        Way::Builder => with(&Rounded::new(files, stored, config.dtype)?),
        Way::Files | Way::Rounding | Way::Calibration(_) | Way::Source => {
            with(&Labelled::new(files, stored))
        }
    }
}
