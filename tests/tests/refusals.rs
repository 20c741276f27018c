//! What the command refuses, how it says so, and that it leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use engraft_tests::command::{command, compiled, engraft, fails, stderr, works};
use engraft_tests::{copied, fixtures, prepared};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A copy of a golden that can be broken, and beside it the place for outputs.
struct Model {
    folder: tempfile::TempDir,
}

impl Model {
    fn new(golden: &str) -> Model {
        Model { folder: copied(&fixtures().join("golden").join(golden)) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self) -> String {
        self.folder.path().to_string_lossy().into_owned()
    }

    fn config(&self, change: impl FnOnce(&mut Value)) -> &Model {
        let path = self.path("config.json");
        let mut config = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut config);
        fs::write(path, config.to_string()).unwrap();
        self
    }

    /// Rewrites the header of the weights, and the bytes behind it.
    fn weights(&self, change: impl FnOnce(&mut Value, &mut Vec<u8>)) -> &Model {
        let path = self.path("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        let mut data = bytes[8 + length..].to_vec();
        change(&mut header, &mut data);
        let header = header.to_string();
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        fs::write(path, bytes).unwrap();
        self
    }

    /// Compiling it must fail, and leave nothing behind.
    fn refused(&self, exit: i32, code: &str, words: &[&str]) {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let (model, out) = (self.text(), out.to_string_lossy().into_owned());
        for what in ["compile", "convert"] {
            fails(&[what, "--model_dir", &model, "--output_dir", &out], exit, code, words);
            let left = fs::read_dir(folder.path()).unwrap().count();
            assert_eq!(left, 0, "{what} left something behind");
        }
    }
}

const QUERY: &str = "model.layers.0.self_attn.q_proj.weight";

#[test]
fn a_model_that_is_not_there() {
    let model = Model::new("llama-mha");
    let nowhere = model.path("nowhere").to_string_lossy().into_owned();
    let out = model.path("out").to_string_lossy().into_owned();
    fails(&["compile", "--model_dir", &nowhere, "--output_dir", &out], 3, "EG0101", &["nowhere"]);
    fs::write(model.path("text.txt"), "no model").unwrap();
    let file = model.path("text.txt").to_string_lossy().into_owned();
    fails(&["compile", "--model_dir", &file, "--output_dir", &out], 3, "EG0102", &["text.txt"]);
    assert!(!model.path("out").exists());
}

#[test]
fn safetensors_that_lie() {
    let cut = Model::new("llama-mha");
    let bytes = fs::read(cut.path("model.safetensors")).unwrap();
    fs::write(cut.path("model.safetensors"), &bytes[..bytes.len() - 100]).unwrap();
    cut.refused(3, "EG0036", &["model.safetensors"]);
    fs::write(cut.path("model.safetensors"), &bytes[..5]).unwrap();
    cut.refused(3, "EG0030", &["model.safetensors"]);
    let mut lies = bytes.clone();
    lies[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    fs::write(cut.path("model.safetensors"), lies).unwrap();
    cut.refused(3, "EG0031", &["model.safetensors"]);
    let mut garbage = bytes;
    garbage[8] = b'!';
    fs::write(cut.path("model.safetensors"), garbage).unwrap();
    cut.refused(3, "EG0032", &["model.safetensors"]);

    Model::new("llama-mha").weights(|header, _| header[QUERY]["dtype"] = "BF17".into()).refused(
        3,
        "EG0034",
        &[QUERY, "BF17"],
    );
    Model::new("llama-mha").weights(|header, _| header[QUERY]["dtype"] = "F32".into()).refused(
        3,
        "EG0035",
        &[QUERY],
    );
    Model::new("llama-mha")
        .weights(|header, _| {
            // The last tensor lies over another one.
            let all = header.as_object_mut().unwrap();
            let end = |entry: &Value| entry["data_offsets"][1].as_u64();
            let last = all.iter().max_by_key(|(_, entry)| end(entry)).unwrap().0.clone();
            all[&last] = all[QUERY].clone();
        })
        .refused(3, "EG0037", &["overlaps"]);
}

#[test]
fn shards_that_are_missing() {
    let model = Model::new("llama-sharded");
    fs::remove_file(model.path("model-00002-of-00004.safetensors")).unwrap();
    model.refused(3, "EG0108", &["model-00002-of-00004.safetensors"]);
}

#[test]
fn configs_that_are_wrong() {
    let model = Model::new("llama-mha");
    fs::write(model.path("config.json"), "{\n  \"hidden_size\": 64,\n}").unwrap();
    model.refused(3, "EG0104", &["config.json:3:1"]);
    fs::remove_file(model.path("config.json")).unwrap();
    model.refused(3, "EG0103", &["config.json"]);
    let key = |change: fn(&mut Value)| {
        let model = Model::new("llama-mha");
        model.config(change);
        model
    };
    key(|c| drop(c.as_object_mut().unwrap().remove("hidden_size"))).refused(
        3,
        "EG0212",
        &["hidden_size"],
    );
    key(|c| c["num_attention_heads"] = "four".into()).refused(
        3,
        "EG0213",
        &["num_attention_heads"],
    );
    key(|c| c["num_key_value_heads"] = 3.into()).refused(3, "EG0211", &["num_key_value_heads"]);
    key(|c| c["rope_scaling"] = serde_json::json!({"rope_type": "spiral", "factor": 2.0})).refused(
        3,
        "EG0211",
        &["spiral"],
    );
    key(|c| c["hidden_act"] = "sine".into()).refused(3, "EG0211", &["hidden_act", "sine"]);
}

#[test]
fn an_unread_key_is_reported_and_no_error() {
    let model = Model::new("llama-mha");
    model.config(|c| c["attention_sink_strength"] = 0.5.into());
    let out = model.path("out").to_string_lossy().into_owned();
    let output = engraft(&["compile", "--model_dir", &model.text(), "--output_dir", &out]);
    assert!(output.status.success());
    assert!(stderr(&output).contains("`attention_sink_strength` is read by nobody"));
}

#[test]
fn an_architecture_that_nobody_knows() {
    let model = Model::new("llama-mha");
    model.config(|c| c["architectures"] = serde_json::json!(["LamaForCausalLM"]));
    model.refused(2, "EG0202", &["LamaForCausalLM", "LlamaForCausalLM", "plugin"]);
}

#[test]
fn tensors_that_do_not_fit() {
    // A parameter without a tensor, and a tensor without a parameter: the one is the other.
    let renamed = Model::new("llama-mha");
    renamed.weights(|header, _| {
        let entry = header.as_object_mut().unwrap().remove(QUERY).unwrap();
        header["model.layers.0.self_attn.query.weight"] = entry;
    });
    renamed.refused(3, "EG0301", &[QUERY, "self_attn.query.weight"]);

    let extra = Model::new("llama-mha");
    extra.weights(|header, data| {
        let end = data.len();
        data.extend([0; 8]);
        header["model.surprise"] =
            serde_json::json!({"dtype": "F32", "shape": [2], "data_offsets": [end, end + 8]});
    });
    extra.refused(3, "EG0302", &["model.surprise", "[2]"]);

    Model::new("llama-mha")
        .weights(|header, _| {
            let shape = header["model.layers.1.mlp.down_proj.weight"]["shape"].clone();
            let flipped: Vec<Value> = shape.as_array().unwrap().iter().rev().cloned().collect();
            header["model.layers.1.mlp.down_proj.weight"]["shape"] = flipped.into();
        })
        .refused(3, "EG0303", &["model.layers.1.mlp.down_proj.weight"]);
}

#[test]
fn weights_that_are_no_numbers() {
    let model = Model::new("llama-mha");
    model.weights(|header, data| {
        let start = header[QUERY]["data_offsets"][0].as_u64().unwrap() as usize;
        let width = header[QUERY]["shape"][1].as_u64().unwrap() as usize;
        // Row 2, column 3, in bf16.
        let at = start + 2 * (2 * width + 3);
        data[at..at + 2].copy_from_slice(&0x7fc0u16.to_le_bytes());
    });
    model.refused(3, "EG0309", &[QUERY, "[2, 3]", "NaN"]);
}

#[test]
fn gguf_files_that_are_broken() {
    let whole = fs::read(prepared("ENGRAFT_SMOLLM2_GGUF")).unwrap();
    let model = Model::new("llama-mha");
    let (file, out) = (model.path("model.gguf"), model.path("out").to_string_lossy().into_owned());
    let text = file.to_string_lossy().into_owned();
    let args = ["compile", "--model_dir", &text, "--output_dir", &out];
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    fails(&args, 3, "EG0129", &["model.gguf"]);
    fs::write(&file, &whole[..1000]).unwrap();
    fails(&args, 3, "EG0122", &["model.gguf"]);
    // The type of the first tensor stands behind its name and two dimensions.
    let mut unknown = whole;
    let name = b"token_embd.weight";
    let at = unknown.windows(name.len()).position(|w| w == name).unwrap() + name.len() + 4 + 16;
    unknown[at..at + 4].copy_from_slice(&77u32.to_le_bytes());
    fs::write(&file, unknown).unwrap();
    fails(&args, 3, "EG0127", &["token_embd.weight", "77"]);
    assert!(!Path::new(&out).exists());
}

#[test]
fn engines_that_are_broken() {
    let (folder, dir) = compiled("llama-mha");
    let file = folder.path().join("engine/rank0.engine");
    let whole = fs::read(&file).unwrap();
    let run = ["run", "--engine_dir", &dir, "--input_ids", "1,2,3", "--output_ids"];
    assert_eq!(works(&run).trim().split(',').count(), 128);
    assert!(works(&["verify", &dir]).contains("every digest agrees"));

    let mut flipped = whole.clone();
    let middle = whole.len() - 10_000;
    flipped[middle] ^= 1;
    fs::write(&file, flipped).unwrap();
    fails(&["verify", &dir], 1, "EG0513", &["weight"]);

    fs::write(&file, &whole[..whole.len() - 5000]).unwrap();
    fails(&run, 3, "EG0036", &["rank0.engine"]);

    let replaced = |from: &str, to: &str| {
        let (from, to) = (from.as_bytes(), to.as_bytes());
        assert_eq!(from.len(), to.len());
        let at = whole.windows(from.len()).position(|w| w == from).unwrap();
        let mut bytes = whole.clone();
        bytes[at..at + to.len()].copy_from_slice(to);
        fs::write(&file, bytes).unwrap();
    };
    replaced("\"engraft.format\":\"1\"", "\"engraft.format\":\"9\"");
    fails(&run, 3, "EG0504", &["9"]);
    replaced("epsilon=", "epsilom=");
    fails(&run, 3, "EG0505", &["rank0.engine"]);
    fs::remove_file(&file).unwrap();
    fails(&run, 3, "EG0501", &[]);
}

#[test]
fn outputs_that_are_in_the_way() {
    let (_folder, dir) = compiled("llama-mha");
    let model = fixtures().join("golden/llama-mha").to_string_lossy().into_owned();
    let args = ["compile", "--model_dir", &model, "--output_dir", &dir];
    fails(&args, 2, "EG0014", &["--force"]);
    works(&["compile", "--model_dir", &model, "--output_dir", &dir, "--force"]);
    // What is something else says which command takes it.
    let out = format!("{dir}-2");
    let build =
        |from: &str| ["build", "--checkpoint_dir", from, "--output_dir", &out].map(String::from);
    for (from, is) in [(&dir, "engine"), (&model, "model")] {
        let args = build(from);
        fails(&args.each_ref().map(String::as_str), 2, "EG0090", &[is]);
    }
    works(&["convert", "--model_dir", &model, "--output_dir", &out]);
    let again = format!("{dir}-3");
    fails(&["compile", "--model_dir", &out, "--output_dir", &again], 2, "EG0090", &["build"]);
    // Not even by force does an output replace what it is made of.
    let own = Model::new("llama-mha");
    let args = ["compile", "--model_dir", &own.text(), "--output_dir", &own.text(), "--force"];
    fails(&args, 2, "EG0090", &["its own input"]);
    assert!(own.path("model.safetensors").exists());
    // A folder below a file cannot be made.
    let below = format!("{dir}/config.json/out");
    let output = engraft(&["compile", "--model_dir", &model, "--output_dir", &below]);
    assert!(!output.status.success());
    assert!(stderr(&output).contains("help: "), "{}", stderr(&output));
}

/// Compiles into a file system of its own, mounted with these options, where this machine lets
/// us have one; must fail, and leave nothing behind.
fn refused_by_the_disk(options: &str, code: &str, words: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", options, "none"])
        .arg(folder.path())
        .output();
    if !mounted.is_ok_and(|m| m.status.success()) {
        eprintln!("nothing can be mounted here; how errors map is tested in `files`, too");
        return;
    }
    let model = fixtures().join("golden/llama-mha").to_string_lossy().into_owned();
    let out = folder.path().join("out").to_string_lossy().into_owned();
    let args = ["compile", "--model_dir", &model, "--output_dir", &out, "--dtype", "float32"];
    let checked = std::panic::catch_unwind(|| {
        fails(&args, 5, code, words);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "something is left behind");
    });
    Command::new("umount").arg(folder.path()).status().unwrap();
    if let Err(e) = checked {
        std::panic::resume_unwind(e);
    }
}

#[test]
fn a_disk_that_is_full() {
    refused_by_the_disk("size=200k", "EG0013", &["space"]);
}

#[test]
fn a_disk_that_cannot_be_written() {
    refused_by_the_disk("ro", "EG0012", &["read-only"]);
}

#[test]
fn plugins_that_are_none() {
    let model = Model::new("llama-mha");
    fs::write(model.path("bad.wasm"), "not wasm at all").unwrap();
    let (bad, text) = (model.path("bad.wasm").to_string_lossy().into_owned(), model.text());
    let out = model.path("out").to_string_lossy().into_owned();
    let args = |plugin| ["compile", "--plugin", plugin, "--model_dir", &text, "--output_dir", &out];
    fails(&args(&bad), 4, "EG0203", &["bad.wasm"]);
    fails(&args("lama"), 2, "EG0201", &["llama"]);
    fails(&["plugin", "check", &bad], 4, "EG0203", &["bad.wasm"]);
    assert!(!Path::new(&out).exists());
}

#[test]
fn an_interrupt_leaves_nothing_but_work_to_go_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out").to_string_lossy().into_owned();
    let model = prepared("ENGRAFT_SMOLLM2_HF_F32").to_string_lossy().into_owned();
    let args = ["compile", "--model_dir", &model, "--output_dir", &out];
    let mut child = command(&args).stderr(Stdio::piped()).spawn().unwrap();
    // In the middle: the engine file is begun and not done.
    let begun = || {
        let partial = fs::read_dir(folder.path()).ok()?.next()?.ok()?.path();
        let size = fs::metadata(partial.join("rank0.engine")).ok()?.len();
        (size > 8 << 20).then_some(())
    };
    while begun().is_none() {
        assert!(child.try_wait().unwrap().is_none(), "it was done before it could be interrupted");
        std::thread::sleep(Duration::from_millis(1));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(stderr(&output).contains("interrupted"), "{}", stderr(&output));
    let left = || -> Vec<String> {
        let names = fs::read_dir(folder.path()).unwrap();
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    assert_eq!(left(), [".out.partial"]);
    works(&args);
    assert_eq!(left(), ["out"]);
}

#[test]
fn usage_errors_exit_with_2() {
    for args in [&["compile"][..], &["fly"], &["run", "--engine_dir", "x"]] {
        let output = engraft(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
    }
    let model = fixtures().join("golden/llama-tied").to_string_lossy().into_owned();
    let args = ["compile", "--model_dir", &model, "--output_dir", "/tmp/x", "--dtype", "int3"];
    fails(&args, 2, "EG0090", &["int3", "bfloat16"]);
}

#[test]
fn prompts_that_cannot_run() {
    let (_folder, dir) = compiled("llama-mha");
    let run = |ids: &str| {
        let args = ["run", "--engine_dir", &dir, "--input_ids", ids, "--output_ids"];
        let output = engraft(&args);
        (output.status.code(), stderr(&output))
    };
    let (code, text) = run("1,999999");
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("EG0603") && text.contains("999999"), "{text}");
    let (code, text) = run("1,x");
    assert_eq!(code, Some(2), "{text}");
    let long = vec!["1"; 300].join(",");
    let (code, text) = run(&long);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("EG0602"), "{text}");
    // Text needs a tokenizer, and the goldens have none.
    fails(&["run", "--engine_dir", &dir, "--input_text", "Hi"], 3, "EG0613", &["tokenizer"]);
}

#[test]
fn a_full_standard_output_is_the_machines_fault() {
    let Ok(full) = fs::File::options().write(true).open("/dev/full") else { return };
    let output = command(&["plugin", "list"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(5));
    assert!(stderr(&output).contains("EG0013"), "{}", stderr(&output));
}

#[test]
fn force_does_not_replace_a_directory_that_is_no_output() {
    let other = Model::new("llama-gqa");
    let model = fixtures().join("golden/llama-mha").to_string_lossy().into_owned();
    let args = ["compile", "--model_dir", &model, "--output_dir", &other.text(), "--force"];
    fails(&args, 2, "EG0016", &["no earlier output"]);
    assert!(other.path("model.safetensors").exists());
}
