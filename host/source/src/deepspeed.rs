//! What DeepSpeed's ZeRO writes while it trains: weights in float32, cut over as many files as
//! there were devices, beside a HuggingFace config.
//!
//! In stages 1 and 2 the parameters of a group are one long vector, which is cut over the devices.
//! In stage 3 every parameter is cut by itself, and a device's stretches of all parameters are one
//! vector. In both, the states of the model say names and shapes in that order. Nothing is put
//! together here but where things are: elements stay in the files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use engraft_diagnostic::escape;
use engraft_files::read;
use engraft_ir::DType;

use crate::directory::names as names_of;
use crate::source::{Contents, Encoding, Piece, TensorInfo, Weights};
use crate::torch::{self, Archive, Id};
use crate::{SourceError, hf};

/// The file that names the folder of the last step.
const LATEST: &str = "latest";
const OPTIMIZER: &str = "_mp_rank_00_optim_states.pt";
const MODEL: &str = "mp_rank_00_model_states.pt";

/// The folder of states that belongs to a directory with files of these `names`, if one does.
pub(crate) fn find(directory: &Path, names: &BTreeSet<String>) -> Option<PathBuf> {
    if names.iter().any(|name| name.ends_with(OPTIMIZER)) {
        return Some(directory.to_owned());
    }
    let tag = names.contains(LATEST).then(|| read::whole(&directory.join(LATEST), 4096).ok())??;
    let tag = PathBuf::from(str::from_utf8(&tag).ok()?.trim());
    // A name with a directory in it would lead out of the model.
    let is_name = tag.file_name() == Some(tag.as_os_str());
    let folder = directory.join(tag);
    (is_name && folder.is_dir()).then_some(folder)
}

/// Opens the states in `folder`, whose config is beside or above it.
pub(crate) fn open(directory: &Path, folder: &Path) -> Result<Contents, SourceError> {
    let above = [Some(directory), directory.parent(), folder.parent()];
    let config = above.into_iter().flatten().find(|path| path.join(hf::CONFIG).is_file());
    let Some(config) = config else {
        return Err(SourceError::NoConfig { path: directory.to_owned(), gguf: None });
    };
    hf::open_with(config, &names_of(config)?, |files| {
        let mut run = Run::open(folder)?;
        let tensors = run.tensors()?;
        files.extend(run.weights.iter().map(|(path, _)| path.clone()));
        Ok((tensors, run.weights))
    })
}

/// The files of a run, opened: first the model's states, then the optimizer's by device.
struct Run {
    folder: PathBuf,
    weights: Weights,
    model: Archive,
    /// What each device has.
    devices: Vec<Archive>,
    /// The model's states of the other devices, which stage 3 writes.
    others: Vec<Archive>,
}

type Tensors = BTreeMap<String, TensorInfo>;

/// Names and shapes of the parameters that are flattened together, in order.
type Group = Vec<(String, Vec<u64>)>;

