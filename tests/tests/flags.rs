//! Command lines written for TensorRT-LLM's scripts do here what docs/trtllm-flags.md says.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use engraft_tests::command::{engraft, fails, stderr, works};
use engraft_tests::fixtures;
use serde_json::Value;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

fn golden(name: &str) -> String {
    fixtures().join("golden").join(name).to_string_lossy().into_owned()
}

/// A path below a temporary folder.
fn below(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).to_string_lossy().into_owned()
}

/// Runs what must work; gives what it said on the side, a line each.
fn notes(line: &[&str]) -> Vec<String> {
    let output = engraft(line);
    assert!(output.status.success(), "{line:?}: {}", stderr(&output));
    stderr(&output).lines().map(str::to_owned).collect()
}

fn json(path: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// A row of the docs: the flag, what follows it, what becomes of it, and with which values not.
struct Row {
    flag: String,
    value: Vec<String>,
    does: String,
    fine: Vec<String>,
}

/// The rows of one of the page's tables.
fn rows(title: &str) -> Vec<Row> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/trtllm-flags.md");
    let page = fs::read_to_string(page).unwrap();
    let section = page.split("\n## ").skip(1).find(|section| section.contains(title)).unwrap();
    let row = |line: &str| {
        let line = line.replace("\\|", "/");
        let mut cells = line.split(" | ").map(|cell| cell.trim_matches(['|', ' ']).to_owned());
        let (names, does) = (cells.next().unwrap(), cells.next().unwrap());
        let flag = names.split('`').nth(1).unwrap().to_owned();
        let value = names.rsplit('`').next().unwrap().trim();
        let value = match value {
            "" | "[TEXT]" => Vec::new(),
            "N" => vec!["7".into()],
            "X" => vec!["0.5".into()],
            "TEXT" | "TEXT…" => vec!["some".into()],
            names => names.split('/').map(str::to_owned).collect(),
        };
        let fine = does.strip_prefix("refused, but for ").and_then(|rest| rest.split(": ").next());
        let fine = fine.map(|fine| fine.split('`').skip(1).step_by(2).map(str::to_owned).collect());
        let mut fine: Vec<String> = fine.unwrap_or_default();
        fine.extend(does.contains("` or alone: ").then(String::new));
        Row { flag, value, does, fine }
    };
    section.lines().filter(|line| line.starts_with("| `--")).map(row).collect()
}

#[test]
fn every_flag_without_a_meaning_says_so_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let (checkpoint, engine) = (below(&folder, "checkpoint"), below(&folder, "engine"));
    let model = golden("llama-gqa");
    for (title, begin) in [
        ("convert_checkpoint.py", ["convert", "--model_dir", &model, "--output_dir", &checkpoint]),
        ("trtllm-build", ["build", "--checkpoint_dir", &checkpoint, "--output_dir", &engine]),
    ] {
        let rows = rows(title);
        let noted: Vec<_> = rows.iter().filter(|row| row.does.starts_with("noted: ")).collect();
        assert!(noted.len() > 20, "{title}");
        let mut line: Vec<&str> = begin.to_vec();
        let mut wanted = Vec::new();
        for row in &noted {
            line.push(&row.flag);
            line.extend(row.value.last().map(String::as_str));
            let why = &row.does["noted: ".len()..];
            wanted.push(format!("note: {} has no meaning here: {why}", row.flag));
        }
        // Values that ask for what happens anyway pass without a word.
        for row in &rows {
            if let Some(fine) = row.fine.first() {
                line.extend([row.flag.as_str(), fine]);
            }
        }
        assert_eq!(notes(&line), wanted, "{title}");
        let silent = [&line[..], &["--force", "--log_level", "error"]].concat();
        assert!(notes(&silent).is_empty(), "{title}");
    }
}

