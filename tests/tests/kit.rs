//! The kit for plugins, as an author uses it: a new crate, its component, and what is checked of it.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use engraft_files::header;
use engraft_ir::DType;
use engraft_runtime::{LoadOptions, evaluate::Taps};
use engraft_tests::command::{command, engraft, fails, stderr, stdout, works};
use engraft_tests::{copied, engine, fixtures, golden};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

const GOLDEN: &str = "golden/llama-gqa";

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The model of a golden and its reference.
fn model() -> (String, String) {
    let folder = fixtures().join(GOLDEN);
    (text(&folder), text(&folder.join("expected.safetensors")))
}

/// `engraft plugin build`, in the folder where the bundled plugins are compiled: what they are
/// built on is there already.
fn build(args: &[&str]) -> Output {
    let built = std::env::current_exe().unwrap().with_file_name("../../guests");
    command(&[&["plugin", "build"], args].concat()).env("CARGO_TARGET_DIR", built).output().unwrap()
}

/// A copy of a golden whose config is changed.
fn changed(from: &str, to: &str) -> tempfile::TempDir {
    let folder = copied(&fixtures().join(GOLDEN));
    let config = folder.path().join("config.json");
    let said = fs::read_to_string(&config).unwrap();
    assert!(said.contains(from), "{said}");
    fs::write(&config, said.replace(from, to)).unwrap();
    folder
}

#[test]
fn a_new_plugin_builds_as_it_stands_and_gives_the_numbers_of_its_architecture() {
    let folder = tempfile::tempdir().unwrap();
    let mut components = Vec::new();
    for place in ["one", "two/deep"] {
        let path = folder.path().join(place);
        let said = works(&["plugin", "new", "my-model", "--path", &text(&path)]);
        assert!(said.contains("MyModelForCausalLM") && said.contains("engraft plugin build"));
        let built = build(&[&text(&path), "--json"]);
        assert!(built.status.success(), "{}", stderr(&built));
        let json: Value = serde_json::from_str(&stdout(&built)).unwrap();
        assert_eq!(json["name"], "my-model");
        assert_eq!(json["accepts"][0], "MyModelForCausalLM");
        components.push(fs::read(path.join("my-model.wasm")).unwrap());
    }
    assert!(components[0] == components[1], "the folder is in the component");
    let bytes = String::from_utf8_lossy(&components[0]);
    assert!(!bytes.contains(&*text(folder.path())), "a path of this machine is in the component");

    let (_, reference) = model();
    let named = changed("LlamaForCausalLM", "MyModelForCausalLM");
    let plugin = text(&folder.path().join("one/my-model.wasm"));
    let model = text(named.path());
    let report =
        works(&["plugin", "check", &plugin, "--model_dir", &model, "--reference", &reference]);
    assert!(report.contains("ok parity") && !report.contains("FAILED"), "{report}");
    assert!(!report.contains("warning"), "{report}");

    // What the compiler says stands as it says it.
    let source = folder.path().join("one/src/lib.rs");
    let whole = fs::read_to_string(&source).unwrap();
    fs::write(&source, format!("{whole}\nconst WRONG: u32 = \"text\";\n")).unwrap();
    let built = build(&[&text(&folder.path().join("one"))]);
    let said = stderr(&built);
    assert_eq!(built.status.code(), Some(4), "{said}");
    assert!(
        said.contains("error[E0308]: mismatched types") && said.contains("src/lib.rs"),
        "{said}"
    );
    assert!(said.contains("error[EG0905]") && said.contains("help: "), "{said}");
    assert!(fs::read(folder.path().join("one/my-model.wasm")).unwrap() == components[0]);

    // A crate that compiles and is no plugin.
    fs::write(&source, "//! Nothing.\n").unwrap();
    let built = build(&[&text(&folder.path().join("one"))]);
    assert!(stderr(&built).contains("error[EG0907]"), "{}", stderr(&built));
}

#[test]
fn names_that_cannot_be_are_refused_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = text(&folder.path().join("new"));
    for (name, instead) in [
        ("MyModel", "take `my-model`"),
        ("my_model", "take `my-model`"),
        ("fn", "take `fn-model`"),
        ("wit-bindgen", "the SDK is built on a crate of that name"),
        ("../up", "take `up`"),
        ("7b", "begin with a small letter"),
        ("", "1 to 64"),
    ] {
        fails(&["plugin", "new", name, "--path", &path], 2, "EG0901", &[instead]);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    works(&["plugin", "new", "a-model", "--path", &path]);
    fails(&["plugin", "new", "a-model", "--path", &path], 2, "EG0902", &["not empty"]);
}

#[test]
fn a_build_says_what_is_no_crate_and_replaces_no_other_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = text(folder.path());
    fails(&["plugin", "build", &path], 2, "EG0906", &["no Cargo.toml"]);
    let nowhere = text(&folder.path().join("nowhere"));
    fails(&["plugin", "build", &nowhere], 2, "EG0090", &["no folder"]);
    let precious = folder.path().join("thesis.txt");
    fs::write(&precious, "mine").unwrap();
    let args = ["plugin", "build", &path, "--output", &text(&precious)];
    fails(&args, 2, "EG0090", &["is there, and is no plugin"]);
    works(&["plugin", "new", "a-model", "--path", &text(&folder.path().join("a-model"))]);
    let crate_ = text(&folder.path().join("a-model"));
    fails(&["plugin", "check", &crate_], 2, "EG0090", &["engraft plugin build"]);
}