impl Run {
    fn open(folder: &Path) -> Result<Run, SourceError> {
        let names = names_of(folder)?;
        let fail = |what: String| SourceError::Training { path: folder.to_owned(), what };
        // `zero_pp_rank_3` and `bf16_zero_pp_rank_3`, of which there is one set.
        let mut optimizers = BTreeMap::new();
        for name in &names {
            let Some((kind, rank)) =
                name.strip_suffix(OPTIMIZER).and_then(|stem| stem.rsplit_once("pp_rank_"))
            else {
                continue;
            };
            let rank: usize =
                rank.parse().map_err(|_| fail(format!("{} has no number", escape(name))))?;
            if optimizers.insert(rank, (kind, name)).is_some() {
                return Err(fail(format!("has the states of device {rank} twice")));
            }
        }
        if let Some(other) = names.iter().find(|name| name.contains("mp_rank_01_")) {
            return Err(fail(format!(
                "is cut over devices that share layers as well, as {} shows, which is not read",
                escape(other)
            )));
        }
        let kind = optimizers.values().next().map_or("zero_", |(kind, _)| *kind);
        let count = optimizers.keys().next_back().map_or(0, |last| last + 1);
        let missing: Vec<String> = (0..count)
            .filter(|rank| !optimizers.contains_key(rank))
            .map(|rank| format!("{kind}pp_rank_{rank}{OPTIMIZER}"))
            .collect();
        if !missing.is_empty() {
            let path = folder.to_owned();
            return Err(SourceError::MissingShards { path, missing, all: count });
        }
        let mut weights = Weights::new();
        let mut open = |name: &str| -> Result<Archive, SourceError> {
            let path = folder.join(name);
            let (file, archive) = torch::open(&path)?;
            weights.push((path, file));
            Ok(archive)
        };
        let of_rank = |rank: usize| format!("zero_pp_rank_{rank}_{MODEL}");
        let is_third = names.contains(&of_rank(0));
        let first = if is_third { of_rank(0) } else { MODEL.to_owned() };
        if !names.contains(&first) {
            let missing = vec![first];
            return Err(SourceError::MissingShards { path: folder.to_owned(), missing, all: 1 });
        }
        let model = open(&first)?;
        let devices: Vec<Archive> =
            optimizers.values().map(|(_, name)| open(name)).collect::<Result<_, _>>()?;
        let others = (1..if is_third { count } else { 0 })
            .map(|rank| open(&of_rank(rank)))
            .collect::<Result<_, _>>()?;
        Ok(Run { folder: folder.to_owned(), weights, model, devices, others })
    }

    fn fail(&self, what: impl Into<String>) -> SourceError {
        SourceError::Training { path: self.folder.clone(), what: what.into() }
    }

    /// All tensors of the model.
    fn tensors(&mut self) -> Result<Tensors, SourceError> {
        let (heap, root) = (&self.model.heap, self.model.root);
        let groups = heap.find(root, "param_shapes").map(|id| self.shapes(&self.model, id));
        let groups = groups.transpose()?.ok_or_else(|| {
            self.fail("says no shapes of parameters: the DeepSpeed that wrote it is too old")
        })?;
        let mut tensors = Tensors::new();
        let flat = |key: &str| -> Result<Option<Vec<Vec<TensorInfo>>>, SourceError> {
            let vectors = self.devices.iter().enumerate().map(|(rank, device)| {
                let state = device.heap.find(device.root, "optimizer_state_dict");
                let list = state.and_then(|state| device.heap.find(state, key));
                list.map(|list| self.vectors(device, rank + 1, key, list)).transpose()
            });
            vectors.collect::<Result<Option<Vec<_>>, _>>()
        };
        if let Some(devices) = flat("single_partition_of_fp32_groups")? {
            self.cut_together(&groups, &devices, &mut tensors)?;
        } else if let Some(devices) = flat("fp32_flat_groups")? {
            self.cut_alone(&groups, &devices, &mut tensors)?;
        } else {
            return Err(self.fail("has no weights in float32 in its optimizer's states"));
        }
        self.frozen(&mut tensors)?;
        self.buffers(&mut tensors)?;
        self.shared(&mut tensors)?;
        Ok(tensors)
    }

    /// Names and shapes, group by group.
    fn shapes(&self, archive: &Archive, id: Id) -> Result<Vec<Group>, SourceError> {
        let heap = &archive.heap;
        let malformed = || self.fail("has shapes of parameters that are none");
        let of_group = |group: Id| {
            let entries = heap.entries(group).ok_or_else(malformed)?;
            let shapes = entries.iter().map(|&(name, shape)| {
                let name = heap.text(name).ok_or_else(malformed)?;
                let shape = heap.numbers(shape).ok_or_else(malformed)?;
                Ok((bare(name), shape))
            });
            shapes.collect()
        };
        match heap.entries(id) {
            Some(_) => Ok(vec![of_group(id)?]),
            None => heap.items(id).ok_or_else(malformed)?.iter().map(|&id| of_group(id)).collect(),
        }
    }

    /// The vectors that a device has: a list, or one alone.
    fn vectors(
        &self,
        device: &Archive,
        file: usize,
        key: &str,
        list: Id,
    ) -> Result<Vec<TensorInfo>, SourceError> {
        let path = &self.weights[file].0;
        let alone = [list];
        let ids = device.heap.items(list).unwrap_or(&alone);
        let vectors = ids.iter().map(|&id| {
            let info = device.tensor(path, file, key, id)?;
            let is_flat = info.shape.len() == 1 && info.encoding == Encoding::Plain;
            match is_flat && info.dtype == DType::F32 {
                true => Ok(info),
                false => Err(self.fail(format!("has a `{key}` that is no vector in float32"))),
            }
        });
        vectors.collect()
    }