#[test]
fn every_flag_that_would_be_disobeyed_is_an_error_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let out = below(&folder, "out");
    let (model, nowhere) = (golden("llama-gqa"), below(&folder, "nowhere"));
    for (title, begin) in [
        ("convert_checkpoint.py", ["convert", "--model_dir", &model, "--output_dir", &out]),
        ("trtllm-build", ["build", "--checkpoint_dir", &nowhere, "--output_dir", &out]),
    ] {
        let mut tried = 0;
        for row in rows(title).iter().filter(|row| row.does.starts_with("refused")) {
            let values: Vec<&str> = match row.value.as_slice() {
                [] => vec![""],
                values => values.iter().map(String::as_str).collect(),
            };
            for value in values.into_iter().filter(|value| !row.fine.iter().any(|f| f == value)) {
                let given = [row.flag.as_str(), value];
                let given = if value.is_empty() { &given[..1] } else { &given[..] };
                fails(&[&begin[..], given].concat(), 2, "EG0090", &[&row.flag, "help: "]);
                tried += 1;
            }
        }
        assert!(tried > 5, "{title}: {tried}");
        assert!(!Path::new(&out).exists(), "{title}");
    }
}

#[test]
fn values_that_a_flag_cannot_have_are_named() {
    for (line, words) in [
        (["build", "--gemm_plugin", "float8"], ["--gemm_plugin", "bfloat16"]),
        (["build", "--context_fmha", "yes"], ["--context_fmha", "disable"]),
        (["build", "--max_beam_width", "many"], ["--max_beam_width", "many"]),
        (["convert", "--weight_only_precision", "int3"], ["--weight_only_precision", "int4_awq"]),
        (["convert", "--tp_size", "-1"], ["--tp_size", "-1"]),
        (["convert", "--embedding_sharding_dim", "2"], ["--embedding_sharding_dim", "0..=1"]),
    ] {
        let output = engraft(&line);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{line:?}: {text}");
        assert!(words.iter().all(|word| text.contains(word)), "{line:?}: {text}");
    }
}

#[test]
fn the_guides_of_four_models_run_as_they_stand() {
    for (model, convert, build) in [
        (
            "opt-125m",
            "--dtype float16 --tp_size 1 --workers 2",
            "--gemm_plugin float16 --max_batch_size 8 --max_input_len 24 --max_seq_len 32 \
             --max_beam_width 1 --context_fmha enable",
        ),
        (
            "llama-gqa",
            "--dtype bfloat16 --load_by_shard --load_model_on_cpu --workers 1 --moe_tp_size -1 \
             --n_head 4 --rotary_base 10000.0 --log_level info",
            "--gpt_attention_plugin bfloat16 --gemm_plugin auto --remove_input_padding enable \
             --use_paged_context_fmha enable --kv_cache_type paged --max-num-tokens 64 \
             --use_fused_mlp enable --multiple_profiles enable --workers 2 --gather_context_logits",
        ),
        (
            "falcon-7b",
            "--dtype bfloat16 --use_parallel_embedding --embedding_sharding_dim 0",
            "--gemm_plugin bfloat16 --gpt_attention_plugin bfloat16 --output_timing_cache t.cache \
             --profiling_verbosity detailed --max_batch_size=4",
        ),
        (
            "gptj",
            "--dtype auto --vocab_size 50400 --norm_eps 1e-05 --rotary_dim 64",
            "--gemm_plugin float16 --max_batch_size=32 --max_input_len=19 --max_seq_len=32 \
             --context_fmha disable --nccl_plugin auto --paged_state enable",
        ),
        (
            "llama-mha",
            "--use_weight_only --weight_only_precision int4 --paged_kv_cache --load_model_on_cpu \
             --per_channel --per_token --dtype float16 --tp_size 1 --pp_size 1",
            "--paged_kv_cache --max_batch_size 4",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (checkpoint, engine) = (below(&folder, "checkpoint"), below(&folder, "engine"));
        let model = golden(model);
        let begin = ["convert", "--model_dir", &model, "--output_dir", &checkpoint];
        let given: Vec<&str> = convert.split_whitespace().collect();
        notes(&[&begin[..], &given].concat());
        let begin = ["build", "--checkpoint_dir", &checkpoint, "--output_dir", &engine];
        let given: Vec<&str> = build.split_whitespace().collect();
        notes(&[&begin[..], &given].concat());
        let ids = ["--input_ids", "3,5,8", "--max_output_len", "4", "--output_ids", "--ignore_eos"];
        let said = works(&[&["run", "--engine_dir", &engine][..], &ids].concat());
        assert_eq!(said.trim().split(',').count(), 4, "{model}: {said}");
        let config = json(&below(&folder, "engine/config.json"));
        for (flag, key) in
            [("--max_seq_len", "max_seq_len"), ("--max_batch_size", "max_batch_size")]
        {
            let spaced = build.replace('=', " ");
            let mut words = spaced.split_whitespace();
            if words.any(|word| word == flag) {
                let wanted: u64 = words.next().unwrap().parse().unwrap();
                assert_eq!(config["build_config"][key], wanted, "{model}");
            }
        }
    }
}

#[test]
fn a_build_config_stands_for_the_flags_of_a_build() {
    let folder = tempfile::tempdir().unwrap();
    let (checkpoint, engine) = (below(&folder, "checkpoint"), below(&folder, "engine"));
    let model = golden("llama-gqa");
    works(&["convert", "--model_dir", &model, "--output_dir", &checkpoint]);
    let file = below(&folder, "build.json");
    let begin = ["build", "--checkpoint_dir", &checkpoint, "--output_dir", &engine];
    let begin = [&begin[..], &["--build_config", &file]].concat();
    let text = r#"{"max_batch_size": 3, "max_seq_len": 48, "max_beam_width": 1, "novelty": 5,
        "plugin_config": {"gemm_plugin": "auto", "tokens_per_block": 16}}"#;
    fs::write(&file, text).unwrap();
    let said = notes(&[&begin[..], &["--max_batch_size", "5"]].concat());
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].contains("`novelty`") && said[1].contains("1 settings"), "{said:?}");
    let built = &json(&below(&folder, "engine/config.json"))["build_config"];
    assert_eq!(built["max_batch_size"], 5);
    assert_eq!(built["max_seq_len"], 48);
    assert_eq!(built["tokens_per_block"], 16);
    fs::write(&file, r#"{"max_beam_width": 4}"#).unwrap();
    fails(&[&begin[..], &["--force"]].concat(), 2, "EG0090", &["build.json", "--max_beam_width 4"]);
}

