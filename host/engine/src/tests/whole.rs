//! What is written opens, and says what was written.

use super::*;
use safetensors::SafeTensors;

#[test]
fn what_is_written_opens_and_verifies() {
    let directory = tempfile::tempdir().unwrap();
    let written = write_toy(directory.path());
    for path in [directory.path().to_owned(), directory.path().join(format::ENGINE_FILE)] {
        let engine = Engine::open(&path).unwrap();
        assert_eq!(engine.directory(), directory.path());
        assert_eq!(engine.graph().to_string(), graph().to_string());
        assert_eq!(engine.graph_text(), graph().to_string());
        assert_eq!(*engine.config(), config());
        assert_eq!(*engine.provenance(), provenance());
        assert_eq!(engine.text_files().collect::<Vec<_>>(), ["tokenizer.json"]);
        let tokenizer = engine.text_file("tokenizer.json").unwrap();
        assert_eq!(tokenizer.as_ref(), text_files().get("tokenizer.json"));
        assert_eq!(engine.text_file("chat_template.jinja").unwrap(), None);
        for (weight, data) in engine.graph().weights.iter() {
            let bytes = bytes_of(&engine.graph().weights[engine.graph().storage(weight)]);
            assert_eq!(engine.weight(weight), bytes, "{}", data.name);
        }
        assert_eq!(engine.bytes(), written.bytes);
        let verified = engine.verify(&|done, total| assert!(done <= total)).unwrap();
        assert_eq!((verified.files, verified.bytes), (1, written.bytes));
        assert!(verified.tensors > written.weights, "holes are filled by tensors too");
    }
}

#[test]
fn every_weight_begins_at_a_page() {
    let directory = tempfile::tempdir().unwrap();
    write_toy(directory.path());
    let engine = Engine::open(directory.path()).unwrap();
    for weight in engine.graph().weights.keys() {
        assert_eq!(engine.weight(weight).as_ptr() as usize % format::ALIGNMENT, 0);
    }
}

#[test]
fn a_tied_weight_is_stored_once() {
    let directory = tempfile::tempdir().unwrap();
    let written = write_toy(directory.path());
    let engine = Engine::open(directory.path()).unwrap();
    assert_eq!(written.weights, engine.graph().weights.len() - 1);
    let graph = engine.graph();
    let (head, table) = (
        weight_named(graph, "lm_head.weight"),
        weight_named(graph, "transformer.vocab_embedding.weight"),
    );
    assert_eq!(engine.weight(head).as_ptr(), engine.weight(table).as_ptr());
    assert!(!engine.digests().contains_key("lm_head.weight"));
}

#[test]
fn two_writes_give_the_same_bytes() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_toy(one.path());
    write_toy(two.path());
    for name in [format::ENGINE_FILE, format::CONFIG_FILE, "tokenizer.json"] {
        let read = |directory: &tempfile::TempDir| fs::read(directory.path().join(name)).unwrap();
        assert_eq!(read(&one), read(&two), "{name}");
    }
}

#[test]
fn any_reader_of_safetensors_opens_it() {
    let directory = tempfile::tempdir().unwrap();
    write_toy(directory.path());
    let bytes = fs::read(directory.path().join(format::ENGINE_FILE)).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let name = "transformer.layers.1.attention.qkv.weight";
    let view = tensors.tensor(name).unwrap();
    assert_eq!((view.shape(), view.dtype()), (&[16, 8][..], safetensors::Dtype::F16));
    let graph = graph();
    assert_eq!(view.data(), bytes_of(&graph.weights[weight_named(&graph, name)]));
}

#[test]
fn config_json_has_the_three_members_of_tensorrt_llm() {
    let directory = tempfile::tempdir().unwrap();
    write_toy(directory.path());
    let bytes = fs::read(directory.path().join(format::CONFIG_FILE)).unwrap();
    let config: Value = serde_json::from_slice(&bytes).unwrap();
    let members: Vec<_> = config.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(members, ["version", "pretrained_config", "build_config"]);
    assert_eq!(config["build_config"]["kv_cache_type"], "paged");
}

#[test]
fn a_key_inside_of_a_text_is_not_taken_for_the_digest() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("e.engine");
    forge(&path, |forgery| {
        let trap = json!({ format::KEY_HEADER: "0".repeat(64) }).to_string();
        forgery.metadata.insert("a.earlier.key".to_owned(), trap);
    });
    Engine::open(&path).unwrap();
}

#[test]
fn unknown_keys_and_tensors_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("e.engine");
    forge(&path, |forgery| {
        forgery.metadata.insert("engraft.later".to_owned(), "?".to_owned());
        forgery.tensors.push(("kernels.sm_90.cubin".to_owned(), DType::U8, vec![5]));
    });
    Engine::open(&path).unwrap();
}
