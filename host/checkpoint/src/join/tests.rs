//! Ranks put together, and ranks that do not belong together.

use super::*;
use crate::{CONFIG_FILE, Reader, weights_file};
use engraft_diagnostic::Diagnostic;
use engraft_weights::{Cut, Piece};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;
use std::path::Path;

const NORM: &str = "transformer.layers.0.input_layernorm.weight";

/// A parameter in memory.
struct Parameter {
    shape: Vec<u64>,
    values: Vec<f32>,
}

/// A model in memory, split by hand.
struct Split {
    directory: tempfile::TempDir,
    wholes: BTreeMap<String, Parameter>,
    /// What each rank has: name there, name of the whole, cut.
    shares: Vec<Vec<Share>>,
    /// Values of parts that are not those of the whole: rank, name there.
    other: BTreeMap<(usize, String), Vec<f32>>,
    mapping: serde_json::Value,
}

fn keep(ranges: &[std::ops::Range<u64>]) -> Vec<Piece> {
    ranges.iter().cloned().map(Piece::Keep).collect()
}

fn cut(parameter: &Parameter, cut: &Cut) -> Vec<f32> {
    let mut indices: Vec<Option<u64>> = vec![Some(0)];
    for (axis, pieces) in cut.axes.iter().enumerate() {
        let kept: Vec<Option<u64>> = pieces
            .iter()
            .flat_map(|piece| match piece {
                Piece::Keep(range) => range.clone().map(Some).collect::<Vec<_>>(),
                Piece::Zeros(count) => vec![None; *count as usize],
            })
            .collect();
        indices = indices
            .iter()
            .flat_map(|&i| kept.iter().map(move |k| Some(i? * parameter.shape[axis] + (*k)?)))
            .collect();
    }
    indices.iter().map(|i| i.map_or(0.0, |i| parameter.values[i as usize])).collect()
}

impl Split {
    fn new(mapping: serde_json::Value, ranks: usize) -> Split {
        Split {
            directory: tempfile::tempdir().unwrap(),
            wholes: BTreeMap::new(),
            shares: vec![Vec::new(); ranks],
            other: BTreeMap::new(),
            mapping,
        }
    }

    fn whole(&mut self, name: &str, shape: &[u64]) {
        let seed = self.wholes.len() as f32 * 1000.0;
        let count: u64 = shape.iter().product();
        let values = (0..count).map(|i| i as f32 + seed + 1.0).collect();
        self.wholes.insert(name.to_owned(), Parameter { shape: shape.to_vec(), values });
    }

    fn share(&mut self, rank: usize, name: &str, source: &str, axes: &[Vec<Piece>]) {
        let cut = Cut { axes: axes.to_vec() };
        self.shares[rank].push(Share { name: name.into(), source: source.into(), cut });
    }

    /// A parameter that every rank has whole.
    fn everywhere(&mut self, name: &str, shape: &[u64]) {
        self.whole(name, shape);
        for rank in 0..self.shares.len() {
            let cut = Cut::whole(shape);
            self.share(rank, name, name, &cut.axes);
        }
    }

    fn write(&self, own: serde_json::Value) {
        let mut config = json!({
            "architecture": "A", "dtype": "float32", "hidden_size": 4,
            "num_hidden_layers": 2, "num_attention_heads": 2, "mapping": self.mapping,
        });
        config.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
        let path = self.directory.path();
        std::fs::write(path.join(CONFIG_FILE), config.to_string()).unwrap();
        for (rank, shares) in self.shares.iter().enumerate() {
            let tensors: Vec<(String, Vec<u64>, Vec<f32>)> = shares
                .iter()
                .map(|share| {
                    let values = cut(&self.wholes[&share.source], &share.cut);
                    let key = (rank, share.name.clone());
                    let values = self.other.get(&key).cloned().unwrap_or(values);
                    (share.name.clone(), share.cut.shape(), values)
                })
                .collect();
            write_file(&path.join(weights_file(rank as u32)), &tensors);
        }
    }

    fn open(&self) -> Reader {
        Reader::open(self.directory.path()).unwrap()
    }

    fn wholes(&self) -> Vec<(String, Vec<u64>)> {
        self.wholes.iter().map(|(name, whole)| (name.clone(), whole.shape.clone())).collect()
    }

    fn join(&self) -> Result<Joined, CheckpointError> {
        self.open().join(&self.shares, &self.wholes())
    }