#[test]
fn a_check_tells_of_the_contract_alone_and_all_of_a_model() {
    let alone = works(&["plugin", "check", "llama"]);
    assert!(alone.contains("ok contract") && alone.contains("next: "), "{alone}");
    assert!(!alone.contains("parameters\n"), "{alone}");

    let (model, _) = model();
    let args = ["plugin", "check", "llama", "--model_dir", &model];
    let report = works(&args);
    for words in [
        "rope_theta = 500000.0",
        "v_head_dim = 16, as head_dim",
        "says nothing  attention_dropout",
        "blocks 0 to 2",
        "attention.qkv.weight [128 query_heads + 32 key_heads + 32 key_heads, 64]",
        "       = model.layers.N.self_attn.q_proj.weight [128, 64]",
        "      ++ model.layers.N.self_attn.k_proj.weight [32, 64]",
        "place block 0 {",
        "operations in one place",
        "ok determinism",
        "--reference",
    ] {
        assert!(report.contains(words), "no `{words}` in {report}");
    }
    assert!(!report.contains("place block 1 {"));
    assert!(works(&[&args[..], &["--graph"]].concat()).contains("place block 1 {"));
    let json: Value = serde_json::from_str(&works(&[&args[..], &["--json"]].concat())).unwrap();
    assert_eq!(json["passed"], true);
    assert_eq!(json["parameters"].as_array().unwrap().len(), 24);
    assert!(json["budgets"]["used"]["fuel"]["used"].as_u64().unwrap() > 0);
    assert!(json["config"]["not_read"].as_array().unwrap().is_empty());

    let gpt2 = text(&fixtures().join("golden/gpt2"));
    let report = works(&["plugin", "check", "gpt2", "--model_dir", &gpt2]);
    let steps = "transformer.h.N.mlp.c_fc.weight [64, 128], permute [1, 0] → [128, 64]";
    assert!(report.contains(steps), "{report}");
    assert!(report.contains("the same bytes as vocab_embedding.weight"), "{report}");
}

#[test]
fn a_key_that_nobody_reads_is_a_warning_and_a_refusal_ends_the_report() {
    let unread = changed("\"use_cache\": true", "\"logit_scale\": 2.0");
    let report = works(&["plugin", "check", "llama", "--model_dir", &text(unread.path())]);
    assert!(report.contains("warning config"), "{report}");
    assert!(report.contains("config key `logit_scale` is read by nobody"), "{report}");

    let refused = changed("\"rope_theta\"", "\"use_sliding_window\": true, \"rope_theta\"");
    let model = text(refused.path());
    let args = ["plugin", "check", "llama", "--model_dir", &model];
    fails(&args, 3, "EG0211", &["use_sliding_window"]);
    let output = engraft(&[&args[..], &["--json"]].concat());
    let json: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!((&json["passed"], &json["error"]["code"]), (&false.into(), &"EG0211".into()));
    assert_eq!(json["checks"][0]["outcome"], "ok");
}

#[test]
fn parity_passes_and_fails_by_the_numbers() {
    let (right, reference) = model();
    let check = |model: &str, more: &[&str]| {
        let args = ["plugin", "check", "llama", "--model_dir", model, "--reference", &reference];
        engraft(&[&args[..], more].concat())
    };
    let passed = check(&right, &[]);
    assert!(passed.status.success(), "{}", stderr(&passed));
    let report = stdout(&passed);
    assert!(report.contains("3 of 3 greedy continuations the same"), "{report}");
    assert!(report.contains("the largest logit is the same at 48 of 48 positions"), "{report}");
    assert!(report.contains("not looked at: greedy_logits_0"), "{report}");

    let wrong = changed("\"rope_theta\": 500000.0", "\"rope_theta\": 10000.0");
    let failed = check(&text(wrong.path()), &[]);
    assert_eq!(failed.status.code(), Some(1));
    let report = stdout(&failed);
    for words in [
        "FAILED parity",
        "FAILED prompt 0",
        "departs first at position 1",
        "its greedy continuation differs at step",
        "next: positions before 1 agree: look at what depends on position first",
        "hidden_K",
    ] {
        assert!(report.contains(words), "no `{words}` in {report}");
    }
    let json: Value =
        serde_json::from_str(&stdout(&check(&text(wrong.path()), &["--json"]))).unwrap();
    assert_eq!((&json["passed"], &json["parity"]["passed"]), (&false.into(), &false.into()));
    assert_eq!(json["parity"]["prompts"][0]["departs_at"], 1);
    let strict = check(&right, &["--tolerance", "1e-12"]);
    assert_eq!(strict.status.code(), Some(1));
    assert_eq!(check(&right, &["--tolerance", "-1"]).status.code(), Some(2));
    let folder = ["plugin", "check", "llama", "--model_dir", &right, "--reference", &right];
    fails(&folder, 3, "EG0010", &["Is a directory"]);
}

