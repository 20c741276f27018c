//! Weights of HuggingFace checkpoints that AutoAWQ or AutoGPTQ packed, as the numbers they stand for.
//!
//! A linear layer `X` is stored as codes `X.qweight` of 4 or 8 bits, eight or four in a word, with
//! zero points `X.qzeros` and scales `X.scales` for every group of inputs, and with `X.g_idx`, the
//! group of each input, where GPTQ chose the groups by activations (`desc_act`). It is shown as
//! the one tensor `X.weight` `[out, in]`, and de-quantised when rows are asked for:
//!
//! ```text
//! weight[o, i] = scales[g, o] · (code[i, o] − zero[g, o])      g = g_idx[i], or i / group_size
//!
//! AWQ:   code[i, o] is nibble 0 4 1 5 2 6 3 7 (for o % 8 = 0 1 … 7) of qweight[i, o / 8],
//!        zero[g, o] is the same nibble of qzeros[g, o / 8]
//! GPTQ:  code[i, o] is field i % 8 of qweight[i / 8, o], zero[g, o] is field o % 8 of
//!        qzeros[g, o / 8], and one more unless `checkpoint_format` is `gptq_v2`
//! ```
//! A product of an F16 or BF16 scale and an integer of nine bits fits an F32: nothing is rounded.
//! What is held beside the rows asked for is the layer as it is stored.

mod error;
mod layer;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use engraft_diagnostic::escape;
use engraft_ir::DType;
use serde_json::Value;

use crate::SourceError;
use crate::source::{Encoding, TensorInfo};
pub use error::PackedError;
pub use layer::View;
use layer::{Layer, Layout, LoadError, Stored};

/// The key of a config that says how weights are packed.
pub(crate) const KEY: &str = "quantization_config";
/// Layers that are held at a time: one for each thread that reads.
const HELD: usize = 4;

/// How a model's weights are packed.
#[derive(Clone, Debug)]
struct Scheme {
    layout: Layout,
    bits: u32,
    /// Inputs of a group; none where all inputs are of one.
    group: Option<u64>,
    /// Whether zero points say more than that codes count from half of their range.
    zeros: bool,
}

/// How a weight is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packing {
    /// Bits of a code: 4 or 8.
    pub bits: u32,
    /// Inputs of a group, the last of which may have fewer.
    pub group: u64,
    /// How many groups.
    pub groups: u64,
    /// Whether groups have zero points of their own.
    pub zeros: bool,
    /// Whether inputs of a group are anywhere.
    pub ordered: bool,
}

impl Scheme {
    /// `GPTQ 4 bits, groups of 128`
    fn name(&self) -> String {
        let groups = match self.group {
            Some(size) => format!("groups of {size}"),
            None => "one group".to_owned(),
        };
        format!("{} {} bits, {groups}", self.layout.name(), self.bits)
    }

    /// What a model's config says; none where its weights are not packed in a way of ours.
    fn read(config: &Value, path: &Path) -> Result<Option<Scheme>, SourceError> {
        let Some(section) = config.get(KEY) else { return Ok(None) };
        let unsupported = |what: String| {
            let fault = PackedError::Unsupported(what);
            Err(SourceError::Packed { path: path.to_owned(), fault })
        };
        let kind = |key: &str, expected| SourceError::Kind {
            path: path.to_owned(),
            key: format!("{KEY}.{key}"),
            expected,
        };
        let text = |key: &str, default: &'static str| match section.get(key) {
            None | Some(Value::Null) => Ok(default.to_owned()),
            Some(Value::String(text)) => Ok(text.to_ascii_lowercase()),
            Some(_) => Err(kind(key, "a name")),
        };
        let layout = match text("quant_method", "")?.as_str() {
            "awq" => match text("version", "gemm")?.as_str() {
                "gemm" => Layout::Awq,
                other => return unsupported(format!("AWQ of the version `{}`", escape(other))),
            },
            "gptq" => match text("checkpoint_format", "gptq")?.as_str() {
                _ if section.get("is_marlin_format") == Some(&Value::Bool(true)) => {
                    return unsupported("GPTQ of the format `marlin`".to_owned());
                }
                "gptq" => Layout::Gptq { offset: 1 },
                "gptq_v2" => Layout::Gptq { offset: 0 },
                other => return unsupported(format!("GPTQ of the format `{}`", escape(other))),
            },
            _ => return Ok(None),
        };
        let bits = section.get("bits").or_else(|| section.get("w_bit"));
        let bits = bits.and_then(Value::as_u64).ok_or_else(|| kind("bits", "4 or 8"))?;
        if !(bits == 4 || bits == 8 && matches!(layout, Layout::Gptq { .. })) {
            return unsupported(format!("{} of {bits} bits", layout.name()));
        }
        let group = section.get("group_size").or_else(|| section.get("q_group_size"));
        let group = match group.and_then(Value::as_i64) {
            Some(-1) => None,
            Some(size) if size > 0 => Some(size as u64),
            _ => return Err(kind("group_size", "a positive integer, or -1")),
        };
        let is = |key: &str| section.get(key).and_then(Value::as_bool);
        let zeros = match layout {
            Layout::Awq => is("zero_point") != Some(false),
            Layout::Gptq { .. } => is("sym") != Some(true),
        };
        Ok(Some(Scheme { layout, bits: bits as u32, group, zeros }))
    }
}

/// The packed weights of a model.
pub(crate) struct Packed {
    scheme: Scheme,
    stored: BTreeMap<String, Stored>,
    /// What is shown of the weights.
    pub(crate) view: View,
    /// Layers that are being read, the latest last.
    held: Mutex<Vec<(String, Arc<Layer>)>>,
}