    /// Every parameter is what it was, whatever the size of a piece.
    fn check(&self) -> Joined {
        let mut joined = self.join().unwrap();
        for piece in [1, 8, 24, 1 << 20] {
            joined.piece = piece;
            for (name, whole) in &self.wholes {
                let values = stream(&joined, name).unwrap();
                assert_eq!(values, whole.values, "{name}, {piece} bytes at a time");
                assert_eq!(joined.get(name).unwrap().shape(), whole.shape);
            }
        }
        joined
    }
}

fn write_file(path: &Path, tensors: &[(String, Vec<u64>, Vec<f32>)]) {
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, _, values)| values.iter().flat_map(|v| v.to_le_bytes()).collect())
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        let shape = shape.iter().map(|&n| n as usize).collect();
        (name.as_str(), TensorView::new(Dtype::F32, shape, bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, path).unwrap();
}

fn stream(provider: &Joined, name: &str) -> Result<Vec<f32>, WeightError> {
    let mut out = Vec::new();
    provider.stream(name, &mut |bytes| {
        out.extend(bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())));
        Ok(())
    })?;
    Ok(out)
}

fn tp2() -> Split {
    Split::new(json!({"world_size": 2, "tp_size": 2}), 2)
}

/// Two ranks with everything that tensor parallelism does: repeated key heads, cut columns with
/// a bias that is whole, a padded head, what both have.
fn tensor_parallel() -> Split {
    let mut split = tp2();
    let layer = "transformer.layers.0.";
    let (qkv, dense) = (format!("{layer}attention.qkv.weight"), format!("{layer}attention.dense"));
    let (weight, bias) = (format!("{dense}.weight"), format!("{dense}.bias"));
    split.everywhere(EMBEDDING, &[5, 4]);
    split.everywhere(NORM, &[4]);
    split.everywhere(&bias, &[4]);
    split.whole(&qkv, &[8, 4]);
    split.whole(&weight, &[4, 6]);
    split.whole(HEAD, &[5, 4]);
    for rank in 0..2 {
        let r = rank as u64;
        split.share(rank, &qkv, &qkv, &[keep(&[r * 2..r * 2 + 2, 4..6, 6..8]), keep(&[0..4])]);
        split.share(rank, &weight, &weight, &[keep(&[0..4]), keep(&[r * 3..r * 3 + 3])]);
    }
    split.share(0, HEAD, HEAD, &[keep(&[0..3]), keep(&[0..4])]);
    let padded = vec![Piece::Keep(3..5), Piece::Zeros(1)];
    split.share(1, HEAD, HEAD, &[padded, keep(&[0..4])]);
    split
}

#[test]
fn tensor_parallel_ranks_are_put_together() {
    let split = tensor_parallel();
    split.write(json!({}));
    let joined = split.check();
    assert!(joined.warnings().is_empty(), "{:?}", joined.warnings());
    assert_eq!(joined.names().first().map(String::as_str), Some(EMBEDDING));
    assert_eq!(joined.names().last().map(String::as_str), Some(HEAD));
}

#[test]
fn stages_blocks_get_their_own_numbers() {
    let mut split = Split::new(json!({"world_size": 2, "pp_size": 2}), 2);
    split.whole(EMBEDDING, &[3, 2]);
    split.share(0, EMBEDDING, EMBEDDING, &[keep(&[0..3]), keep(&[0..2])]);
    let second = "transformer.layers.1.input_layernorm.weight";
    for (rank, source) in [(0, NORM), (1, second)] {
        split.whole(source, &[4]);
        split.share(rank, NORM, source, &[keep(&[0..4])]);
    }
    split.write(json!({}));
    let joined = split.check();
    assert_eq!(joined.names(), [EMBEDDING, NORM, second]);
    assert!(split.open().get(second).is_some());
}

