//! LoRA adapters of PEFT, merged into a model's weights as they are read.
//!
//! An adapter is a directory with `adapter_config.json` and `adapter_model.safetensors` or `.bin`. Every
//! one of its tensors is for a tensor of the model: a pair of matrices whose product is added, a
//! whole tensor that takes the place of the model's (`modules_to_save`, trained biases), or the
//! lengths of DoRA. Which is for which is settled when the adapter is opened, from headers; all
//! that does not fit is told at once. Sums are made in `f32`, row by row, when rows are asked
//! for, and handed out as `F32`, so that they are rounded once.

mod config;
mod error;
mod merge;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use engraft_diagnostic::escape;
use engraft_ir::DType;

use crate::source::{TensorInfo, Weights, encoding};
use crate::{SourceError, hf};
use config::Config;
pub use error::LoraError;
pub(crate) use merge::floats;
use merge::{Matrix, Store, Update};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const PICKLED: &str = "adapter_model.bin";

/// What was merged, for reports. [`fmt::Display`]: `14 modules, rank 8, scale 2.0`.
#[derive(Clone, Debug, PartialEq)]
pub struct Merged {
    /// How many tensors of the model have something added.
    pub modules: usize,
    /// How many are replaced whole.
    pub replaced: usize,
    /// The smallest and the largest rank.
    pub ranks: (u64, u64),
    /// The smallest and the largest factor of a product.
    pub scales: (f64, f64),
    /// The model that the adapter says it was trained on.
    pub base: Option<String>,
}

impl fmt::Display for Merged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if self.modules > 0 {
            let s = if self.modules == 1 { "" } else { "s" };
            parts.push(format!("{} module{s}", self.modules));
            let (low, high) = self.ranks;
            parts.push(if low == high {
                format!("rank {low}")
            } else {
                format!("ranks {low} to {high}")
            });
            let (low, high) = self.scales;
            parts.push(if low == high {
                format!("scale {low:?}")
            } else {
                format!("scales {low:?} to {high:?}")
            });
        }
        if self.replaced > 0 {
            let s = if self.replaced == 1 { "" } else { "s" };
            parts.push(format!("{} tensor{s} replaced", self.replaced));
        }
        if let Some(base) = &self.base {
            parts.push(format!("trained on {}", escape(base)));
        }
        f.write_str(&parts.join(", "))
    }
}

/// What a model's config says of its tokens.
pub(crate) struct Vocabulary {
    /// How many there are.
    pub(crate) size: Option<u64>,
    /// Embedding and head are one tensor, whatever else is there.
    pub(crate) tied: bool,
}

/// What an adapter makes of one tensor of the model.
struct Target {
    /// The tensor as the model has it.
    base: TensorInfo,
    /// What takes its place.
    replaced: Option<TensorInfo>,
    /// What is added.
    update: Option<Update>,
}

/// An adapter, laid over a model.
pub(crate) struct Lora {
    /// Its one file of weights.
    weights: Weights,
    targets: BTreeMap<String, Target>,
    merged: Merged,
}

/// What a tensor of an adapter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    A,
    B,
    EmbeddingA,
    EmbeddingB,
    Magnitude,
}

const ROLES: [(&str, Role); 5] = [
    (".lora_A", Role::A),
    (".lora_B", Role::B),
    (".lora_embedding_A", Role::EmbeddingA),
    (".lora_embedding_B", Role::EmbeddingB),
    (".lora_magnitude_vector", Role::Magnitude),
];

/// The module of an adapter's tensor, and what the tensor is to it: `….q_proj.lora_A.weight`, or
/// `….q_proj.lora_A.NAME.weight`, where the adapter's own name was left in.
fn role(name: &str) -> Option<(&str, Role)> {
    ROLES.iter().find_map(|(infix, role)| {
        let (module, rest) = name.rsplit_once(infix)?;
        let own = rest.strip_suffix(".weight").unwrap_or(rest);
        let is_name = own.is_empty() || own.strip_prefix('.').is_some_and(|own| !own.contains('.'));
        is_name.then_some((module, *role))
    })
}

