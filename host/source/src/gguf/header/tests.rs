//! Sound files, and one file a lie.

use std::path::Path;

use engraft_diagnostic::{Code, Diagnostic};

use super::super::build::{Build, text};
use super::*;
use crate::{Source, SourceError};

fn open_bytes(bytes: &[u8]) -> Result<Source, SourceError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    Source::open(&path)
}

fn fault(build: &Build) -> GgufError {
    match open_bytes(&build.bytes()).map(|_| ()) {
        Err(SourceError::Gguf { fault, path }) => {
            assert_eq!(path.file_name(), Some("model.gguf".as_ref()));
            assert!(!fault.help().is_empty());
            fault
        }
        other => panic!("expected a fault, got {other:?}"),
    }
}

/// Two tensors of four floats.
fn sound() -> Build {
    let four: Vec<u8> = [1f32, 2.0, 3.0, 4.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    Build::new().number("llama.block_count", 1).tensor("a", &[2, 2], 0, &four).tensor(
        "b",
        &[4],
        0,
        &four,
    )
}

#[test]
fn a_sound_file_of_either_version_opens() {
    for version in [2, 3] {
        let source = open_bytes(&Build { version, ..sound() }.bytes()).unwrap();
        assert_eq!(source.dialect(), "gguf");
        assert_eq!(source.architectures(), ["gguf:llama"]);
        assert_eq!(source.dtype(), DType::F32);
        assert_eq!(source.config()["llama.block_count"], 1);
        assert_eq!(source.ignorable_keys(), ["general.architecture"]);
        assert!(source.text_files().is_empty());
        let mut bytes = Vec::new();
        source.read("a", 1..2, &mut bytes).unwrap();
        assert_eq!(bytes, [3f32.to_le_bytes(), 4f32.to_le_bytes()].concat());
    }
}

#[test]
fn shapes_are_turned_around_and_the_files_alignment_counts() {
    let build = Build { alignment: 128, ..Build::new() }
        .number("general.alignment", 128)
        .tensor("first", &[3], 24, &[1, 2, 3])
        .tensor("second", &[1, 2, 3], 24, &[1, 2, 3, 4, 5, 6]);
    let source = open_bytes(&build.bytes()).unwrap();
    let info = &source.tensors()["second"];
    assert_eq!((info.dtype, info.stored.as_str()), (DType::I8, "I8"));
    assert_eq!(info.shape, [3, 2, 1]);
    assert_eq!(info.start % 128, 0);
    let mut bytes = Vec::new();
    source.read("second", 1..3, &mut bytes).unwrap();
    assert_eq!(bytes, [3, 4, 5, 6]);
}

#[test]
fn something_else_is_no_gguf() {
    for bytes in [&b""[..], b"GG", b"PK\x03\x04 and so on"] {
        assert!(matches!(open_bytes(bytes), Err(SourceError::UnknownForm { .. })));
    }
}

#[test]
fn other_versions_and_byte_orders_are_told_apart() {
    assert_eq!(fault(&Build { version: 1, ..sound() }), GgufError::Version(1));
    assert_eq!(fault(&Build { version: 77, ..sound() }), GgufError::Version(77));
    assert_eq!(fault(&Build { version: 3u32.swap_bytes(), ..sound() }), GgufError::BigEndian);
}

#[test]
fn a_file_cut_anywhere_is_an_error_and_says_what_is_missing() {
    let bytes = sound().bytes();
    for end in 4..bytes.len() {
        let error = open_bytes(&bytes[..end]).map(|_| ()).unwrap_err();
        let SourceError::Gguf { fault, .. } = error else { panic!("{end}: {error:?}") };
        let cut = matches!(fault, GgufError::Truncated { .. } | GgufError::PastTheEnd { .. });
        assert!(cut, "{end}: {fault:?}");
    }
    let error = open_bytes(&bytes[..bytes.len() - 1]).map(|_| ()).unwrap_err();
    let size = bytes.len();
    let expected =
        format!("tensor `b` ends at byte {size}, but the file ends at byte {}", size - 1);
    assert_eq!(error.to_string(), expected);
    assert_eq!(error.code(), Code(129));
    assert!(error.location().unwrap().ends_with("model.gguf"));
    assert!(error.help().unwrap().contains("cut short"));
}

#[test]
fn a_file_with_any_byte_changed_opens_or_is_an_error() {
    let sound = sound().bytes();
    for at in 4..sound.len() {
        for change in [1, 0x80, 0xff] {
            let mut bytes = sound.clone();
            bytes[at] ^= change;
            let Ok(source) = open_bytes(&bytes) else { continue };
            for (name, info) in source.tensors() {
                let rows = info.shape.first().copied().unwrap_or(1);
                source.read(name, 0..rows, &mut Vec::new()).unwrap();
            }
        }
    }
}

#[test]
fn counts_and_lengths_that_lie_are_caught_before_anything_is_allocated() {
    for lie in [1 << 20, 1 << 40, u64::MAX] {
        let keys = Build { claimed_keys: Some(lie), ..sound() };
        assert!(matches!(fault(&keys), GgufError::Truncated { .. }));
        let tensors = Build { claimed_tensors: Some(lie), ..sound() };
        assert!(matches!(fault(&tensors), GgufError::Truncated { .. }));
        let long = Build::new().key("long", 8, &lie.to_le_bytes());
        let GgufError::Truncated { reading, .. } = fault(&long) else { panic!() };
        assert_eq!(reading, "long");
        let list = Build::new().list("list", 8, lie as usize, &[]);
        assert!(matches!(fault(&list), GgufError::Truncated { .. }));
    }
    let mut list = Build::new().list("list", 0, 17 << 20, &[]);
    list.data = vec![0; 18 << 20];
    assert!(matches!(fault(&list), GgufError::TooMany { limit: LONGEST_LIST, .. }));
    let axes = Build::new().entry("deep", &[1; 9], 0, 0);
    assert!(matches!(fault(&axes), GgufError::TooMany { value: 9, .. }));
}

#[test]
fn a_list_of_lists_and_an_unknown_value_type_are_refused() {
    let nested = Build::new().list("nested", 9, 1, &[0; 12]);
    assert_eq!(fault(&nested), GgufError::ValueType { key: "nested".to_owned(), kind: 9 });
    let unknown = Build::new().key("odd", 13, &[0; 8]);
    assert_eq!(fault(&unknown).to_string(), "metadata `odd` has the unreadable type 13");
}

#[test]
fn a_name_that_occurs_twice_or_is_no_text_is_caught() {
    let key = Build::new().text("general.architecture", "llama");
    let expected = "metadata `general.architecture` is in the file twice";
    assert_eq!(fault(&key).to_string(), expected);
    let tensor = sound().tensor("a", &[1], 24, &[1]);
    assert_eq!(fault(&tensor).to_string(), "tensor `a` is in the file twice");
    let mut not_text = text("12");
    not_text[8] = 0xff;
    let value = Build::new().key("name", 8, &not_text);
    assert_eq!(fault(&value), GgufError::NotText("name".to_owned()));
}

#[test]
fn an_unknown_tensor_type_is_named_with_its_number() {
    let unknown = fault(&Build::new().entry("w", &[32], 99, 0));
    assert_eq!(unknown.to_string(), "tensor `w` has the unknown type 99");
    assert_eq!(unknown.code(), Code(127));
    assert!(unknown.help().contains("Q4_0"));
    let known = fault(&Build::new().entry("w", &[32], 20, 0));
    assert_eq!(known.to_string(), "tensor `w` has the type 20 (IQ4_NL), which is not read");
}

#[test]
fn impossible_shapes_and_places_are_caught() {
    let shape = |shape: &[u64], kind| fault(&Build::new().entry("w", shape, kind, 0));
    assert!(matches!(shape(&[u64::MAX, 2], 0), GgufError::Shape { .. }));
    assert!(matches!(shape(&[1 << 62], 0), GgufError::Shape { .. }));
    // Half a block in every row.
    assert!(matches!(shape(&[16, 4], 2), GgufError::Shape { .. }));
    let far = fault(&Build::new().entry("w", &[1], 0, u64::MAX - 31));
    assert!(matches!(far, GgufError::PastTheEnd { .. }));
    let odd = fault(&sound().entry("w", &[1], 0, 4));
    assert_eq!(odd.to_string(), "tensor `w` begins at 4, which is no multiple of 32");
    let over = fault(&sound().entry("w", &[1], 0, 0));
    assert!(matches!(over, GgufError::Overlap { .. }), "{over:?}");
    for alignment in [0, 3, 1 << 21] {
        let odd = fault(&Build::new().number("general.alignment", alignment));
        assert_eq!(odd.to_string(), "metadata `general.alignment` should be a power of two");
    }
}

#[test]
fn one_of_several_files_and_a_file_without_architecture_are_refused() {
    let split = Build::new().key("split.count", 2, &3u16.to_le_bytes());
    assert_eq!(fault(&split), GgufError::Split(3));
    // The only key gone.
    let bytes = [&b"GGUF\x03\0\0\0"[..], &[0; 24]].concat();
    let error = open_bytes(&bytes).map(|_| ()).unwrap_err();
    assert_eq!(error.to_string(), "metadata `general.architecture` is missing");
    assert!(matches!(Source::open(Path::new("/no/such.gguf")), Err(SourceError::Missing { .. })));
}
