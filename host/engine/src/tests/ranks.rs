//! Directories of several ranks' engines: whole, incomplete, mixed up.

use super::{config, forge, text};
use crate::{Engine, EngineError, format};
use engraft_diagnostic::Diagnostic;
use serde_json::json;
use std::fs;
use std::path::Path;

/// An engine file that says it is of a rank of two that share matrices.
fn rank(path: &Path, number: u32) {
    of(path, &format!("rank={number} tp=2 pp=1"), [2, 1]);
}

fn of(path: &Path, rank: &str, [tp, pp]: [u32; 2]) {
    forge(path, |forgery| {
        let mut config = config();
        config.pretrained_config["mapping"] =
            json!({"world_size": tp * pp, "tp_size": tp, "pp_size": pp});
        let config = serde_json::to_string(&config).unwrap();
        forgery.metadata.insert(format::KEY_CONFIG.to_owned(), config);
        let text = text().replacen("graph 1", &format!("graph 1 {rank}"), 1);
        forgery.metadata.insert(format::KEY_GRAPH.to_owned(), text);
    });
}

fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for number in 0..2 {
        rank(&directory.path().join(format::engine_file(number as usize)), number);
    }
    directory
}

#[test]
fn each_rank_opens_its_own_and_one_process_opens_all() {
    let directory = directory();
    let second = directory.path().join("rank1.engine");
    for path in [directory.path(), &directory.path().join("rank0.engine"), &second] {
        let numbers = |engines: &[Engine]| engines.iter().map(|e| e.rank().number).collect();
        let all: Vec<u32> = numbers(&Engine::open_all(path).unwrap());
        assert_eq!(all, [0, 1]);
        for number in 0..2 {
            assert_eq!(Engine::open_rank(path, number).unwrap().rank().number, number);
        }
    }
    assert_eq!(Engine::open(directory.path()).unwrap().rank().number, 0);
    assert_eq!(Engine::open(&second).unwrap().rank().number, 1);
}

#[test]
fn a_rank_that_is_missing_or_of_another_is_refused() {
    let directory = directory();
    let second = directory.path().join("rank1.engine");
    let refused = |said: &str| {
        for error in [
            Engine::open_all(directory.path()).err().unwrap(),
            Engine::open_rank(directory.path(), 1).err().unwrap(),
        ] {
            assert!(error.to_string().contains(said), "{error}");
            assert_eq!(error.location().unwrap(), second.display().to_string());
        }
    };
    fs::copy(directory.path().join("rank0.engine"), &second).unwrap();
    refused("the engine is of rank 0 of tp 2, pp 1, and should be of rank 1");
    of(&second, "rank=1 tp=2 pp=1", [1, 2]);
    refused("and should be of a rank of tp 1, pp 2, as its config says");
    fs::remove_file(&second).unwrap();
    refused("the engine of rank 1 is missing");
}

#[test]
fn ranks_of_another_mapping_are_refused() {
    let directory = directory();
    let second = directory.path().join("rank1.engine");
    of(&second, "rank=1 tp=4 pp=1", [4, 1]);
    let error = Engine::open_all(directory.path()).err().unwrap();
    assert!(matches!(error, EngineError::OtherRank { .. }), "{error}");
    assert!(error.to_string().ends_with("should be of rank 1 of tp 2, pp 1"), "{error}");
}