/// A reference of the golden that says what every block takes: as the golden's own model gives it,
/// which is the reference's to 1e-6.
fn with_hidden(path: &Path) {
    let golden = golden(fixtures().join(GOLDEN));
    let engine = engine(&golden.path, Some(DType::F32));
    let ids: Vec<u8> = golden.prompts[0].iter().flat_map(|id| id.to_le_bytes()).collect();
    let tokens = golden.prompts[0].len();
    let mut taps =
        Taps::load(std::slice::from_ref(&*engine), tokens, &LoadOptions::default()).unwrap();
    // What each place but the last block hands on is what the next block takes.
    let hidden = taps.run(&golden.prompts[0]).unwrap()[..3].concat();
    let bytes = |all: &[f32]| all.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let (logits, width) = (bytes(&golden.logits[0]), golden.logits[0].len() / tokens);
    let states = bytes(&hidden);
    let view = |dtype, shape: Vec<usize>, data| TensorView::new(dtype, shape, data).unwrap();
    let all = [
        ("prompt_a", view(Dtype::I32, vec![tokens], &ids)),
        ("logits_a", view(Dtype::F32, vec![tokens, width], &logits)),
        ("hidden_a", view(Dtype::F32, vec![3, tokens, hidden.len() / 3 / tokens], &states)),
    ];
    safetensors::serialize_to_file(all, None, path).unwrap();
}

/// A copy of the golden in which one tensor is all zeros.
fn zeroed(tensor: &str) -> tempfile::TempDir {
    let folder = copied(&fixtures().join(GOLDEN));
    let path = folder.path().join("model.safetensors");
    let (_, header) = header::read(&path).unwrap();
    let entry = &header.tensors[tensor];
    let mut bytes = fs::read(&path).unwrap();
    bytes[entry.start as usize..entry.end as usize].fill(0);
    fs::write(&path, bytes).unwrap();
    folder
}

#[test]
fn hidden_states_tell_which_block_departs() {
    let folder = tempfile::tempdir().unwrap();
    let reference: PathBuf = folder.path().join("reference.safetensors");
    with_hidden(&reference);
    let (right, _) = model();
    let args = ["plugin", "check", "llama", "--reference", &text(&reference), "--model_dir"];
    works(&[&args[..], &[&right]].concat());
    for (tensor, place) in [
        ("model.embed_tokens.weight", "embed departs"),
        ("model.layers.0.self_attn.o_proj.weight", "block 0 departs"),
        ("model.layers.1.mlp.down_proj.weight", "block 1 departs"),
        ("model.layers.2.mlp.up_proj.weight", "block 2 or the head departs"),
        ("lm_head.weight", "block 2 or the head departs"),
    ] {
        let wrong = zeroed(tensor);
        let output = engraft(&[&args[..], &[&text(wrong.path())]].concat());
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(stdout(&output).contains(place), "{tensor}: {}", stdout(&output));
    }
}

#[test]
fn a_reference_that_is_none_says_what_it_lacks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("reference.safetensors");
    let (model, _) = model();
    let refused = |tensors: &[(&str, Dtype, &[usize])], words: &str| {
        let data: Vec<Vec<u8>> = tensors
            .iter()
            .map(|(_, dtype, shape)| {
                let size = if *dtype == Dtype::F16 { 2 } else { 4 };
                vec![0; shape.iter().product::<usize>() * size]
            })
            .collect();
        let views = tensors.iter().zip(&data).map(|((name, dtype, shape), data)| {
            (*name, TensorView::new(*dtype, shape.to_vec(), data).unwrap())
        });
        safetensors::serialize_to_file(views, None, &path).unwrap();
        let reference = text(&path);
        let args = ["plugin", "check", "llama", "--model_dir", &model, "--reference", &reference];
        fails(&args, 3, "EG0091", &[words]);
    };
    let (ids, floats) = (Dtype::I32, Dtype::F32);
    refused(&[("x", floats, &[2])], "no `prompt_K`");
    refused(&[("prompt_0", ids, &[2])], "`logits_0` is not");
    refused(&[("logits_0", floats, &[2, 256])], "`prompt_0` is not");
    refused(&[("prompt_0", floats, &[2]), ("logits_0", floats, &[2, 256])], "no list of token ids");
    let prompt = ("prompt_0", ids, &[2usize][..]);
    refused(&[prompt, ("logits_0", floats, &[3, 256])], "a row for each");
    refused(&[prompt, ("logits_0", Dtype::F16, &[2, 256])], "kept in f32");
    refused(&[prompt, ("logits_0", floats, &[2, 250])], "the model's vocabulary is 256");
    let right = ("logits_0", floats, &[2usize, 256][..]);
    refused(&[prompt, right, ("hidden_0", floats, &[3, 64])], "[blocks, tokens, width]");
    refused(&[prompt, right, ("hidden_0", floats, &[3, 2, 63])], "63 columns");
}
