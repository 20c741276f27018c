//! Work that is interrupted goes on where it stopped, and ends at the same bytes.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use engraft_files::journal::JOURNAL;
use engraft_files::{OutputDir, SafetensorsWriter};
use engraft_ir::DType;
use engraft_tests::command::command;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::Duration;

const HIDDEN: u64 = 512;
const INNER: u64 = 1408;
const VOCABULARY: u64 = 4096;
const LAYERS: u64 = 10;

/// A Llama of 70 MB that nobody trained: enough for a journal of several batches.
fn model(folder: &Path) -> String {
    let directory = folder.join("model");
    fs::create_dir_all(&directory).unwrap();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
        "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": 8,
        "num_key_value_heads": 4, "vocab_size": VOCABULARY, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "max_position_embeddings": 512, "hidden_act": "silu",
        "tie_word_embeddings": false, "torch_dtype": "bfloat16",
    });
    fs::write(directory.join("config.json"), config.to_string()).unwrap();
    let mut tensors = vec![("model.embed_tokens".to_owned(), vec![VOCABULARY, HIDDEN])];
    for layer in 0..LAYERS {
        for (name, shape) in [
            ("input_layernorm", vec![HIDDEN]),
            ("self_attn.q_proj", vec![HIDDEN, HIDDEN]),
            ("self_attn.k_proj", vec![HIDDEN / 2, HIDDEN]),
            ("self_attn.v_proj", vec![HIDDEN / 2, HIDDEN]),
            ("self_attn.o_proj", vec![HIDDEN, HIDDEN]),
            ("post_attention_layernorm", vec![HIDDEN]),
            ("mlp.gate_proj", vec![INNER, HIDDEN]),
            ("mlp.up_proj", vec![INNER, HIDDEN]),
            ("mlp.down_proj", vec![HIDDEN, INNER]),
        ] {
            tensors.push((format!("model.layers.{layer}.{name}"), shape));
        }
    }
    tensors.push(("model.norm".to_owned(), vec![HIDDEN]));
    tensors.push(("lm_head".to_owned(), vec![VOCABULARY, HIDDEN]));
    let declared: Vec<_> =
        tensors.into_iter().map(|(name, shape)| (name + ".weight", DType::BF16, shape)).collect();
    let path = directory.join("model.safetensors");
    let file = SafetensorsWriter::create(&path, BTreeMap::new(), declared.clone(), 1).unwrap();
    let mut state = 1u64;
    for (name, _, shape) in declared {
        let count = shape.iter().product::<u64>();
        let elements = (0..count).flat_map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Between 0.0078 and 0.031, of either sign.
            (0x3c00 | (state >> 48) as u16 & 0x80ff).to_le_bytes()
        });
        file.put(&name, &elements.collect::<Vec<u8>>()).unwrap();
    }
    file.finish().unwrap();
    directory.to_string_lossy().into_owned()
}

/// All files of a directory by name.
fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap())
    };
    fs::read_dir(directory).unwrap().map(read).collect()
}

/// A command that writes a model into `out`, and what it is interrupted at.
struct Job<'a> {
    command: &'a str,
    more: &'a [&'a str],
    model: &'a str,
    out: PathBuf,
}

