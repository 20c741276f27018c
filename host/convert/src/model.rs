//! What a plugin says of a model whose checkpoint config is settled: parameters and graph.

use crate::ConvertError;
use engraft_checkpoint::{BASE, Config, Kind as Base};
use engraft_ir::{DType, Graph, PlaceKind};
use engraft_plugin::{Fallback, Field, Kind, Session, Setting, Value, resolve};
use engraft_weights::{Parameter, Precision, full_name};
use std::collections::BTreeSet;

/// A model as its plugin describes it.
#[derive(Debug)]
pub(crate) struct Described {
    /// Every parameter with its place, in order.
    pub parameters: Vec<(PlaceKind, Parameter)>,
    /// Source tensors that are left out on purpose: globs, each with the reason.
    pub left_out: Vec<(String, String)>,
    /// The whole graph.
    pub graph: Graph,
}

/// The parameters whose precision the plugin holds, by their whole names.
pub(crate) fn keep(parameters: &[(PlaceKind, Parameter)]) -> BTreeSet<String> {
    let kept = parameters.iter().filter(|(_, p)| p.precision != Precision::Any);
    kept.map(|(place, p)| full_name(*place, &p.name)).collect()
}

/// Base fields that say how a model is stored or placed. No plugin sees them: a plugin describes,
/// the host does.
const HOSTS_OWN: [&str; 8] = [
    "dtype",
    "logits_dtype",
    "use_parallel_embedding",
    "embedding_sharding_dim",
    "share_embedding_table",
    "mapping",
    "quantization",
    "runtime_defaults",
];

/// The base fields that a plugin may set and is handed.
pub(crate) fn base_fields() -> Vec<Field> {
    BASE.iter()
        .filter(|field| !HOSTS_OWN.contains(&field.name))
        .filter_map(|field| {
            let kind = match field.kind {
                Base::Flag => Kind::Flag,
                Base::Integer => Kind::Integer,
                Base::Number => Kind::Number,
                Base::Text => Kind::Text,
                Base::Object => return None,
            };
            // Defaults were filled in when the config was read; what is absent now is null.
            let fallback = Fallback::Absent;
            Some(Field { path: field.name.into(), kind, fallback, doc: field.doc.into() })
        })
        .collect()
}

/// The settings that `open` takes: base fields and the plugin's own, out of a config.
pub(crate) fn settings(config: &Config, own: &[Field]) -> Result<Vec<Setting>, ConvertError> {
    let mut fields = base_fields();
    fields.extend_from_slice(own);
    let (settings, _) = resolve(&fields, &config.to_json(), &|_| false)?;
    Ok(settings)
}

/// Opens the model and asks for its parameters and its graph. `dtype` says how a weight, by its
/// whole name, is stored.
pub(crate) fn describe(
    session: &mut Session,
    plugin: &str,
    config: &Config,
    config_path: String,
    dialect: &str,
    dtype: &dyn Fn(&str, Precision) -> DType,
) -> Result<Described, ConvertError> {
    let own = session.fields()?;
    let settings = settings(config, &own)?;
    if let Err(refusal) = session.open(&settings)? {
        return Err(ConvertError::Refused { refusal, config: config_path });
    }
    let outline = session.outline()?;
    let agree = |what, outline: u64, key: &str| {
        let config = settings.iter().find(|s| s.path == key).and_then(|s| s.value.as_ref());
        match config {
            Some(Value::Integer(n)) if u64::try_from(*n) != Ok(outline) => {
                let (plugin, config) = (plugin.to_string(), n.unsigned_abs());
                Err(ConvertError::Outline { plugin, what, outline, config })
            }
            _ => Ok(()),
        }
    };
    agree("the number of blocks", outline.blocks.into(), "num_hidden_layers")?;
    agree("the vocabulary", outline.vocabulary.into(), "vocab_size")?;

    let mut parameters = Vec::new();
    for place in outline.places() {
        for parameter in session.parameters(place, dialect)? {
            parameters.push((place, parameter));
        }
    }
    let left_out = session.unused(dialect)?;
    let graph = session.write(dtype)?;
    Ok(Described { parameters, left_out, graph })
}