    /// Stages 1 and 2: each group is one vector over all devices.
    fn cut_together(
        &self,
        groups: &[Group],
        devices: &[Vec<TensorInfo>],
        tensors: &mut Tensors,
    ) -> Result<(), SourceError> {
        if let Some(wrong) = devices.iter().find(|groups_of| groups_of.len() != groups.len()) {
            let (said, found) = (groups.len(), wrong.len());
            return Err(
                self.fail(format!("has {said} groups of parameters and {found} of weights"))
            );
        }
        for (number, group) in groups.iter().enumerate() {
            let parts: Vec<&TensorInfo> = devices.iter().map(|groups| &groups[number]).collect();
            let mut at = 0;
            for (name, shape) in group {
                let elements = self.elements(name, shape)?;
                let pieces = stretch(&parts, at, elements, 0).ok_or_else(|| self.short(name))?;
                at += elements;
                self.add(tensors, name, TensorInfo::of_pieces(DType::F32, shape.clone(), pieces))?;
            }
            let all: u64 = parts.iter().map(|part| part.shape[0]).sum();
            // Padding makes it a multiple of twice the devices.
            let align = 2 * devices.len() as u64;
            if at
                .checked_next_multiple_of(align)
                .is_none_or(|padded| padded < all && at < all - align)
            {
                return Err(self.fail(format!("has {all} weights in a group of {at}")));
            }
        }
        Ok(())
    }

    /// Stage 3: each parameter is cut over all devices.
    fn cut_alone(
        &self,
        groups: &[Group],
        devices: &[Vec<TensorInfo>],
        tensors: &mut Tensors,
    ) -> Result<(), SourceError> {
        let mut at = 0;
        for (name, shape) in groups.iter().flatten() {
            let elements = self.elements(name, shape)?;
            let share = elements.div_ceil(devices.len() as u64);
            let mut pieces = Vec::new();
            for (rank, parts) in devices.iter().enumerate() {
                let first = share * rank as u64;
                let count = share.min(elements.saturating_sub(first));
                let parts: Vec<&TensorInfo> = parts.iter().collect();
                let more = stretch(&parts, at, count, first).ok_or_else(|| self.short(name))?;
                pieces.extend(more);
            }
            at += share;
            self.add(tensors, name, TensorInfo::of_pieces(DType::F32, shape.clone(), pieces))?;
        }
        Ok(())
    }

    /// Parameters that were not trained, which are in the states of the model.
    fn frozen(&self, tensors: &mut Tensors) -> Result<(), SourceError> {
        let of = |archive: &Archive, key: &str| archive.heap.find(archive.root, key);
        let Some(shapes) = of(&self.model, "frozen_param_shapes") else {
            return Ok(());
        };
        if self.model.heap.entries(shapes).is_none() {
            return Ok(());
        }
        for (name, shape) in self.shapes(&self.model, shapes)?.into_iter().flatten() {
            let elements = self.elements(&name, &shape)?;
            let mut fragments = Vec::new();
            for (file, archive) in self.states() {
                let found = of(archive, "frozen_param_fragments")
                    .and_then(|all| Some((all, archive.heap.entries(all)?)))
                    .and_then(|(_, entries)| {
                        let is_it = |id| archive.heap.text(id).is_some_and(|key| bare(key) == name);
                        entries.iter().find(|(key, _)| is_it(*key)).map(|(_, value)| *value)
                    });
                let id = found.ok_or_else(|| self.short(&name))?;
                fragments.push(archive.tensor(&self.weights[file].0, file, &name, id)?);
            }
            if fragments.iter().any(|part| part.encoding != Encoding::Plain) {
                return Err(
                    self.fail(format!("has the frozen `{}` in another order", escape(&name)))
                );
            }
            let dtype = fragments.first().map_or(DType::F32, |part| part.dtype);
            let flat: Vec<TensorInfo> = fragments
                .into_iter()
                .map(|part| TensorInfo { shape: vec![part.shape.iter().product()], ..part })
                .collect();
            if flat.iter().any(|part| part.dtype != dtype) {
                return Err(self.fail(format!("has the frozen `{}` in two types", escape(&name))));
            }
            let parts: Vec<&TensorInfo> = flat.iter().collect();
            let pieces = stretch(&parts, 0, elements, 0).ok_or_else(|| self.short(&name))?;
            self.add(tensors, &name, TensorInfo::of_pieces(dtype, shape, pieces))?;
        }
        Ok(())
    }