impl Packed {
    /// Finds the packed weights among a model's tensors, and puts what they stand for in their
    /// place. None where the config names no such packing or no tensor is packed.
    pub(crate) fn find(
        config: &Value,
        path: &Path,
        tensors: &mut BTreeMap<String, TensorInfo>,
    ) -> Result<Option<Packed>, SourceError> {
        let layers: BTreeSet<String> = tensors
            .keys()
            .filter_map(|name| name.strip_suffix(".qweight"))
            .map(str::to_owned)
            .collect();
        if layers.is_empty() {
            return Ok(None);
        }
        let Some(scheme) = Scheme::read(config, path)? else { return Ok(None) };
        let mut misfits = Vec::new();
        let mut stored = BTreeMap::new();
        for layer in &layers {
            let name = format!("{layer}.weight");
            let get = |part: &str| tensors.get(&format!("{layer}.{part}"));
            match Stored::new(scheme.layout, scheme.bits, scheme.group, &get) {
                Ok(_) if tensors.contains_key(&name) => {
                    misfits.push(format!("`{}` is there beside its qweight", escape(&name)));
                }
                Ok(found) => {
                    stored.insert(name, found);
                }
                Err(misfit) => misfits.push(format!("`{}`: {misfit}", escape(layer))),
            }
        }
        if !misfits.is_empty() {
            let fault = PackedError::Misfits(misfits);
            return Err(SourceError::Packed { path: path.to_owned(), fault });
        }
        for layer in &layers {
            for part in layer::PARTS {
                tensors.remove(&format!("{layer}.{part}"));
            }
        }
        for (name, stored) in &stored {
            let info = TensorInfo {
                dtype: DType::F32,
                stored: scheme.name(),
                shape: vec![stored.outputs, stored.inputs],
                encoding: Encoding::Plain,
                ..stored.codes.clone()
            };
            tensors.insert(name.clone(), info);
        }
        let (view, held) = (View::Weights, Mutex::new(Vec::new()));
        Ok(Some(Packed { scheme, stored, view, held }))
    }

    /// `21 weights of GPTQ 4 bits, groups of 128`
    pub(crate) fn summary(&self) -> String {
        let s = if self.stored.len() == 1 { "" } else { "s" };
        format!("{} weight{s} of {}", self.stored.len(), self.scheme.name())
    }

    /// Whether a tensor is packed.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.stored.contains_key(name)
    }

    /// About how many bytes are held while a tensor is read; none for one that is not packed.
    pub(crate) fn memory(&self, name: &str) -> u64 {
        self.stored.get(name).map_or(0, Stored::held)
    }

    /// How a tensor is packed; none for any other.
    pub(crate) fn packing(
        &self,
        name: &str,
        read: &dyn Fn(&TensorInfo) -> Result<Vec<u8>, SourceError>,
        path: &Path,
    ) -> Result<Option<Packing>, SourceError> {
        let Some(stored) = self.stored.get(name) else { return Ok(None) };
        let ordered = stored.is_ordered(read).map_err(|error| fault(name, stored, error, path))?;
        let (Scheme { bits, zeros, .. }, Stored { group, groups, .. }) = (&self.scheme, stored);
        Ok(Some(Packing { bits: *bits, group: *group, groups: *groups, zeros: *zeros, ordered }))
    }

    /// Appends `rows` of the packed tensor `name` to `out`; none are asked for after the `last`.
    /// `read` reads a tensor whole, as it is stored; `path` is for errors.
    pub(crate) fn read(
        &self,
        name: &str,
        rows: Range<u64>,
        last: bool,
        read: &dyn Fn(&TensorInfo) -> Result<Vec<u8>, SourceError>,
        path: &Path,
        out: &mut Vec<u8>,
    ) -> Result<(), SourceError> {
        let stored = &self.stored[name];
        let layer = match self.held(name, last) {
            Some(layer) => layer,
            None => {
                let layer = Arc::new(self.load(name, stored, read, path)?);
                if !last {
                    self.hold(name, layer.clone());
                }
                layer
            }
        };
        layer.append(self.view, rows, out);
        Ok(())
    }

    /// A layer that is held since it was last read. One whose `last` rows are asked for is held no
    /// longer.
    fn held(&self, name: &str, last: bool) -> Option<Arc<Layer>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let at = held.iter().position(|(other, _)| other == name)?;
        let found = held.remove(at);
        let layer = found.1.clone();
        if !last {
            held.push(found);
        }
        Some(layer)
    }

    /// Holds a layer, and lets go of the one that was read least lately.
    fn hold(&self, name: &str, layer: Arc<Layer>) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.push((name.to_owned(), layer));
        if held.len() > HELD {
            held.remove(0);
        }
    }

    fn load(
        &self,
        name: &str,
        stored: &Stored,
        read: &dyn Fn(&TensorInfo) -> Result<Vec<u8>, SourceError>,
        path: &Path,
    ) -> Result<Layer, SourceError> {
        let loaded = stored.load(self.scheme.layout, self.scheme.bits, read);
        loaded.map_err(|error| fault(name, stored, error, path))
    }
}

/// What is wrong with a layer.
fn fault(name: &str, stored: &Stored, error: LoadError, path: &Path) -> SourceError {
    match error {
        LoadError::Source(error) => error,
        LoadError::Group { input, group } => {
            let layer = name.strip_suffix(".weight").unwrap_or(name).to_owned();
            let fault = PackedError::Group { layer, input, group, groups: stored.groups };
            SourceError::Packed { path: path.to_owned(), fault }
        }
    }
}

#[cfg(test)]
mod tests;
