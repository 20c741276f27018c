//! Every way of being no engine has its own error.

use super::*;
use crate::Verified;
use engraft_diagnostic::{Diagnostic, Fault};
use engraft_files::FileError;

/// What opening and verifying says of the toy's engine file after `change`.
fn open_after(change: impl FnOnce(&mut Vec<u8>)) -> Result<Verified, EngineError> {
    let directory = tempfile::tempdir().unwrap();
    write_toy(directory.path());
    let path = directory.path().join(format::ENGINE_FILE);
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::write(&path, bytes).unwrap();
    Engine::open(directory.path())?.verify(&|_, _| {})
}

fn header_length(bytes: &[u8]) -> usize {
    8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize
}

#[test]
fn a_path_without_an_engine_says_so() {
    let directory = tempfile::tempdir().unwrap();
    for path in [directory.path().to_owned(), directory.path().join("nothing")] {
        let error = Engine::open(&path).unwrap_err();
        assert!(matches!(error, EngineError::Missing { .. }), "{error}");
        assert!(error.help().unwrap().contains(format::ENGINE_FILE));
    }
}

#[test]
fn what_is_no_regular_file_is_not_read() {
    let error = Engine::open(Path::new("/dev/null")).unwrap_err();
    assert!(matches!(error, EngineError::NotAFile { .. }), "{error}");
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join(format::ENGINE_FILE)).unwrap();
    let error = Engine::open(directory.path()).unwrap_err();
    assert!(matches!(error, EngineError::NotAFile { .. }), "{error}");
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let length = write_toy(directory.path()).bytes as usize;
    for cut in [0, 1, 8, 100, length / 2, length - 1] {
        let error = open_after(|bytes| bytes.truncate(cut)).unwrap_err();
        assert!(matches!(error, EngineError::Header(_)), "cut at {cut}: {error}");
        assert_eq!(error.fault(), Fault::Input);
        assert!(error.location().unwrap().contains(format::ENGINE_FILE));
    }
}

#[test]
fn a_file_that_goes_on_is_refused() {
    let error = open_after(|bytes| bytes.push(0)).unwrap_err();
    assert!(matches!(error, EngineError::Header(_)), "{error}");
}

#[test]
fn garbage_is_refused() {
    let error = open_after(|bytes| bytes.iter_mut().for_each(|b| *b = 0xa5)).unwrap_err();
    assert!(matches!(error, EngineError::Header(_)), "{error}");
}

#[test]
fn somebody_elses_safetensors_file_is_no_engine() {
    let error = refusal(|forgery| forgery.metadata.clear());
    assert!(matches!(error, EngineError::NotAnEngine { .. }), "{error}");
}

