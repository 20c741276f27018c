//! Models that were damaged in one place: each damage is found, and named.
//!
//! Every tensor of goldens of several kinds is dropped, renamed, doubled, turned, zeroed and
//! spoilt by one NaN. What no one can know by looking at it (a square matrix that was turned, a
//! base of rotations that is another) is what `engraft diff` and `engraft verify` are for.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use engraft_convert::{ConvertError, Pipeline};
use engraft_diagnostic::Diagnostic;
use engraft_plugin::{Limits, Plugin};
use engraft_tests::{copied, fixtures, plugin};
use engraft_weights::Effort;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Of one family each: separate and fused projections, tied heads, mixtures, latent attention,
/// recurrences, folded projections, transposed matrices.
const GOLDENS: [&str; 7] =
    ["llama-gqa", "gpt2", "mixtral", "deepseek-v3", "recurrent-gemma", "opt-350m", "falcon-40b"];

#[derive(Clone)]
struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

type Tensors = BTreeMap<String, Tensor>;

fn read(model: &Path) -> Tensors {
    let bytes = fs::read(model.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |view: TensorView<'_>| Tensor {
        dtype: view.dtype(),
        shape: view.shape().to_vec(),
        bytes: view.data().to_vec(),
    };
    tensors.tensors().into_iter().map(|(name, view)| (name, tensor(view))).collect()
}

