//! Manifests: an architecture that is a plugin's by other names gives the plugin's numbers, and
//! whatever is wrong with one is told before a weight is read.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use engraft_engine::Engine;
use engraft_runtime::{LoadOptions, evaluate};
use engraft_tests::command::{command, fails, stderr, works};
use engraft_tests::{fixtures, golden, load};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What this file's model calls the config's keys and the tensors of a Llama.
const MANIFEST: &str = r#"
manifest = 1
plugin = "llama"
accepts = ["VicunaForCausalLM"]
version = "2.0.0"

[fields]
hidden_size = "n_embd"
num_attention_heads = "attention.heads"
num_key_value_heads = "attention.groups"
intermediate_size = "ffn.width"

[constants]
rms_norm_eps = 1e-6

[defaults]
rope_theta = 500000
vocab_size = 1

[tensors]
"model.embed_tokens" = "wte"
"model.layers.*.self_attn" = "layer_*.attn"
"model.layers.*.self_attn.q_proj.weight" = "layer_*.attn.wq"
"model.layers.*" = "layer_*"
"model" = ""
"lm_head.weight" = "output"

[unused]
"layer_*.attn.mask" = "a buffer"
"#;

/// A golden's Llama under those names, with a mask that nobody needs; and the manifest beside it.
struct Renamed {
    folder: tempfile::TempDir,
}

fn renamed_tensor(name: &str) -> String {
    if name == "lm_head.weight" {
        return "output".into();
    }
    let Some(rest) = name.strip_prefix("model.layers.") else {
        return name.replace("model.embed_tokens", "wte").replace("model.", "");
    };
    let (layer, rest) = rest.split_once('.').unwrap();
    let rest = rest.replace("self_attn.q_proj.weight", "attn.wq").replace("self_attn", "attn");
    format!("layer_{layer}.{rest}")
}