/// The tensor that a whole tensor of an adapter takes the place of.
fn replaced(name: &str) -> String {
    let name = name.replace(".base_layer.", ".");
    match name.split_once(".modules_to_save.") {
        Some((module, rest)) => {
            let leaf = rest.rsplit_once('.').map_or(rest, |(_, leaf)| leaf);
            format!("{module}.{leaf}")
        }
        None => name,
    }
}

/// The tensor of a model that an adapter means: of that name, or of the one name that differs
/// from it only in what stands before, for models are saved with and without an outer module.
fn find<'a>(
    tensors: &'a BTreeMap<String, TensorInfo>,
    name: &str,
) -> Option<(&'a str, &'a TensorInfo)> {
    if let Some((name, info)) = tensors.get_key_value(name) {
        return Some((name, info));
    }
    let ends =
        |long: &str, short: &str| long.strip_suffix(short).is_some_and(|head| head.ends_with('.'));
    let mut alike = tensors.iter().filter(|(own, _)| ends(own, name) || ends(name, own));
    match (alike.next(), alike.next()) {
        (Some((name, info)), None) => Some((name, info)),
        _ => None,
    }
}

impl Lora {
    /// Opens the adapter in `directory` for a model with these tensors.
    pub(crate) fn open(
        directory: &Path,
        tensors: &BTreeMap<String, TensorInfo>,
        vocabulary: &Vocabulary,
    ) -> Result<Lora, SourceError> {
        let fail = |fault| SourceError::Lora { path: directory.to_owned(), fault };
        if !directory.join(CONFIG).is_file() {
            return Err(fail(LoraError::NoFile(CONFIG)));
        }
        let found = [WEIGHTS, PICKLED].map(|name| directory.join(name));
        let Some(path) = found.into_iter().find(|path| path.is_file()) else {
            return Err(fail(LoraError::NoFile(WEIGHTS)));
        };
        let config = Config::read(&directory.join(CONFIG))?;
        let (file, own) = hf::weights::read(&path, 0)?;
        let mut misfits = Vec::new();
        let mut targets = BTreeMap::new();
        let mut modules: BTreeMap<String, BTreeMap<Role, Matrix>> = BTreeMap::new();
        for (name, info) in own {
            let own = name.strip_prefix("base_model.model.").unwrap_or(&name);
            if !info.dtype.is_float() || info.shape.contains(&0) {
                let dtype = info.dtype.safetensors_name();
                misfits.push(format!(
                    "`{}` {:?} {dtype} holds no numbers",
                    escape(&name),
                    info.shape
                ));
            } else if let Some((module, role)) = role(own) {
                let matrix = Matrix { name: name.clone(), info };
                if modules.entry(module.to_owned()).or_default().insert(role, matrix).is_some() {
                    misfits.push(format!("`{}` is there twice", escape(&name)));
                }
            } else {
                match find(tensors, &replaced(own)) {
                    Some((_, base)) if base.shape != info.shape => misfits.push(format!(
                        "`{}` is {:?}, and the model's is {:?}",
                        escape(&name),
                        info.shape,
                        base.shape
                    )),
                    Some((name, base)) => {
                        let target =
                            Target { base: base.clone(), replaced: Some(info), update: None };
                        targets.insert(name.to_owned(), target);
                    }
                    None => misfits.push(format!(
                        "`{}`: the model has no `{}`",
                        escape(&name),
                        escape(&replaced(own))
                    )),
                }
            }
        }
        let mut updates = Vec::new();
        for (module, matrices) in modules {
            match pair(&config, &module, matrices, tensors) {
                Ok(pair) => updates.push(pair),
                Err(misfit) => misfits.push(misfit),
            }
        }
        if !misfits.is_empty() {
            return Err(fail(LoraError::Misfits(misfits)));
        }
        let merged = Merged {
            modules: updates.len(),
            replaced: targets.len(),
            ranks: range(updates.iter().map(|(pair, _)| pair.a.info.shape[0])).unwrap_or((0, 0)),
            scales: range(updates.iter().map(|(_, scale)| *scale)).unwrap_or((0.0, 0.0)),
            base: config.base.clone(),
        };
        // Squares fit either way round: they are as the others are.
        let turned =
            config.transposed || updates.iter().any(|(pair, _)| pair.fits == (false, true));
        for (pair, scale) in updates {
            let transposed =
                pair.is_embedding || pair.fits == (false, true) || (pair.fits.1 && turned);
            if transposed && pair.magnitude.is_some() {
                let what = format!(
                    "`{}` has DoRA's lengths, and its weight is stored transposed",
                    escape(&pair.name)
                );
                return Err(fail(LoraError::Unsupported(what)));
            }
            let target = targets.entry(pair.name).or_insert(Target {
                base: pair.base,
                replaced: None,
                update: None,
            });
            let Pair { a, b, magnitude, .. } = pair;
            target.update = Some(Update { a, b, scale: scale as f32, transposed, magnitude });
        }
        if let Some(name) = tied(&targets, tensors, vocabulary) {
            let what = format!(
                "it changes `{}`, which the model uses for its head as well, where the adapter was \
                 not trained",
                escape(name)
            );
            return Err(fail(LoraError::Unsupported(what)));
        }
        Ok(Lora { weights: vec![(path, file)], targets, merged })
    }