fn write(model: &Path, tensors: &Tensors) {
    let view = |t: &Tensor| (t.dtype, t.shape.clone(), t.bytes.clone());
    let views = tensors.iter().map(|(name, tensor)| (name.clone(), view(tensor)));
    let all: Vec<_> = views.collect();
    let views = all.iter().map(|(name, (dtype, shape, bytes))| {
        (name.clone(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    fs::write(model.join("model.safetensors"), safetensors::serialize(views, None).unwrap())
        .unwrap();
}

/// What comes of a model: the names of tensors that are all zeros, or an error's whole text.
fn convert(plugin: &Plugin, model: &Path) -> Result<Vec<String>, String> {
    let text = |error: ConvertError| {
        let location = error.location().unwrap_or_default();
        format!("{error} {location} {}", error.help().unwrap_or_default())
    };
    let pipeline = Pipeline::open_with(plugin, model, None).map_err(text)?;
    let out = tempfile::tempdir().unwrap();
    pipeline.write_checkpoint(out.path(), &Effort::default(), None).map_err(text)?;
    pipeline.zero_tensors().map_err(text)
}

/// One tensor turned: rows become columns.
fn turned(tensor: &Tensor) -> Option<Tensor> {
    let &[rows, columns] = tensor.shape.as_slice() else { return None };
    if rows == columns || rows == 1 || columns == 1 {
        return None;
    }
    let width = tensor.bytes.len() / (rows * columns);
    let mut bytes = Vec::with_capacity(tensor.bytes.len());
    for column in 0..columns {
        for row in 0..rows {
            let at = (row * columns + column) * width;
            bytes.extend_from_slice(&tensor.bytes[at..at + width]);
        }
    }
    Some(Tensor { dtype: tensor.dtype, shape: vec![columns, rows], bytes })
}

fn spoilt(tensor: &Tensor) -> Tensor {
    let mut tensor = tensor.clone();
    let nan: &[u8] = match tensor.dtype {
        Dtype::BF16 => &0x7fc0u16.to_le_bytes(),
        Dtype::F16 => &0x7e00u16.to_le_bytes(),
        _ => &f32::NAN.to_le_bytes(),
    };
    let last = tensor.bytes.len() - nan.len();
    tensor.bytes[last..].copy_from_slice(nan);
    tensor
}

#[test]
fn a_tensor_that_was_damaged_is_named() {
    let mut unnoticed = Vec::new();
    let mut tried = 0;
    for golden in GOLDENS {
        let copy = copied(&fixtures().join("golden").join(golden));
        let model = copy.path();
        let plugin = Plugin::load(&plugin(model), &Limits::default()).unwrap();
        let whole = read(model);
        let mut check = |what: &str, name: &str, tensors: &Tensors, words: &[&str]| {
            tried += 1;
            write(model, tensors);
            let said = match convert(&plugin, model) {
                Ok(zeros) => zeros.join(" "),
                Err(error) => error,
            };
            if let Some(word) = words.iter().find(|word| !said.contains(**word)) {
                unnoticed.push(format!("{golden}: {what} {name}: no `{word}` in: {said}"));
            }
        };
        check("nothing", "", &whole, &[]);
        for (name, tensor) in &whole {
            let with = |change: &dyn Fn(&mut Tensors)| {
                let mut tensors = whole.clone();
                change(&mut tensors);
                tensors
            };
            let dropped = with(&|tensors| drop(tensors.remove(name)));
            check("dropped", name, &dropped, &[name]);
            let other = format!("{name}_2");
            let renamed = with(&|tensors| {
                let tensor = tensors.remove(name).unwrap();
                tensors.insert(other.clone(), tensor);
            });
            check("renamed", name, &renamed, &[name, &other]);
            let doubled = with(&|tensors| drop(tensors.insert(other.clone(), tensor.clone())));
            check("doubled", name, &doubled, &[&other]);
            if let Some(turned) = turned(tensor) {
                let tensors = with(&|tensors| drop(tensors.insert(name.clone(), turned.clone())));
                check("turned", name, &tensors, &[name]);
            }
            let tensors = with(&|tensors| drop(tensors.insert(name.clone(), spoilt(tensor))));
            check("one NaN in", name, &tensors, &[name]);
            let tensors = with(&|tensors| {
                if let Some(tensor) = tensors.get_mut(name) {
                    tensor.bytes.fill(0);
                }
            });
            check("zeroed", name, &tensors, &[name]);
        }
    }
    println!("{tried} damages");
    assert!(unnoticed.is_empty(), "of {tried}: {unnoticed:#?}");
}

/// Another value of the same kind; none of what has parts.
fn changed(value: &Value) -> Option<Value> {
    Some(match value {
        Value::Bool(is) => Value::from(!is),
        Value::Number(number) => match number.as_u64() {
            Some(count) => Value::from(2 * count + 1),
            None => Value::from(number.as_f64()? * 2.0 + 0.5),
        },
        Value::String(text) => Value::from(format!("{text}_2")),
        Value::Null | Value::Array(_) | Value::Object(_) => return None,
    })
}

/// Settings that their plugins know and have no use for: how a computation is ordered, how weights
/// began, what follows from others, what a newer architecture does not look at.
const OF_NO_USE: [&str; 5] = [
    "reorder_and_upcast_attn",
    "final_w_init_variance_scale",
    "w_init_variance_scale",
    "qk_head_dim",
    "multi_query",
];

/// A setting that is another is refused, or makes another config of the checkpoint, which `diff`
/// and `verify` name, or is reported as read by nobody; or it is one of those that are known to
/// say nothing about the arithmetic.
#[test]
fn a_setting_that_was_changed_is_not_overlooked() {
    let mut overlooked = Vec::new();
    let mut tried = 0;
    for golden in GOLDENS {
        let copy = copied(&fixtures().join("golden").join(golden));
        let model = copy.path();
        let plugin = Plugin::load(&plugin(model), &Limits::default()).unwrap();
        let path = model.join("config.json");
        let settings: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let before = Pipeline::open_with(&plugin, model, None).unwrap();
        let ignorable: Vec<String> =
            before.source().ignorable_keys().into_iter().map(str::to_owned).collect();
        for (key, value) in settings.as_object().unwrap() {
            let Some(value) = changed(value) else { continue };
            if ignorable.contains(key) || OF_NO_USE.contains(&key.as_str()) {
                continue;
            }
            tried += 1;
            let mut settings = settings.clone();
            settings[key] = value;
            fs::write(&path, settings.to_string()).unwrap();
            let Ok(after) = Pipeline::open_with(&plugin, model, None) else { continue };
            let same = after.config() == before.config();
            if same && !after.unread().iter().any(|unread| unread.contains(key.as_str())) {
                overlooked.push(format!("{golden}: {key}"));
            }
        }
    }
    println!("{tried} settings");
    assert!(tried > 100 && overlooked.is_empty(), "of {tried}: {overlooked:#?}");
}