impl Renamed {
    fn new() -> Renamed {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model");
        fs::create_dir(&model).unwrap();
        let from = fixtures().join("golden/llama-gqa");
        let bytes = fs::read(from.join("model.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let mut views: Vec<_> =
            tensors.iter().map(|(name, view)| (renamed_tensor(name), view)).collect();
        let mask = views[0].1.clone();
        views.push(("layer_0.attn.mask".into(), mask));
        safetensors::serialize_to_file(views, None, &model.join("model.safetensors")).unwrap();
        let text = fs::read(from.join("config.json")).unwrap();
        let mut config: Value = serde_json::from_slice(&text).unwrap();
        let map = config.as_object_mut().unwrap();
        map["architectures"] = json!(["VicunaForCausalLM"]);
        let mut take = |key: &str| map.remove(key).unwrap();
        let (width, heads) = (take("hidden_size"), take("num_attention_heads"));
        let (groups, inner) = (take("num_key_value_heads"), take("intermediate_size"));
        for gone in ["rms_norm_eps", "rope_theta"] {
            take(gone);
        }
        map.insert("n_embd".into(), width);
        map.insert("attention".into(), json!({ "heads": heads, "groups": groups }));
        map.insert("ffn".into(), json!({ "width": inner }));
        fs::write(model.join("config.json"), config.to_string()).unwrap();
        let renamed = Renamed { folder };
        renamed.manifest(MANIFEST);
        renamed
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_string_lossy().into_owned()
    }

    fn manifest(&self, text: &str) -> String {
        let path = self.path("vicuna.toml");
        fs::write(&path, text).unwrap();
        path
    }

    fn config(&self, key: &str, value: Value) {
        let path = self.path("model/config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config[key] = value;
        fs::write(path, config.to_string()).unwrap();
    }

    /// Compiling it with this manifest must fail and name the manifest.
    fn refused(&self, manifest: &str, exit: i32, code: &str, words: &[&str]) {
        let (manifest, model) = (self.manifest(manifest), self.path("model"));
        let words = [words, &["vicuna"]].concat();
        let args = ["compile", "--plugin", &manifest, "--model_dir", &model];
        fails(&[&args[..], &["--output_dir", &self.path("out")]].concat(), exit, code, &words);
        assert!(!Path::new(&self.path("out")).exists());
    }
}

fn logits(engine: &str) -> Vec<Vec<f32>> {
    let golden = golden(fixtures().join("golden/llama-gqa"));
    let engine = Arc::new(Engine::open(Path::new(engine)).unwrap());
    evaluate::logits(&mut load(&engine, &LoadOptions::default()), &golden.prompts).unwrap()
}

#[test]
fn a_model_by_other_names_gives_the_same_logits_and_says_what_it_stands_on() {
    let renamed = Renamed::new();
    let (manifest, model) = (renamed.path("vicuna.toml"), renamed.path("model"));
    let (ours, plain) = (renamed.path("ours"), renamed.path("plain"));
    let golden = fixtures().join("golden/llama-gqa").to_string_lossy().into_owned();
    let said =
        works(&["compile", "--plugin", &manifest, "--model_dir", &model, "--output_dir", &ours]);
    assert!(said.contains("vicuna 2.0.0 on llama 0.1.0"), "{said}");
    works(&["compile", "--model_dir", &golden, "--output_dir", &plain]);
    assert!(logits(&ours) == logits(&plain), "not the same bits");

    // By its checkpoint too, which is the plugin's and needs no manifest; and is built with one.
    let checkpoint = renamed.path("checkpoint");
    works(&["convert", "--plugin", &manifest, "--model_dir", &model, "--output_dir", &checkpoint]);
    let read =
        |path: PathBuf| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let config = read(Path::new(&checkpoint).join("config.json"));
    assert_eq!(config["architecture"], "LlamaForCausalLM");
    let engine = |dir: &str| fs::read(Path::new(dir).join("rank0.engine")).unwrap();
    for (built, plugin) in [("by itself", None), ("by manifest", Some(&manifest))] {
        let built = renamed.path(built);
        let mut args = vec!["build", "--checkpoint_dir", &checkpoint, "--output_dir", &built];
        args.extend(plugin.iter().flat_map(|plugin| ["--plugin", plugin.as_str()]));
        works(&args);
        assert!(engine(&built) == engine(&ours), "convert + build differs from compile");
    }

    let shown: Value = serde_json::from_str(&works(&["inspect", &ours, "--json"])).unwrap();
    let plugin = &shown["provenance"]["plugin"];
    assert_eq!((&plugin["name"], &plugin["version"]), (&json!("vicuna"), &json!("2.0.0")));
    assert_eq!(plugin["stands_on"]["name"], "llama");
    assert_ne!(plugin["stands_on"]["sha256"], plugin["sha256"]);
    assert!(works(&["inspect", &ours]).contains("stands on"));
}

#[test]
fn a_manifest_on_the_shelf_is_found_listed_checked_and_inspected() {
    let renamed = Renamed::new();
    let model = renamed.path("model");
    // Another TOML file in the folder is none, and a plugin in the manifest's folder comes first.
    fs::write(renamed.path("Cargo.toml"), "[package]\nname = \"no\"\n").unwrap();
    let on_shelf = |args: &[&str]| {
        let mut command = command(args);
        let shelf = [renamed.folder.path().to_owned(), engraft_tests::plugins()];
        command.env("ENGRAFT_PLUGINS", std::env::join_paths(shelf).unwrap());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    on_shelf(&["compile", "--model_dir", &model, "--output_dir", &renamed.path("found")]);
    on_shelf(&[
        "compile",
        "--plugin",
        "vicuna",
        "--model_dir",
        &model,
        "--output_dir",
        &renamed.path("named"),
    ]);
    let listed = on_shelf(&["plugin", "list"]);
    assert!(listed.contains("vicuna 2.0.0") && listed.contains("[VicunaForCausalLM]"), "{listed}");
    assert!(!listed.contains("Cargo"), "{listed}");
    let checked = on_shelf(&["plugin", "check", "vicuna.toml", "--model_dir", &model]);
    for word in ["vicuna 2.0.0", "determinism", "parameters"] {
        assert!(checked.contains(word), "{checked}");
    }
    let inspected = works(&["inspect", &renamed.path("vicuna.toml")]);
    for word in ["llama 0.1.0", "LlamaForCausalLM", "hidden_size is `n_embd`", "rms_norm_eps"] {
        assert!(inspected.contains(word), "no {word} in {inspected}");
    }
}

#[test]
fn what_is_wrong_with_a_manifest_is_told() {
    let renamed = Renamed::new();
    let with = |from: &str, to: &str| {
        assert!(MANIFEST.contains(from), "{from}");
        MANIFEST.replacen(from, to, 1)
    };
    let more = |text: &str| MANIFEST.replacen("[unused]", &format!("{text}\n[unused]"), 1);
    let cases: &[(String, i32, &str, &[&str])] = &[
        (with("accepts", "accept"), 4, "EG0240", &["accept", "line 4, column 1"]),
        (with("manifest = 1", "manifest = 2"), 4, "EG0240", &["version 2"]),
        (with("[fields]", "[fields"), 4, "EG0240", &["line 7"]),
        (with("\"llama\"", "\"lama\""), 4, "EG0241", &["`lama`", "plugin = \"llama\""]),
        (with("\"llama\"", "\"mine.wasm\""), 4, "EG0241", &["mine.wasm"]),
        (with("\"llama\"", "\"vicuna\""), 4, "EG0241", &["which is a manifest itself"]),
        (with("\"llama\"", "\"vicuna.toml\""), 4, "EG0241", &["which is a manifest itself"]),
        (with("version", "as = \"Opt\"\nversion"), 4, "EG0241", &["`as = \"Opt\"`", "LlamaFor"]),
        (with("version", "dialect = \"x\"\nversion"), 4, "EG0241", &["knows hugging-face"]),
        (with("= \"layer_*\"", "= \"layer\""), 4, "EG0242", &["1 `*` on the left, 0"]),
        (with("hidden_size", "hiden_size"), 4, "EG0243", &["`hiden_size`", "write `hidden_size`"]),
        (with("rms_norm_eps", "rms_norm_epsilon"), 4, "EG0243", &["`rms_norm_epsilon`"]),
        (with("vocab_size = 1", "vocab = 1"), 4, "EG0243", &["`vocab`", "[defaults]"]),
        (with("\"lm_head.weight\"", "\"lm_haed.weight\""), 4, "EG0243", &["lm_haed", "`output`"]),
        (with("attention.groups", "attention.heads"), 4, "EG0244", &["`attention.heads`"]),
        (more("\"model.norm\" = \"wte\""), 4, "EG0244", &["`wte.weight`", "`model.norm.weight`"]),
        (
            more("\"*.layers.0\" = \"*\""),
            4,
            "EG0244",
            &["`*.layers.0` and `model.layers.*`", "add a rename of"],
        ),
        (with("vocab_size = 1", "rms_norm_eps = 1"), 4, "EG0244", &["[defaults]", "[constants]"]),
        (with("rms_norm_eps = 1e-6", "rms_norm_eps = \"small\""), 4, "EG0245", &["a number"]),
        (with("rms_norm_eps = 1e-6", "num_hidden_layers = 4"), 3, "EG0246", &["is 3", "always 4"]),
        (with("[\"VicunaForCausalLM\"]", "[\"Other\"]"), 2, "EG0751", &["it knows Other"]),
        (with("\"layer_*.attn.mask\"", "\"nothing\""), 3, "EG0302", &["layer_0.attn.mask"]),
        (with("\"wte\"", "\"wpe\""), 3, "EG0301", &["wpe.weight"]),
        (with("\"ffn.width\"", "\"ffn.size\""), 3, "EG0212", &["`ffn.size` is missing"]),
    ];
    for (manifest, exit, code, words) in cases {
        let named = ["EG0302", "EG0301", "EG0212"].contains(code);
        if named {
            let (manifest, model) = (renamed.manifest(manifest), renamed.path("model"));
            let out = renamed.path("out");
            let args = ["compile", "--plugin", &manifest, "--model_dir", &model];
            fails(&[&args[..], &["--output_dir", &out]].concat(), *exit, code, words);
        } else {
            renamed.refused(manifest, *exit, code, words);
        }
    }
}

#[test]
fn a_config_may_say_what_a_manifest_has_as_default_and_a_constant_only_alike() {
    let renamed = Renamed::new();
    let (manifest, model) = (renamed.path("vicuna.toml"), renamed.path("model"));
    // The config's vocabulary counts, and not the default of 1; this epsilon is the constant's.
    renamed.config("rms_norm_eps", json!(1e-6));
    let out = renamed.path("alike");
    works(&["compile", "--plugin", &manifest, "--model_dir", &model, "--output_dir", &out]);
    renamed.config("rms_norm_eps", json!(1e-5));
    let words = &["`rms_norm_eps` is 0.00001", "always 1e-6", "`[defaults]`"];
    renamed.refused(MANIFEST, 3, "EG0246", words);
}

#[test]
fn a_rename_of_a_part_that_the_model_lacks_is_told_by_the_check() {
    let renamed = Renamed::new();
    let more = "\"model.layers.*.q_norm\" = \"layer_*.qn\"\n[unused]";
    let manifest = renamed.manifest(&MANIFEST.replacen("[unused]", more, 1));
    let checked = works(&["plugin", "check", &manifest, "--model_dir", &renamed.path("model")]);
    let told = "the manifest renames `model.layers.*.q_norm`, of which this model has nothing";
    assert!(checked.contains(told), "{checked}");
}