#[test]
fn experts_are_gathered_and_their_halves_put_side_by_side() {
    let mapping = json!({"world_size": 4, "tp_size": 4, "moe_tp_size": 2, "moe_ep_size": 2});
    let mut split = Split::new(mapping, 4);
    let (fc, proj) = ("transformer.layers.0.mlp.fc.weight", "transformer.layers.0.mlp.proj.weight");
    split.whole(fc, &[4, 8, 3]);
    split.whole(proj, &[4, 3, 4]);
    for rank in 0..4 {
        let (tp, ep) = (rank as u64 / 2, rank as u64 % 2);
        let experts = keep(&[ep * 2..ep * 2 + 2]);
        let halves = keep(&[tp * 2..tp * 2 + 2, 4 + tp * 2..6 + tp * 2]);
        split.share(rank, fc, fc, &[experts.clone(), halves, keep(&[0..3])]);
        let columns = keep(&[tp * 2..tp * 2 + 2]);
        split.share(rank, proj, proj, &[experts, keep(&[0..3]), columns]);
    }
    split.write(json!({}));
    split.check();
}

#[test]
fn copies_that_differ_are_named_with_their_files_and_the_place() {
    let mut split = tensor_parallel();
    split.other.insert((1, NORM.into()), vec![1001.0, 1002.0, 0.0, 1004.0]);
    split.write(json!({}));
    let error = stream(&split.join().unwrap(), NORM).unwrap_err();
    let text = format!("`{NORM}` is not the same in rank0.safetensors and rank1.safetensors");
    assert_eq!(error.to_string(), text);
    assert!(error.location().unwrap().ends_with("from [2] on"), "{:?}", error.location());
}

#[test]
fn a_bias_of_cut_columns_may_be_zero_on_later_ranks_and_nothing_else_may() {
    let bias = "transformer.layers.0.attention.dense.bias";
    let mut split = tensor_parallel();
    split.other.insert((1, bias.into()), vec![0.0; 4]);
    split.write(json!({}));
    split.check();
    // Not on the first, not a little, and no other tensor.
    for (rank, name, values) in
        [(0, bias, vec![0.0; 4]), (1, bias, vec![2001.0, 0.0, 0.0, 0.0]), (1, NORM, vec![0.0; 4])]
    {
        let mut split = tensor_parallel();
        split.other.insert((rank, name.into()), values);
        split.write(json!({}));
        let error = stream(&split.join().unwrap(), name).unwrap_err();
        assert!(matches!(error, WeightError::Copies { .. }), "{error}");
    }
}

#[test]
fn padding_that_is_not_zero_is_reported() {
    let mut split = tensor_parallel();
    let mut part = cut(&split.wholes[HEAD], &split.shares[1].last().unwrap().cut);
    part[8] = 1.0;
    split.other.insert((1, HEAD.into()), part);
    split.write(json!({}));
    let joined = split.check();
    let [warning] = joined.warnings() else { panic!("{:?}", joined.warnings()) };
    assert!(
        warning.starts_with("rank1.safetensors: the rows 2..3 of `lm_head.weight`"),
        "{warning}"
    );
}

#[test]
fn every_tensor_that_does_not_fit_is_listed_with_its_file() {
    let mut split = tensor_parallel();
    split.write(json!({}));
    split.share(1, "missing", HEAD, &[keep(&[0..1]), keep(&[0..4])]);
    split.shares[0].retain(|share| share.name != NORM);
    split.shares[1].iter_mut().find(|share| share.name == NORM).unwrap().cut = Cut::whole(&[5]);
    let error = split.join().unwrap_err();
    let location = error.location().unwrap();
    for line in [
        "missing:\nrank1.safetensors: `missing` [1, 4]",
        &format!("superfluous:\nrank0.safetensors: `{NORM}` [4]"),
        &format!("rank1.safetensors: `{NORM}` [4], not [5]"),
    ] {
        assert!(location.contains(line), "{location}");
    }
}

#[test]
fn what_exporters_are_known_to_add_is_reported_and_nothing_else_passes() {
    let mut split = tensor_parallel();
    let cache = "transformer.layers.0.attention.k_cache_scaling_factor";
    for name in ["lm_head.activation_scaling_factor", cache, "rotary_inv_freq"] {
        split.everywhere(name, &[1]);
    }
    split.write(json!({}));
    for shares in &mut split.shares {
        shares.retain(|share| !share.cut.is_whole(&[1]));
    }
    split.wholes.retain(|_, whole| whole.shape != [1]);
    let joined = split.check();
    let found = joined.warnings().join("\n");
    assert_eq!(joined.warnings().len(), 4, "{found}");
    let line = format!("rank1.safetensors: `{cache}` is left alone: the cache is not quantised");
    assert!(found.contains(&line), "{found}");
}