    /// The adapter's files, the config first.
    pub(crate) fn files(&self) -> impl Iterator<Item = PathBuf> {
        let weights = self.weights.iter().map(|(path, _)| path);
        weights.flat_map(|path| [path.with_file_name(CONFIG), path.clone()])
    }

    /// What it comes to.
    pub(crate) fn merged(&self) -> &Merged {
        &self.merged
    }

    /// How the tensors that it changes are handed out.
    pub(crate) fn infos(&self) -> impl Iterator<Item = (&str, TensorInfo)> {
        self.targets.iter().map(|(name, target)| {
            let dtype = match (&target.update, &target.replaced) {
                (Some(_), _) => DType::F32,
                (None, Some(info)) => info.dtype,
                (None, None) => target.base.dtype,
            };
            let stored = format!("{} + LoRA", target.base.stored);
            (name.as_str(), TensorInfo { dtype, stored, ..target.base.clone() })
        })
    }

    /// Whether the adapter changes a tensor.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.targets.contains_key(name)
    }

    /// Appends `rows` of the tensor `name`, which the adapter changes, to `out`. `base` reads these
    /// rows of the tensor as the model has it.
    pub(crate) fn read(
        &self,
        name: &str,
        rows: Range<u64>,
        base: &ReadBase<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), SourceError> {
        let target = &self.targets[name];
        let mut bytes = Vec::new();
        let dtype = match &target.replaced {
            Some(info) => {
                let elements = rows.start * info.row()..rows.end * info.row();
                encoding::read(&self.weights, info, elements, &mut bytes)?;
                info.dtype
            }
            None => {
                base(&target.base, &mut bytes)?;
                target.base.dtype
            }
        };
        let Some(update) = &target.update else {
            out.append(&mut bytes);
            return Ok(());
        };
        let mut weight = floats(&bytes, dtype);
        drop(bytes);
        Store(&self.weights).add(update, rows, &mut weight)?;
        out.extend(weight.iter().flat_map(|value| value.to_le_bytes()));
        Ok(())
    }
}

/// Appends certain rows of a tensor to a buffer.
type ReadBase<'a> = dyn Fn(&TensorInfo, &mut Vec<u8>) -> Result<(), SourceError> + 'a;

