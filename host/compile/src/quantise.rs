//! The part of a rank with some of its weights as codes.
//!
//! ```text
//! w1 = weight "x.weight" f16 [96, 64]      w1 = weight "x.weight" i8 [96, 64] int4 scales w2
//!                                          w2 = weight "x.weights_scaling_factor" f32 [96, 2]
//!                                          w3 = weight "x.prequant_scaling_factor" f16 [64]
//! v2 = linear v1, w1                       v4 = round_inputs v1, inputs=w3
//!                                          v2 = linear v4, w1
//! ```
//! A weight keeps its axes and their meanings; what its codes are told by is declared beside it,
//! and read from the tensors that [`Stored`] names. What activations are multiplied by, and the
//! numbers that they are rounded to, stand before a product; experts of a mixture, whose inner
//! activations no node shows, have the scales of their inputs multiplied into their weights.

use crate::error::CompileError;
use crate::partition::Part;
use engraft_ir::{
    Axis, Coding, DType, Graph, Grid, Meaning, Node, Op, Place, TypeError, Weight, WeightData,
    verify,
};
use engraft_quant::{Coded, Role, Scheme, Stored};
use engraft_weights::{Provider, Share};
use std::collections::BTreeMap;

/// The tensors of a weight as weights of the graph.
#[derive(Clone, Copy)]
struct Told {
    scheme: Scheme,
    input_scales: Option<Weight>,
    activation_scale: Option<Weight>,
}

/// The same part with codes for the weights that are `stored` so, of whose tensors `provider`
/// knows the element types.
///
/// # Errors
/// Ranks that cut a weight within what only makes sense whole; a weight that is used by what
/// knows no codes.
pub fn quantise(
    part: Part,
    stored: &Stored,
    provider: &dyn Provider,
) -> Result<Part, CompileError> {
    if stored.count() == 0 {
        return Ok(part);
    }
    let Part { rank, mut graph, shares, stored: file } = part;
    let sources: BTreeMap<&str, &Share> =
        shares.iter().map(|share| (share.name.as_str(), share)).collect();
    let mut told: BTreeMap<Weight, Told> = BTreeMap::new();
    for weight in graph.weights.keys().collect::<Vec<_>>() {
        let data = graph.weights[weight].clone();
        let share = sources.get(data.name.as_str());
        let Some((share, coded)) = share.and_then(|s| Some((*s, stored.get(&s.source)?))) else {
            continue;
        };
        // What is tied to codes has bytes that are not its own.
        if data.tied.is_some() || graph.weights.values().any(|other| other.tied == Some(weight)) {
            let reason = "it shares its bytes with another weight";
            return Err(CompileError::Codes { name: data.name, reason });
        }
        told.insert(weight, declare(&mut graph, weight, share, coded, provider)?);
    }
    for place in graph.places.keys().collect::<Vec<_>>() {
        let nodes = std::mem::take(&mut graph.places[place].nodes);
        for node in nodes {
            round(&mut graph, place, node, &told)
                .map_err(|source| CompileError::Pass { name: "quantise", source })?;
            graph.places[place].nodes.push(node);
        }
    }
    let graph = graph.renumber();
    verify(&graph).map_err(|errors| CompileError::Broken { name: "quantise", errors })?;
    let shares = stored.shares(&shares)?;
    Ok(Part { rank, graph, shares, stored: stored.shares(&file)? })
}

/// Makes a weight one of codes, and declares what they are told by.
fn declare(
    graph: &mut Graph,
    weight: Weight,
    share: &Share,
    coded: &Coded,
    provider: &dyn Provider,
) -> Result<Told, CompileError> {
    let data = graph.weights[weight].clone();
    let name = |of: &str, suffix: &str| {
        let module = of.strip_suffix(engraft_quant::stored::WEIGHT).unwrap_or(of);
        format!("{module}{suffix}")
    };
    let mut made: BTreeMap<u8, Weight> = BTreeMap::new();
    let home = graph.homes[weight].unwrap_or(Place::from_u32(0));
    for (role, suffix, cut) in coded.tensors(&share.source, &share.cut)? {
        if role == Role::Codes {
            graph.weights[weight].dtype = coded.scheme.kind.dtype();
            continue;
        }
        let supply = provider.get(&name(&share.source, suffix));
        let usual = match role {
            Role::Zeros => DType::I16,
            Role::GroupIndex => DType::I32,
            _ => DType::F32,
        };
        let dtype = supply.map_or(usual, |supply| supply.dtype);
        let lengths = cut.shape();
        // Rows, and experts before them, keep what they count.
        let axis = |(at, &size): (usize, &u64)| match data.axes.get(at) {
            Some(axis) if axis.size() == size && role != Role::GroupIndex => axis.clone(),
            _ => Axis::new(size, Meaning::Plain),
        };
        let axes = lengths.iter().enumerate().map(axis).collect();
        let side = WeightData::plain(name(&data.name, suffix), dtype, axes);
        made.insert(role as u8, graph.make_weight(home, side));
    }
    let get = |role: Role| made.get(&(role as u8)).copied();
    let missing = || {
        let reason = "its scheme has no scales";
        CompileError::Codes { name: data.name.clone(), reason }
    };
    graph.weights[weight].coding = Some(Coding {
        kind: coded.scheme.kind,
        scales: get(Role::Scales).ok_or_else(missing)?,
        zeros: get(Role::Zeros),
        group_index: get(Role::GroupIndex),
        input_scales: None,
    });
    Ok(Told {
        scheme: coded.scheme,
        input_scales: get(Role::InputScales),
        activation_scale: get(Role::ActivationScale),
    })
}

/// Puts what a product with codes takes before it.
fn round(
    graph: &mut Graph,
    place: Place,
    node: Node,
    told: &BTreeMap<Weight, Told>,
) -> Result<(), TypeError> {
    let mut op = graph.nodes[node].op.clone();
    match &mut op {
        Op::Linear { input, weight, .. } => {
            let Some(&Told { scheme, input_scales, activation_scale }) = told.get(weight) else {
                return Ok(());
            };
            let grid = scheme.activations.map(|a| Grid { kind: a.kind, scale: activation_scale });
            if grid.is_some() || input_scales.is_some() {
                let rounding = Op::RoundInputs { input: *input, scales: input_scales, grid };
                let rounding = graph.append(place, rounding)?;
                *input = graph.result(rounding);
            }
        }
        other => {
            for weight in other.weights() {
                if let Some(inputs) = told.get(&weight).and_then(|told| told.input_scales)
                    && let Some(coding) = &mut graph.weights[weight].coding
                {
                    coding.input_scales = Some(inputs);
                }
            }
        }
    }
    graph.nodes[node].op = op;
    Ok(())
}
