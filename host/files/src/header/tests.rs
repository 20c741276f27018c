//! One file a lie.

use std::path::PathBuf;

use engraft_diagnostic::{Code, Diagnostic};

use super::error::TensorFault;
use super::*;

/// A file with the header `json`, which claims to be `claimed` bytes longer than it is.
fn file(json: &str, claimed: i64, data: usize) -> Result<Header, HeaderError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.safetensors");
    let length = json.len() as i64 + claimed;
    let mut bytes = (length as u64).to_le_bytes().to_vec();
    bytes.extend(json.as_bytes());
    bytes.extend(vec![0; data]);
    std::fs::write(&path, &bytes).unwrap();
    let mapped = read_bytes(&path, &bytes);
    let result = read(&path).map(|(_, header)| header);
    assert_eq!(format!("{mapped:?}"), format!("{result:?}"), "read and read_bytes agree");
    result
}

fn entry(name: &str, dtype: &str, shape: &str, start: u64, end: u64) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}"#)
}

fn fault(json: &str, data: usize) -> TensorFault {
    match file(json, 0, data) {
        Err(HeaderError::Tensor { fault, .. }) => fault,
        other => panic!("expected a tensor's fault, got {other:?}"),
    }
}

#[test]
fn a_sound_header_gives_absolute_offsets() {
    let json = format!(
        r#"{{"__metadata__":{{"format":"pt"}},{},{},{}}}"#,
        entry("b", "F32", "[2]", 4, 12),
        entry("a", "BF16", "[2,1]", 0, 4),
        entry("none", "F16", "[0,18446744073709551615]", 12, 12),
    );
    let header = file(&json, 0, 12).unwrap();
    assert_eq!(header.metadata["format"], "pt");
    assert_eq!(header.data_start, 8 + json.len() as u64);
    let a = &header.tensors["a"];
    assert_eq!((a.dtype, a.shape.as_slice()), (DType::BF16, [2, 1].as_slice()));
    assert_eq!((a.start, a.end), (header.data_start, header.data_start + 4));
    assert_eq!(header.tensors["b"].start, header.data_start + 4);
}

#[test]
fn a_header_length_that_lies_is_caught_before_anything_is_allocated() {
    let json = format!("{{{}}}", entry("a", "U8", "[4]", 0, 4));
    for claimed in [5, 1 << 40, i64::MAX - 1000, -1_000_000] {
        let error = file(&json, claimed, 4).unwrap_err();
        assert!(matches!(error, HeaderError::LengthLies { .. }), "{claimed}: {error:?}");
        assert_eq!(error.code(), Code(31));
        assert!(error.location().unwrap().ends_with("model.safetensors"));
    }
    assert!(matches!(file(&json, -3, 4), Err(HeaderError::Malformed { .. })));
}

#[test]
fn a_file_without_a_header_says_how_short_it_is() {
    let error = read_bytes(&PathBuf::from("x"), b"GGUF").unwrap_err();
    assert_eq!(error.to_string(), "the file has 4 bytes, too few for a safetensors header");
}

#[test]
fn a_header_that_is_no_json_or_of_another_form_says_where() {
    for (json, expected) in [
        ("{\"a\":", "EOF"),
        ("[1, 2]", "an object of tensors"),
        (r#"{"a":{"dtype":"F32","shape":[1]}}"#, "`a`: missing field `data_offsets`"),
        (r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#, "`a`: invalid value"),
        (r#"{"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}}"#, "`a`: invalid type"),
        (r#"{"__metadata__":{"n":1}}"#, "`__metadata__`: invalid type"),
    ] {
        let error = file(json, 0, 4).unwrap_err();
        assert!(matches!(error, HeaderError::Malformed { .. }), "{json}: {error:?}");
        assert!(error.to_string().contains(expected), "{json}: {error}");
    }
    let deep = "[".repeat(100_000);
    assert!(matches!(file(&deep, 0, 0), Err(HeaderError::Malformed { .. })));
}

#[test]
fn an_unknown_type_is_named() {
    let json = format!("{{{}}}", entry("a", "F17", "[4]", 0, 4));
    assert_eq!(fault(&json, 4), TensorFault::Dtype("F17".to_owned()));
    let error = file(&json, 0, 4).unwrap_err();
    assert_eq!(error.to_string(), "tensor `a` has the unknown type `F17`");
}

#[test]
fn a_length_that_does_not_fit_type_and_shape_is_caught() {
    let json = format!("{{{}}}", entry("a", "F16", "[4]", 0, 4));
    let error = file(&json, 0, 4).unwrap_err().to_string();
    assert_eq!(error, "tensor `a` has 4 bytes, but f16 of shape [4] takes 8");
    let json = format!("{{{}}}", entry("a", "F16", "[9223372036854775808,4]", 0, 4));
    assert!(matches!(fault(&json, 4), TensorFault::TooLarge(_)));
}

#[test]
fn a_truncated_file_names_the_tensor_that_runs_past_its_end() {
    let json =
        format!("{{{},{}}}", entry("whole", "U8", "[4]", 0, 4), entry("cut", "U8", "[4]", 4, 8));
    let error = file(&json, 0, 7).unwrap_err();
    let expected = "tensor `cut` ends at byte 8 of the data, but the file ends at byte 7";
    assert_eq!(error.to_string(), expected);
    assert_eq!(error.code(), Code(36));
    assert!(error.help().unwrap().contains("cut short"));
    let json = format!("{{{}}}", entry("far", "U8", "[4]", u64::MAX - 4, u64::MAX));
    assert!(matches!(fault(&json, 8), TensorFault::PastTheEnd { .. }));
}

#[test]
fn overlaps_gaps_and_bytes_left_over_are_caught() {
    let a = entry("a", "U8", "[4]", 0, 4);
    let overlap = format!("{{{a},{}}}", entry("b", "U8", "[4]", 2, 6));
    assert_eq!(fault(&overlap, 6), TensorFault::Overlap("a".to_owned()));
    let gap = format!("{{{a},{}}}", entry("b", "U8", "[4]", 6, 10));
    assert_eq!(fault(&gap, 10), TensorFault::Gap(2));
    let backwards = format!("{{{}}}", entry("b", "U8", "[4]", 4, 0));
    assert_eq!(fault(&backwards, 10), TensorFault::Backwards { start: 4, end: 0 });
    let error = file(&format!("{{{a}}}"), 0, 5).unwrap_err();
    assert!(matches!(error, HeaderError::LeftOver { bytes: 1, .. }));
}

#[test]
fn a_name_that_occurs_twice_is_caught() {
    let json = format!("{{{},{}}}", entry("a", "U8", "[4]", 0, 4), entry("a", "U8", "[4]", 4, 8));
    assert_eq!(fault(&json, 8), TensorFault::Twice);
}