impl Job<'_> {
    fn start(&self) -> Child {
        let out = self.out.to_string_lossy();
        let mut command = command(&[self.command, "--model_dir", self.model, "--output_dir", &out]);
        command.args(self.more).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn partial(&self) -> PathBuf {
        let name = self.out.file_name().unwrap().to_string_lossy();
        self.out.with_file_name(format!(".{name}.partial"))
    }

    /// Lines of the journal; 0 where there is none.
    fn noted(&self) -> usize {
        let text = fs::read(self.partial().join(JOURNAL)).unwrap_or_default();
        text.iter().filter(|byte| **byte == b'\n').count()
    }

    /// Waits until the journal has so many lines; whether it came to that.
    fn wait(&self, child: &mut Child, lines: usize) -> bool {
        while self.noted() < lines {
            if child.try_wait().unwrap().is_some() {
                return false;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        child.try_wait().unwrap().is_none()
    }

    /// Runs to the end and says what it printed on stderr.
    fn finish(&self) -> String {
        let Output { status, stderr, .. } = self.start().wait_with_output().unwrap();
        let text = String::from_utf8(stderr).unwrap();
        assert!(status.success(), "{text}");
        assert!(!self.partial().exists());
        text
    }
}

fn killed_at_random_points(command: &str, more: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let job = |out: &str| Job { command, more, model: &model, out: folder.path().join(out) };
    let undisturbed = job("undisturbed");
    undisturbed.finish();
    let wanted = files(&undisturbed.out);
    assert!(!wanted.contains_key(JOURNAL));
    let mut resumed = 0;
    let mut state = 5u64;
    for round in 0..6 {
        let job = job(&format!("out{round}"));
        // Killed up to three times, a little further each time, or after a while.
        for again in 1..=1 + round % 3 {
            let mut child = job.start();
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            if round % 2 == 0 {
                let lines = job.noted().max(1) + 1 + (state >> 60) as usize * again;
                job.wait(&mut child, lines);
            } else {
                std::thread::sleep(Duration::from_millis(10 + (state >> 56)));
            }
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let noted = job.noted();
        if job.out.exists() {
            // It was done before it was killed.
            assert!(files(&job.out) == wanted);
            continue;
        }
        let said = job.finish();
        assert_eq!(said.contains("going on"), noted > 1, "{noted}: {said}");
        resumed += usize::from(noted > 1);
        assert!(files(&job.out) == wanted, "round {round}");
    }
    assert!(resumed > 0, "none was killed in the middle");
}

#[test]
fn converting_goes_on_after_it_was_killed() {
    killed_at_random_points("convert", &["--dtype", "float16"]);
}

#[test]
fn compiling_goes_on_after_it_was_killed() {
    killed_at_random_points("compile", &[]);
}

#[test]
fn what_is_kept_is_looked_at_again_and_other_flags_start_over() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let undisturbed =
        Job { command: "convert", more: &[], model: &model, out: folder.path().join("one") };
    undisturbed.finish();
    let job = Job { out: folder.path().join("two"), ..undisturbed };
    let interrupt = || {
        let mut child = job.start();
        assert!(job.wait(&mut child, 2), "too fast");
        let pid = Pid::from_child(&child);
        kill_process(pid, Signal::INT).unwrap();
        let Output { status, stderr, .. } = child.wait_with_output().unwrap();
        let text = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(130), "{text}");
        assert!(text.contains("EG0019") && text.contains("run the same command again"), "{text}");
        assert!(!job.out.exists() && job.noted() > 1);
    };
    // A bit of what was done falls over.
    interrupt();
    let rank = job.partial().join("rank0.safetensors");
    let mut bytes = fs::read(&rank).unwrap();
    let at = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    for at in [at, at / 2, at / 4] {
        bytes[at] ^= 1;
    }
    fs::write(&rank, bytes).unwrap();
    assert!(job.finish().contains("going on"));
    let wanted = files(&folder.path().join("one"));
    assert!(files(&job.out) == wanted);
    // Another type is other work.
    fs::remove_dir_all(&job.out).unwrap();
    interrupt();
    let other = Job { more: &["--dtype", "float32"], out: job.out.clone(), ..job };
    assert!(other.finish().contains("starting over"));
    // And so is what is forced.
    fs::remove_dir_all(&job.out).unwrap();
    interrupt();
    let forced = Job { more: &["--force"], out: job.out.clone(), ..job };
    let said = forced.finish();
    assert!(!said.contains("going on") && !said.contains("starting over"), "{said}");
    assert!(files(&job.out) == wanted);
}

#[test]
fn two_runs_do_not_write_the_same_output() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let job = Job { command: "convert", more: &[], model: &model, out: folder.path().join("out") };
    let first = OutputDir::resume(&job.out, false).unwrap();
    let Output { status, stderr, .. } = job.start().wait_with_output().unwrap();
    let text = String::from_utf8(stderr).unwrap();
    assert!(status.code() == Some(2) && text.contains("EG0022"), "{text}");
    drop(first);
    job.finish();
}

#[test]
fn a_bad_weight_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let weights = Path::new(&model).join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let last = bytes.len() - 2;
    bytes[last..].copy_from_slice(&0x7fc0u16.to_le_bytes());
    fs::write(&weights, bytes).unwrap();
    let job = Job { command: "convert", more: &[], model: &model, out: folder.path().join("out") };
    let Output { status, stderr, .. } = job.start().wait_with_output().unwrap();
    let text = String::from_utf8(stderr).unwrap();
    assert!(status.code() == Some(3) && text.contains("EG0309"), "{text}");
    assert!(!job.out.exists() && !job.partial().exists());
}