/// The matrices of a module with the tensor that they are for.
struct Pair {
    /// The tensor of the model.
    name: String,
    base: TensorInfo,
    a: Matrix,
    b: Matrix,
    magnitude: Option<Matrix>,
    is_embedding: bool,
    /// Whether they fit it as `[out, in]`, and as `[in, out]`.
    fits: (bool, bool),
}

/// Holds the matrices of a module against the config and the model; what does not fit is said.
fn pair(
    config: &Config,
    module: &str,
    mut matrices: BTreeMap<Role, Matrix>,
    tensors: &BTreeMap<String, TensorInfo>,
) -> Result<(Pair, f64), String> {
    let mut both = |a, b| Some((matrices.remove(&a)?, matrices.remove(&b)?));
    let linear = both(Role::A, Role::B);
    let is_embedding = linear.is_none();
    let found = linear.or_else(|| both(Role::EmbeddingA, Role::EmbeddingB));
    let magnitude = matrices.remove(&Role::Magnitude);
    let at = escape(module);
    let Some((a, b)) = found.filter(|_| matrices.is_empty()) else {
        return Err(format!("`{at}` has not one A and one B"));
    };
    let weight = format!("{module}.weight");
    let Some((name, base)) = find(tensors, &weight) else {
        return Err(format!("`{at}`: the model has no `{}`", escape(&weight)));
    };
    let (&[rank, inner], &[outer, rank_too]) = (a.info.shape.as_slice(), b.info.shape.as_slice())
    else {
        return Err(format!(
            "`{at}`: A is {:?} and B {:?}, and both must be matrices",
            a.info.shape, b.info.shape
        ));
    };
    let expected = config.rank(module);
    if (rank, rank_too) != (expected, expected) {
        return Err(format!(
            "`{at}`: A is {:?} and B {:?}, and the rank is {expected}",
            a.info.shape, b.info.shape
        ));
    }
    let fits = (base.shape == [outer, inner], base.shape == [inner, outer]);
    let fits = if is_embedding { (false, fits.1) } else { fits };
    if !(fits.0 || fits.1) || !base.dtype.is_float() {
        return Err(format!(
            "`{at}`: B·A is {:?}, and the model's weight is {:?} {}",
            [outer, inner],
            base.shape,
            base.stored
        ));
    }
    match (config.magnitudes, &magnitude) {
        (true, Some(m)) if m.info.shape.iter().product::<u64>() == outer => {}
        (false, None) => {}
        (true, Some(m)) => {
            return Err(format!(
                "`{at}`: the lengths are {:?}, and there are {outer} rows",
                m.info.shape
            ));
        }
        (true, None) => return Err(format!("`{at}` has no lengths, and `use_dora` is set")),
        (false, Some(_)) => return Err(format!("`{at}` has lengths, and `use_dora` is not set")),
    }
    let pair =
        Pair { name: name.to_owned(), base: base.clone(), a, b, magnitude, is_embedding, fits };
    Ok((pair, config.scale(module)))
}

/// The smallest and the largest.
fn range<T: PartialOrd + Copy>(values: impl Iterator<Item = T>) -> Option<(T, T)> {
    values.fold(None, |range, value| {
        let (low, high) = range.unwrap_or((value, value));
        Some((if value < low { value } else { low }, if value > high { value } else { high }))
    })
}

/// A tensor that the adapter changes and that is both embedding and head: one with a row a
/// token, of which the model has no second, or none of its own.
fn tied<'a>(
    targets: &'a BTreeMap<String, Target>,
    tensors: &BTreeMap<String, TensorInfo>,
    vocabulary: &Vocabulary,
) -> Option<&'a str> {
    let is_ours =
        |info: &TensorInfo| info.shape.len() == 2 && Some(info.shape[0]) == vocabulary.size;
    let shared = vocabulary.tied || tensors.values().filter(|info| is_ours(info)).count() == 1;
    let (name, _) = targets.iter().find(|(_, target)| is_ours(&target.base))?;
    shared.then_some(name.as_str())
}

#[cfg(test)]
mod tests;
