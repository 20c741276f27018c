//! One file and several, and files that do not go together.

use engraft_diagnostic::{Code, Diagnostic};
use engraft_ir::DType;
use tempfile::TempDir;

use crate::torch::build::{Tensor, model};
use crate::{Source, SourceError};

fn directory(params: &str, shards: &[Vec<Tensor>]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("params.json"), params).unwrap();
    for (number, tensors) in shards.iter().enumerate() {
        let path = directory.path().join(format!("consolidated.{number:02}.pth"));
        std::fs::write(path, model(tensors)).unwrap();
    }
    directory
}

fn tensor(name: &str, shape: &[u64], bytes: &[u8]) -> Tensor {
    Tensor::new(name, DType::U8, shape, bytes)
}

/// Two halves of a model of width four and five tokens.
fn halves() -> [Vec<Tensor>; 2] {
    let half = |i: u8| {
        let even: Vec<u8> = (0..10).map(|at| at / 2 * 4 + at % 2 + 2 * i).collect();
        let back: Vec<u8> = (0..12).map(|at| at / 3 * 6 + at % 3 + 3 * i).collect();
        vec![
            tensor("tok_embeddings.weight", &[5, 2], &even),
            tensor("layers.0.attention.wq.weight", &[2, 4], &[8 * i, 1, 2, 3, 4, 5, 6, 7]),
            tensor("layers.0.feed_forward.w2.weight", &[4, 3], &back),
            tensor("norm.weight", &[4], &[1, 2, 3, 4]),
        ]
    };
    [half(0), half(1)]
}

const PARAMS: &str = r#"{"dim": 4, "vocab_size": -1, "max_batch_size": 32}"#;

fn bytes(source: &Source, name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    source.read(name, 0..source.tensors()[name].shape[0], &mut out).unwrap();
    out
}

fn refused(directory: &TempDir) -> SourceError {
    Source::open(directory.path()).map(drop).unwrap_err()
}

#[test]
fn several_files_are_joined_along_the_axis_that_was_cut() {
    let directory = directory(PARAMS, &halves());
    let source = Source::open(directory.path()).unwrap();
    assert_eq!((source.dialect(), source.files().len()), ("meta", 3));
    assert_eq!(source.architectures(), ["meta:consolidated"]);
    assert_eq!(source.config()["vocab_size"], 5, "as many as the table has rows");
    assert_eq!(source.ignorable_keys(), ["max_batch_size"]);
    assert_eq!(bytes(&source, "tok_embeddings.weight"), (0..20).collect::<Vec<u8>>());
    assert_eq!(bytes(&source, "layers.0.feed_forward.w2.weight"), (0..24).collect::<Vec<u8>>());
    let queries = &source.tensors()["layers.0.attention.wq.weight"];
    assert_eq!((queries.shape.as_slice(), queries.stored_bytes()), ([4, 4].as_slice(), 16));
    let joined = [0, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7];
    assert_eq!(bytes(&source, "layers.0.attention.wq.weight"), joined);
    assert_eq!(bytes(&source, "norm.weight"), [1, 2, 3, 4]);
}

#[test]
fn an_embedding_that_was_cut_along_the_vocabulary_is_joined_so() {
    let table = |first: u8| tensor("tok_embeddings.weight", &[2, 4], &[first; 8]);
    let directory = directory(PARAMS, &[vec![table(1)], vec![table(2)]]);
    let source = Source::open(directory.path()).unwrap();
    assert_eq!(bytes(&source, "tok_embeddings.weight"), [[1; 8], [2; 8]].concat());
}

#[test]
fn one_file_is_read_as_it_is() {
    let norm = tensor("norm.weight", &[4], &[4, 3, 2, 1]);
    let directory = directory(r#"{"dim": 4, "vocab_size": 7}"#, &[vec![norm]]);
    let source = Source::open(directory.path()).unwrap();
    assert_eq!(source.config()["vocab_size"], 7);
    assert_eq!(bytes(&source, "norm.weight"), [4, 3, 2, 1]);
}

#[test]
fn files_that_do_not_go_together_are_told_by_tensor_and_file() {
    type Spoil = fn(&mut Vec<Tensor>);
    let cases: [(&str, Spoil); 6] = [
        ("`norm.weight` is not here as in the other files", |half| drop(half.pop())),
        ("is of another type or shape here", |half| {
            half[3] = tensor("norm.weight", &[3], &[1, 2, 3]);
        }),
        ("is not cut, and has other values", |half| half[3].bytes[2] = 9),
        ("`more` is in this file and not in the first", |half| {
            half.push(tensor("more", &[1], &[1]));
        }),
        ("is of another type or shape here", |half| {
            half[1] = tensor("layers.0.attention.wq.weight", &[4, 2], &[0; 8]);
        }),
        ("is of another type or shape here", |half| {
            half[3] = Tensor::new("norm.weight", DType::I8, &[4], &[1, 2, 3, 4]);
        }),
    ];
    for (what, change) in cases {
        let [first, mut second] = halves();
        change(&mut second);
        let error = refused(&directory(PARAMS, &[first, second]));
        assert!(error.to_string().contains(what), "{what}: {error}");
        assert_eq!(error.code(), Code(139));
        assert!(error.location().unwrap().ends_with("consolidated.01.pth"));
    }
    let [mut first, mut second] = halves();
    for half in [&mut first, &mut second] {
        half[1] = tensor("layers.0.attention.wq.weight", &[4, 2], &[0; 8]);
    }
    let error = refused(&directory(PARAMS, &[first, second]));
    assert!(error.to_string().contains("comes to [8, 2], which is not as wide"), "{error}");
    let missing = directory(PARAMS, &halves());
    std::fs::remove_file(missing.path().join("consolidated.00.pth")).unwrap();
    let error = refused(&missing).to_string();
    assert_eq!(error, "1 of 2 shards are missing: consolidated.00.pth");
    let error = refused(&directory("{}", &halves()));
    assert!(matches!(error, SourceError::Kind { ref key, .. } if key == "dim"), "{error}");
}