    /// The model's states of all devices, with the numbers of their files.
    fn states(&self) -> impl Iterator<Item = (usize, &Archive)> {
        let first = 1 + self.devices.len();
        let others = self.others.iter().enumerate().map(move |(i, other)| (first + i, other));
        [(0, &self.model)].into_iter().chain(others)
    }

    /// What the model keeps that is no parameter.
    fn buffers(&self, tensors: &mut Tensors) -> Result<(), SourceError> {
        let (heap, root, path) = (&self.model.heap, self.model.root, &self.weights[0].0);
        let names = heap.find(root, "buffer_names").and_then(|names| heap.items(names));
        let Some(module) = heap.find(root, "module") else {
            return Ok(());
        };
        for name in names.unwrap_or_default() {
            let name = heap.text(*name).unwrap_or_default();
            if let Some(id) = heap.find(module, name) {
                let info = self.model.tensor(path, 0, name, id)?;
                self.add(tensors, &bare(name), info)?;
            }
        }
        Ok(())
    }

    /// Parameters that are others by a second name.
    fn shared(&self, tensors: &mut Tensors) -> Result<(), SourceError> {
        let (heap, root) = (&self.model.heap, self.model.root);
        let pairs = heap.find(root, "shared_params").and_then(|pairs| heap.entries(pairs));
        for &(alias, name) in pairs.unwrap_or_default() {
            let (Some(alias), Some(name)) = (heap.text(alias), heap.text(name)) else {
                return Err(self.fail("has shared parameters without names"));
            };
            let info = tensors.get(&bare(name)).cloned().ok_or_else(|| self.short(name))?;
            tensors.insert(bare(alias), info);
        }
        Ok(())
    }

    fn add(&self, tensors: &mut Tensors, name: &str, info: TensorInfo) -> Result<(), SourceError> {
        match tensors.insert(name.to_owned(), info) {
            None => Ok(()),
            Some(_) => Err(self.fail(format!("has the parameter `{}` twice", escape(name)))),
        }
    }

    fn elements(&self, name: &str, shape: &[u64]) -> Result<u64, SourceError> {
        let all = shape.iter().try_fold(1u64, |all, extent| all.checked_mul(*extent));
        // Beyond this no file has them, and sums of a few such fit.
        all.filter(|all| *all < 1 << 48).ok_or_else(|| self.short(name))
    }

    fn short(&self, name: &str) -> SourceError {
        self.fail(format!("has not all of the parameter `{}`", escape(name)))
    }
}

/// A name without what wraps the model in training.
fn bare(name: &str) -> String {
    name.strip_prefix("module.").unwrap_or(name).to_owned()
}

/// Where `count` elements from `at` on of vectors in a row are; in their tensor they begin at
/// `first`. None where the vectors end before.
fn stretch(parts: &[&TensorInfo], at: u64, count: u64, first: u64) -> Option<Vec<Piece>> {
    let (mut skip, mut left, mut first) = (at, count, first);
    let mut pieces = Vec::new();
    for part in parts {
        let length = part.shape.first().copied().unwrap_or(0);
        if skip >= length {
            skip -= length;
            continue;
        }
        let row = left.min(length - skip);
        if row == 0 {
            break;
        }
        let start = part.start + skip * part.dtype.size() as u64;
        pieces.push(Piece { file: part.file, start, first, row, every: row, rows: 1 });
        (skip, left, first) = (0, left - row, first + row);
    }
    (left == 0).then_some(pieces)
}

#[cfg(test)]
mod tests;