#[test]
fn an_unknown_version_says_which_and_which_is_read() {
    let error = refusal(|forgery| {
        // Nothing else that a later version writes can be relied upon.
        forgery.metadata.clear();
        forgery.metadata.insert(format::KEY_FORMAT.to_owned(), "7".to_owned());
    });
    assert!(matches!(error, EngineError::UnknownVersion { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("\"7\"") && text.contains("reads version 1"), "{text}");
    assert!(error.help().unwrap().contains("update engraft"));
}

#[test]
fn no_byte_of_the_header_can_be_flipped() {
    let directory = tempfile::tempdir().unwrap();
    write_toy(directory.path());
    let path = directory.path().join(format::ENGINE_FILE);
    let bytes = fs::read(&path).unwrap();
    for at in (0..header_length(&bytes)).step_by(19) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x20;
        fs::write(&path, flipped).unwrap();
        let error = Engine::open(&path).unwrap_err();
        assert_eq!(error.fault(), Fault::Input, "byte {at}: {error}");
    }
}

#[test]
fn a_changed_header_that_still_parses_is_found_by_its_digest() {
    let changes: [(&str, &str); 3] =
        [("epsilon=1e-5", "epsilon=1e-4"), ("0.1.0", "0.1.1"), ("ToyFor", "TovFor")];
    for (from, to) in changes {
        let error = open_after(|bytes| {
            let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
            bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        })
        .unwrap_err();
        assert!(matches!(error, EngineError::HeaderDamaged { .. }), "{from}: {error}");
    }
}

#[test]
fn a_flipped_byte_of_a_weight_is_found_by_verify_which_names_it() {
    match open_after(|bytes| *bytes.last_mut().unwrap() ^= 1).unwrap_err() {
        EngineError::Damaged { names, .. } => assert_eq!(names, ["transformer.ln_f.weight"]),
        other => panic!("{other}"),
    }
}

#[test]
fn a_flipped_byte_of_the_filling_is_found_by_verify() {
    // The first weight has 512 bytes; behind it is filling up to the next page.
    let error = open_after(|bytes| {
        let at = header_length(bytes) + 1000;
        bytes[at] ^= 1;
    })
    .unwrap_err();
    match error {
        EngineError::Damaged { names, .. } => assert_eq!(names, [format!("{}1", format::PADDING)]),
        other => panic!("{other}"),
    }
}

#[test]
fn a_changed_or_missing_text_file_is_found_by_verify() {
    for change in [|path: &Path| fs::write(path, "{}"), |path: &Path| fs::remove_file(path)] {
        let directory = tempfile::tempdir().unwrap();
        write_toy(directory.path());
        change(&directory.path().join("tokenizer.json")).unwrap();
        let error = Engine::open(directory.path()).unwrap().verify(&|_, _| {}).unwrap_err();
        assert!(error.to_string().contains("tokenizer.json"), "{error}");
        assert_eq!(error.fault(), Fault::Check);
    }
}

#[test]
fn a_missing_or_malformed_key_is_named() {
    for key in [
        format::KEY_GRAPH,
        format::KEY_CONFIG,
        format::KEY_PROVENANCE,
        format::KEY_DIGESTS,
        format::KEY_FILES,
    ] {
        let error = refusal(|forgery| drop(forgery.metadata.remove(key)));
        assert!(matches!(error, EngineError::Metadata { key: k, .. } if k == key), "{error}");
        if key != format::KEY_GRAPH {
            let error = refusal(|forgery| {
                forgery.metadata.insert(key.to_owned(), "{\"a\":".to_owned());
            });
            assert!(matches!(error, EngineError::Metadata { key: k, .. } if k == key), "{error}");
        }
    }
    let error = refusal(|forgery| drop(forgery.metadata.remove(format::KEY_HEADER)));
    assert!(matches!(error, EngineError::HeaderDamaged { .. }), "{error}");
}

#[test]
fn a_graph_that_does_not_parse_or_verify_is_refused() {
    let error = refusal(|forgery| {
        let text = text().replace("linear", "lineal");
        forgery.metadata.insert(format::KEY_GRAPH.to_owned(), text);
    });
    assert!(matches!(error, EngineError::GraphText { .. }), "{error}");
    let error = refusal(|forgery| {
        // Two attentions that share a cache.
        let text = text().replace("    s1 = cache key_heads=1 head_width=4\n", "");
        let text = text.replace(", s1,", ", s0,");
        forgery.metadata.insert(format::KEY_GRAPH.to_owned(), text);
    });
    assert!(matches!(error, EngineError::GraphInvalid { .. }), "{error}");
}

#[test]
fn a_weight_without_its_tensor_is_named() {
    let error = refusal(|forgery| drop(forgery.tensors.remove(1)));
    assert!(error.to_string().contains("transformer.layers.0.input_layernorm.weight"), "{error}");
    assert!(matches!(error, EngineError::MissingTensor { .. }), "{error}");
}

#[test]
fn a_hostile_name_does_not_reach_the_terminal_as_it_is() {
    let error = refusal(|forgery| {
        let text = text().replace("lm_head.weight", "\u{1b}[2J").replace(" tied w0", "");
        forgery.metadata.insert(format::KEY_GRAPH.to_owned(), text);
    });
    assert!(!error.to_string().contains('\u{1b}'), "{error:?}");
}

#[test]
fn a_tensor_of_another_shape_or_type_is_named_with_both() {
    let error = refusal(|forgery| forgery.tensors[0].2 = vec![8, 32]);
    assert!(matches!(error, EngineError::TensorMismatch { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("[8, 32]") && text.contains("[32, 8]"), "{text}");
    let error = refusal(|forgery| forgery.tensors[0].1 = DType::BF16);
    let text = error.to_string();
    assert!(text.contains("bf16") && text.contains("f16 [32, 8]"), "{text}");
}

#[test]
fn a_weight_in_the_middle_of_a_page_is_refused() {
    let error = refusal(|forgery| forgery.align = 64);
    assert!(matches!(error, EngineError::Unaligned { .. }), "{error}");
}

#[test]
fn an_edited_config_is_refused_and_a_missing_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    write_toy(directory.path());
    let path = directory.path().join(format::CONFIG_FILE);
    let text = fs::read_to_string(&path).unwrap();
    for edit in [text.replace("\"max_batch_size\": 8", "\"max_batch_size\": 9"), "{".to_owned()] {
        fs::write(&path, edit).unwrap();
        let error = Engine::open(directory.path()).unwrap_err();
        assert!(matches!(error, EngineError::ConfigDiffers { .. }), "{error}");
        assert_eq!(error.location().unwrap(), path.display().to_string());
    }
    // Another layout of the same is the same.
    let value: Value = serde_json::from_str(&text).unwrap();
    fs::write(&path, value.to_string()).unwrap();
    Engine::open(directory.path()).unwrap();
    fs::remove_file(&path).unwrap();
    Engine::open(directory.path()).unwrap();
}

#[test]
fn a_text_file_cannot_leave_the_directory_or_replace_the_engine() {
    for name in
        ["../tokenizer.json", "/tokenizer.json", "a/b", "", "..", "config.json", "rank0.engine"]
    {
        let directory = tempfile::tempdir().unwrap();
        let (graph, config, provenance) = (graph(), config(), provenance());
        let text_files = [(name.to_owned(), Vec::new())].into();
        let contents = Contents {
            graphs: &[&graph],
            config: &config,
            provenance: &provenance,
            text_files: &text_files,
            reopen: false,
        };
        let error = write::<EngineError>(directory.path(), &contents, |_| Ok(())).unwrap_err();
        assert!(matches!(error, EngineError::FileName { .. }), "{name:?}: {error}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}

#[test]
fn a_stream_that_gives_too_little_or_too_much_is_an_error() {
    for extra in [-1isize, 1] {
        let directory = tempfile::tempdir().unwrap();
        let (graph, config, provenance) = (graph(), config(), provenance());
        let contents = Contents {
            graphs: &[&graph],
            config: &config,
            provenance: &provenance,
            text_files: &BTreeMap::new(),
            reopen: false,
        };
        let error = write::<EngineError>(directory.path(), &contents, |files| {
            let own = graph.weights.values().filter(|weight| weight.tied.is_none());
            for weight in own {
                let length = weight.bytes() as isize + extra;
                files[0].put(&weight.name, &vec![0; length as usize])?;
            }
            Ok(())
        })
        .unwrap_err();
        assert!(matches!(error, EngineError::File(FileError::Misuse { .. })), "{error}");
    }
}
