//! TensorRT-LLM's own guide to checkpoints, from end to end: an OPT converted for two ranks, built
//! for its limits, and run by two processes.
//!
//! The guide asks for sequences of 1024 tokens, so the golden gets a table of as many positions:
//! its own come first, and the golden's continuations stay what HuggingFace says they are.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use engraft_tests::command::{engraft, fails, mpirun, processes, stderr, stdout, works};
use engraft_tests::{copied, fixtures, golden};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const POSITIONS: &str = "model.decoder.embed_positions.weight";
/// Rows of the table before the first position.
const OFFSET: usize = 2;

/// Gives a model so many positions; those that it has not are copies of those that it has.
fn lengthen(model: &Path, positions: usize) {
    let file = model.join("model.safetensors");
    let bytes = fs::read(&file).unwrap();
    let all = SafeTensors::deserialize(&bytes).unwrap();
    let table = all.tensor(POSITIONS).unwrap();
    let [rows, width] = table.shape() else { panic!("a table") };
    let row = table.data().len() / rows;
    let head = &table.data()[..row * OFFSET];
    let rest = table.data()[row * OFFSET..].iter().copied().cycle();
    let longer: Vec<u8> = head.iter().copied().chain(rest.take(row * positions)).collect();
    let mut views: BTreeMap<String, TensorView<'_>> = all.tensors().into_iter().collect();
    let dtype: Dtype = table.dtype();
    let shape = vec![positions + OFFSET, *width];
    views.insert(POSITIONS.into(), TensorView::new(dtype, shape, &longer).unwrap());
    let new = safetensors::serialize(views, None).unwrap();
    fs::write(&file, new).unwrap();

    let file = model.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    config["max_position_embeddings"] = positions.into();
    fs::write(&file, config.to_string()).unwrap();
}

fn text(ids: &[u32]) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

#[test]
fn opt_on_two_ranks_as_in_the_guide() {
    let golden = golden(fixtures().join("golden/opt-125m"));
    let folder = copied(&golden.path);
    lengthen(folder.path(), 1024);
    let model = folder.path().to_string_lossy().into_owned();
    let work = tempfile::tempdir().unwrap();
    let below = |name: &str| work.path().join(name).to_string_lossy().into_owned();
    let (checkpoint, engine) = (below("opt/trt_ckpt/fp16/2-gpu"), below("opt/trt_engines/2-gpu"));
    works(&[
        "convert",
        "--model_dir",
        &model,
        "--dtype",
        "float16",
        "--tp_size",
        "2",
        "--output_dir",
        &checkpoint,
    ]);
    for rank in ["rank0.safetensors", "rank1.safetensors"] {
        assert!(Path::new(&checkpoint).join(rank).exists(), "{rank}");
    }
    works(&["verify", &checkpoint]);
    let build = ["build", "--checkpoint_dir", &checkpoint, "--output_dir", &engine];
    let flags = "--gemm_plugin float16 --max_batch_size 8 --max_input_len 924 --max_seq_len 1024";
    let flags: Vec<&str> = flags.split(' ').collect();
    let built = engraft(&[&build[..], &flags].concat());
    assert!(built.status.success(), "{}", stderr(&built));
    assert_eq!(stderr(&built).lines().count(), 1, "{}", stderr(&built));
    assert!(stderr(&built).contains("--gemm_plugin has no meaning here"));
    let config = fs::read(Path::new(&engine).join("config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    for (key, wanted) in [("max_batch_size", 8), ("max_input_len", 924), ("max_seq_len", 1024)] {
        assert_eq!(config["build_config"][key], wanted, "{key}");
    }

    // What HuggingFace says, of all prompts in one batch.
    let wanted: Vec<String> = golden.greedy.iter().map(|ids| text(ids)).collect();
    let prompts: Vec<String> = golden.prompts.iter().map(|ids| text(ids)).collect();
    let steps = golden.greedy[0].len().to_string();
    let mut run = vec!["run", "--engine_dir", &engine, "--output_ids", "--ignore_eos"];
    run.extend(["--max_output_len", &steps]);
    run.extend(prompts.iter().flat_map(|prompt| ["--input_ids", prompt]));
    let here = works(&[&run[..], &["--ranks_in_process"]].concat());
    assert_eq!(here.lines().collect::<Vec<_>>(), wanted);
    if let Some(mpirun) = mpirun() {
        let output = processes(&mpirun, 2, &run).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(stdout(&output).lines().collect::<Vec<_>>(), wanted);
    }

    // A prompt of as many tokens as the guide allows, and one of a token more.
    let prompt = |length: u32| text(&(0..length).map(|at| 3 + at * 7 % 200).collect::<Vec<_>>());
    let (longest, longer) = (prompt(924), prompt(925));
    let begin = ["run", "--engine_dir", &engine, "--ranks_in_process", "--output_ids"];
    let begin = [&begin[..], &["--ignore_eos", "--max_output_len", "100", "--input_ids"]].concat();
    assert_eq!(works(&[&begin[..], &[&longest]].concat()).trim().split(',').count(), 100);
    fails(&[&begin[..], &[&longer]].concat(), 3, "EG0602", &["924"]);

    // Of other sizes, by the checkpoint alone: the same words.
    let (again, other) = (below("1-gpu"), below("engine"));
    works(&["convert", "--checkpoint_dir", &checkpoint, "--output_dir", &again, "--tp_size", "1"]);
    works(&["build", "--checkpoint_dir", &again, "--output_dir", &other]);
    let mut run = vec!["run", "--engine_dir", &other, "--output_ids", "--ignore_eos"];
    run.extend(["--max_output_len", &steps, "--input_ids", &prompts[0]]);
    assert_eq!(works(&run).trim(), wanted[0]);
}