#[test]
fn a_head_that_is_in_no_file_is_the_embedding_unless_the_config_denies_it() {
    let mut split = tensor_parallel();
    for shares in &mut split.shares {
        shares.retain(|share| share.name != HEAD);
    }
    split.write(json!({}));
    for (rank, rows) in [(0, keep(&[0..3])), (1, vec![Piece::Keep(3..5), Piece::Zeros(1)])] {
        split.share(rank, HEAD, HEAD, &[rows, keep(&[0..4])]);
    }
    let joined = split.join().unwrap();
    assert_eq!(joined.get(HEAD).unwrap().tied.as_deref(), Some(EMBEDDING));
    assert_eq!(stream(&joined, HEAD).unwrap(), split.wholes[EMBEDDING].values);
    assert!(joined.warnings()[0].contains("`lm_head.weight` is in no file"));
    let without = |own| {
        let mut other = tensor_parallel();
        for shares in &mut other.shares {
            shares.retain(|share| share.name != HEAD);
        }
        other.write(own);
        other.open().join(&split.shares, &split.wholes())
    };
    assert!(without(json!({"share_embedding_table": true})).unwrap().warnings().is_empty());
    let error = without(json!({"tie_word_embeddings": false})).unwrap_err();
    assert!(error.to_string().contains("2 missing"), "{error}");
}

#[test]
fn a_tied_head_that_is_cut_is_held_against_the_embedding() {
    let mut split = tensor_parallel();
    let embedding = split.wholes[EMBEDDING].values.clone();
    split.wholes.get_mut(HEAD).unwrap().values = embedding;
    split.write(json!({"tie_word_embeddings": true}));
    let joined = split.check();
    assert_eq!(joined.get(HEAD).unwrap().tied.as_deref(), Some(EMBEDDING));
    split.wholes.get_mut(HEAD).unwrap().values[17] = 0.5;
    split.write(json!({"tie_word_embeddings": true}));
    let error = split.join().unwrap_err();
    assert!(error.to_string().ends_with("row 4 is another"), "{error}");
}

#[test]
fn all_missing_rank_files_are_listed_and_a_broken_one_is_named() {
    let split = tensor_parallel();
    split.write(json!({}));
    let path = split.directory.path();
    let bytes = std::fs::read(path.join("rank1.safetensors")).unwrap();
    std::fs::write(path.join("rank1.safetensors"), &bytes[..bytes.len() - 4]).unwrap();
    let error = Reader::open(path).err().unwrap();
    assert!(format!("{error} {:?}", error.location()).contains("rank1.safetensors"), "{error}");
    for rank in ["rank0.safetensors", "rank1.safetensors"] {
        std::fs::remove_file(path.join(rank)).unwrap();
    }
    let error = Reader::open(path).err().unwrap();
    assert_eq!(error.to_string(), "2 of the checkpoint's 2 weight files are missing");
    assert!(error.location().unwrap().ends_with("rank0.safetensors\nrank1.safetensors"));
}

#[test]
fn a_stage_has_no_more_blocks_than_its_share() {
    let mut split = Split::new(json!({"world_size": 2, "pp_size": 2}), 2);
    split.everywhere("transformer.layers.1.input_layernorm.weight", &[4]);
    split.write(json!({}));
    let error = Reader::open(split.directory.path()).err().unwrap();
    assert!(matches!(error, CheckpointError::StageBlocks { share: 1, .. }), "{error}");
    assert!(error.location().unwrap().ends_with("rank0.safetensors"));
}

#[test]
fn a_nan_is_found_in_the_file_that_has_it() {
    let mut split = tensor_parallel();
    let weight = "transformer.layers.0.attention.dense.weight";
    let mut part = vec![1.0; 12];
    part[4] = f32::NAN;
    split.other.insert((1, weight.into()), part);
    split.write(json!({}));
    let error = stream(&split.join().unwrap(), weight).unwrap_err();
    assert_eq!(error.to_string(), format!("`{weight}`[1, 4] is NaN"));
    assert!(error.location().unwrap().ends_with("rank1.safetensors"));
}

#[test]
fn a_rank_file_beyond_the_mapping_is_reported() {
    let split = tensor_parallel();
    split.write(json!({}));
    std::fs::write(split.directory.path().join("rank2.safetensors"), b"").unwrap();
    assert!(split.open().warnings()[0].starts_with("rank2.safetensors is there"));
}
