//! What a person sees of a hostile plugin: one message with a code, and the exit code 4.

use crate::guest::{FREE, Guest, bytes_at, words};
use crate::in_the_block;
use engraft_tests::command::{command, fails, stderr};
use engraft_tests::fixtures;
use std::fs;

#[test]
fn a_hostile_plugin_ends_the_command_with_code_4() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostile.wasm");
    let name = path.to_string_lossy().into_owned();
    let inspect = |guest: &Guest, code: &str, words: &[&str]| {
        fs::write(&path, guest.component()).unwrap();
        fails(&["inspect", &name], 4, code, words);
    };
    let loops = Guest::tame().with("identify", "(loop br 0) unreachable");
    inspect(&loops, "EG0206", &["used up its 1000000000 instructions", "guest_identify"]);
    let traps = Guest::tame().with("identify", "unreachable");
    inspect(&traps, "EG0207", &["it trapped", "guest_identify"]);
    let ill = Guest::tame().with("identify", "i32.const 1025");
    inspect(&ill, "EG0209", &["breaks the contract", "not aligned"]);
    fs::write(&path, b"\0asm\x01\0\0\0").unwrap();
    fails(&["inspect", &name], 4, "EG0203", &["a core WebAssembly module"]);
    fs::write(&path, wat::parse_str("(component)").unwrap()).unwrap();
    fails(&["inspect", &name], 4, "EG0204", &["engraft:plugin/architecture"]);
    fs::write(&path, vec![0; (8 << 20) + 1]).unwrap();
    fails(&["inspect", &name], 4, "EG0203", &["at most 8388608 bytes", "component_bytes=8388609"]);
}

#[test]
fn a_refused_call_is_told_with_its_place_and_function() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    let golden = fixtures().join("golden/llama-gqa");
    fs::create_dir(&model).unwrap();
    fs::copy(golden.join("model.safetensors"), model.join("model.safetensors")).unwrap();
    fs::write(model.join("config.json"), r#"{"architectures": ["TameForCausalLM"]}"#).unwrap();
    let path = folder.path().join("hostile.wasm");
    let add = "(drop (call $add (local.get 1) (i32.const 99) (i32.const 99)))";
    // What no checkpoint is without, as whole numbers.
    let required = [&b"hidden_size"[..], b"num_hidden_layers", b"num_attention_heads"];
    let mut data = words(FREE, &[0, FREE + 16, 3]);
    for (at, name) in (0..).zip(required) {
        let text = 8448 + 32 * at;
        let setting = [text, name.len() as u32, 1, 0, 1, 0, 1, 0];
        data += &words(FREE + 16 + 32 * at, &setting);
        data += &bytes_at(text, name);
    }
    let guest = in_the_block(add).with("configure", "i32.const 8192").and(data);
    fs::write(&path, guest.component()).unwrap();
    let (path, model) = (path.to_string_lossy(), model.to_string_lossy());
    let told =
        ["plugin tame 0.1.0, block 0: add: value v99 is not defined", "guest__method_model_write"];
    fails(&["inspect", &model, "--graph", "--plugin", &path], 4, "EG0208", &told);
}

#[test]
fn limits_are_settings() {
    let plugin = engraft_tests::llama();
    let plugin = plugin.to_string_lossy();
    let run = |limits: &str| {
        command(&["inspect", &plugin]).env("ENGRAFT_PLUGIN_LIMITS", limits).output().unwrap()
    };
    let small = run("fuel=1000");
    assert_eq!(small.status.code(), Some(4));
    assert!(stderr(&small).contains("used up its 1000 instructions"), "{}", stderr(&small));
    assert!(run("fuel=2000000000, component_bytes=32MiB").status.success());
    let wrong = run("fule=3");
    assert_eq!(wrong.status.code(), Some(2));
    assert!(stderr(&wrong).contains("error[EG0230]: `fule=3`"), "{}", stderr(&wrong));
}