#[test]
fn a_checkpoint_can_be_asked_for_its_config_alone_and_made_again_from_itself() {
    let folder = tempfile::tempdir().unwrap();
    let model = golden("llama-gqa");
    let [config, one, two] = ["config", "one", "two"].map(|name| below(&folder, name));
    let only = ["convert", "--meta_ckpt_dir", &model, "--save_config_only"];
    works(&[&only[..], &["--output_dir", &config]].concat());
    works(&["convert", "--model_dir", &model, "--output_dir", &one]);
    works(&["convert", "--checkpoint_dir", &one, "--output_dir", &two, "--tp_size", "1"]);
    let names = |dir: &str| {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&config), ["config.json"]);
    assert_eq!(names(&one), names(&two));
    for name in names(&one) {
        let read = |dir: &str| fs::read(Path::new(dir).join(&name)).unwrap();
        assert!(read(&one) == read(&two), "{name:?} differs");
    }
    let written = |dir: &str| fs::read(Path::new(dir).join("config.json")).unwrap();
    assert!(written(&config) == written(&one));
}

#[test]
fn what_stands_for_random_weights_or_leaves_the_input_out_is_said_clearly() {
    fails(&["convert", "--n_layer", "2", "--n_head", "4"], 2, "EG0090", &["random weights"]);
    fails(&["convert", "--dtype", "float16"], 2, "EG0090", &["--model_dir"]);
    fails(&["build", "--max_batch_size", "8"], 2, "EG0090", &["--checkpoint_dir"]);
    let moe = ["convert", "--model_dir", "x", "--tp_size", "4", "--moe_ep_size", "3"];
    fails(&moe, 2, "EG0090", &["--moe_ep_size 3"]);
    let typed = ["convert", "--checkpoint_dir", "x", "--dtype", "float16"];
    fails(&typed, 2, "EG0090", &["--dtype", "--checkpoint_dir"]);
}
