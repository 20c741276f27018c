//! Archives and unpacked ones, of both ages, and what else is called so.

use engraft_diagnostic::{Code, Diagnostic};
use engraft_ir::DType;
use serde_json::json;

use super::*;
use crate::Source;
use crate::torch::build::{Tensor, model};

const CONFIG_TEXT: &str = "# a comment\nnum_layers: 2\nlayernorm_epsilon: 1.0e-05\nbias: false\n\
    position_embedding_type: rope\nnormalization: 'rmsnorm'\nactivation: fast-swiglu\n\
    num_query_groups: null\noptim:\n  name: \"adam\"\n  betas:\n  - 0.9\n  - 0.98\nempty: {}\n\
    precision: bf16-mixed\nversion: 1.20.0\n";

/// A file of a tar archive.
fn entry(name: &str, bytes: &[u8], kind: u8) -> Vec<u8> {
    let mut header = vec![0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[124..135].copy_from_slice(format!("{:011o}", bytes.len()).as_bytes());
    header[148..156].fill(b' ');
    header[156] = kind;
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    header.extend(bytes);
    header.resize(header.len().next_multiple_of(512), 0);
    header
}

fn weights(table: &str) -> Vec<u8> {
    model(&[Tensor::new(table, DType::BF16, &[3, 2], &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12])])
}

fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let entries = entries.iter().map(|(name, bytes)| entry(name, bytes, b'0'));
    [entry("./", &[], b'5'), entries.collect::<Vec<_>>().concat(), vec![0; 1024]].concat()
}

fn open(name: &str, bytes: &[u8]) -> Result<(tempfile::TempDir, Source), SourceError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    Source::open(&path).map(|source| (directory, source))
}

#[test]
fn an_archive_is_read_where_it_lies() {
    for (dialect, table) in TABLES {
        let weights = weights(table);
        let files =
            [("./model_config.yaml", CONFIG_TEXT.as_bytes()), ("./model_weights.ckpt", &weights)];
        let (_kept, source) = open("m.nemo", &archive(&files)).unwrap();
        assert_eq!(source.dialect(), dialect);
        assert_eq!(source.architectures(), ["nemo:rope-rmsnorm-fast-swiglu"]);
        let expected = json!({
            "num_layers": 2, "layernorm_epsilon": 1e-5, "bias": false, "vocab_size": 3,
            "position_embedding_type": "rope", "normalization": "rmsnorm",
            "activation": "fast-swiglu", "num_query_groups": null, "empty": {},
            "optim": {"name": "adam", "betas": [0.9, 0.98]}, "precision": "bf16-mixed",
            "version": "1.20.0",
        });
        assert_eq!(*source.config(), expected);
        let mut row = Vec::new();
        source.read(table, 1..2, &mut row).unwrap();
        assert_eq!(row, [5, 6, 7, 8]);
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(CONFIG), CONFIG_TEXT).unwrap();
        std::fs::write(directory.path().join(WEIGHTS), &weights).unwrap();
        let unpacked = Source::open(directory.path()).unwrap();
        assert_eq!((unpacked.dialect(), unpacked.config()), (dialect, &expected));
    }
}

#[test]
fn long_names_are_read_in_either_way() {
    let weights = weights(TABLES[0].1);
    let gnu = [
        entry("././@LongLink", b"model_config.yaml\0", b'L'),
        entry("m", CONFIG_TEXT.as_bytes(), b'0'),
    ];
    let posix = [
        entry("x", b"27 path=model_config.yaml\n", b'x'),
        entry("m", CONFIG_TEXT.as_bytes(), b'0'),
    ];
    for long in [gnu, posix] {
        let bytes = [long.concat(), archive(&[("model_weights.ckpt", &weights)])].concat();
        assert_eq!(open("m.nemo", &bytes).unwrap().1.dialect(), "nemo");
    }
}

#[test]
fn what_is_no_whole_model_is_told() {
    let config = ("model_config.yaml", CONFIG_TEXT.as_bytes());
    let table = weights(TABLES[0].1);
    let other = weights("other");
    for (files, what) in [
        (vec![("model_weights.ckpt", table.as_slice())], "has no model_config.yaml"),
        (vec![config], "has no model_weights.ckpt"),
        (vec![config, ("model_weights/common.pt", b"")], "has a distributed checkpoint"),
        (vec![config, ("mp_rank_00/model_weights.ckpt", b"")], "cut over several devices"),
        (vec![config, ("model_weights.ckpt", &other)], "has no table of embeddings"),
    ] {
        let error = open("m.nemo", &archive(&files)).map(drop).unwrap_err();
        assert!(error.to_string().contains(what), "{what}: {error}");
        assert_eq!(error.code(), Code(141));
    }
    let error = open("m.nemo", &[0x1f, 0x8b, 8, 0]).map(drop).unwrap_err().to_string();
    assert!(error.contains("unpack it with `tar -xzf`"), "{error}");
    let whole = archive(&[config, ("model_weights.ckpt", &table)]);
    for length in (0..whole.len()).step_by(100) {
        let error = open("m.nemo", &whole[..length]).map(drop);
        assert!(error.is_err() || length + 2048 > whole.len(), "{length}");
    }
}

#[test]
fn a_malformed_config_is_told_with_its_place() {
    let deep = "[".repeat(100);
    for (text, what) in [
        ("a: [1\nb: 2", "does not parse"),
        ("a: &x 1\nb: *x", "an alias is not read"),
        ("a: 1\na: 2", "twice"),
        ("- 1", "an object is expected"),
        ("", "an object is expected"),
        (deep.as_str(), "too deep"),
    ] {
        let table = weights(TABLES[0].1);
        let files = [(CONFIG, text.as_bytes()), (WEIGHTS, table.as_slice())];
        let error = open("m.nemo", &archive(&files)).map(drop).unwrap_err();
        assert!(error.to_string().contains(what), "{what}: {error}");
        assert!(error.location().unwrap().contains("model_config.yaml:"), "{error:?}");
    }
}
