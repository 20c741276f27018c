//! Layers small enough to unpack by hand, and layers that do not hold together.

use engraft_diagnostic::Diagnostic;
use engraft_files::SafetensorsWriter;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::Source;

/// A tensor's name, type, extents and bytes.
type Tensor = (&'static str, DType, Vec<u64>, Vec<u8>);

fn words(name: &'static str, shape: [u64; 2], words: &[u32]) -> Tensor {
    (name, DType::I32, shape.to_vec(), words.iter().flat_map(|word| word.to_le_bytes()).collect())
}

fn scales(shape: [u64; 2], scales: &[f32]) -> Tensor {
    let bytes = scales.iter().flat_map(|scale| half::f16::from_f32(*scale).to_le_bytes());
    ("x.scales", DType::F16, shape.to_vec(), bytes.collect())
}

fn order(groups: &[i32]) -> Tensor {
    let bytes = groups.iter().flat_map(|group| group.to_le_bytes()).collect();
    ("x.g_idx", DType::I32, vec![groups.len() as u64], bytes)
}

fn model(section: &Value, tensors: &[Tensor]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let config = json!({"torch_dtype": "float16", KEY: section});
    std::fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
    let path = directory.path().join("model.safetensors");
    let declared = tensors
        .iter()
        .map(|(name, dtype, shape, _)| ((*name).to_owned(), *dtype, shape.clone()))
        .collect();
    let writer = SafetensorsWriter::create(&path, BTreeMap::new(), declared, 1).unwrap();
    for (name, _, _, bytes) in tensors {
        writer.put(name, bytes).unwrap();
    }
    writer.finish().unwrap();
    directory
}

fn weights(section: &Value, tensors: &[Tensor], rows: Range<u64>) -> Vec<f32> {
    let directory = model(section, tensors);
    let source = Source::open(directory.path()).unwrap();
    assert_eq!(source.tensors().keys().collect::<Vec<_>>(), ["x.weight"]);
    assert_eq!(source.dtype(), DType::F16);
    assert!(source.ignorable_keys().contains(&KEY), "it is read here");
    let mut bytes = Vec::new();
    source.read("x.weight", rows, &mut bytes).unwrap();
    crate::lora::floats(&bytes, DType::F32)
}

fn awq() -> Value {
    json!({"quant_method": "awq", "bits": 4, "group_size": 1, "version": "gemm", "zero_point": true})
}

/// Two inputs, each a group, and eight outputs: codes `0 1 … 7` and `7 6 … 0`.
fn awq_tensors() -> [Tensor; 3] {
    [
        words("x.qweight", [2, 1], &[0x7531_6420, 0x0246_1357]),
        words("x.qzeros", [2, 1], &[0x1111_1111, 0x7531_6420]),
        scales(
            [2, 8],
            &[0.5, 0.5, 0.5, 0.5, 1.0, 1.0, 1.0, 2.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0],
        ),
    ]
}

#[test]
fn awq_by_hand() {
    let all = weights(&awq(), &awq_tensors(), 0..8);
    let expected: [[f32; 2]; 8] = [
        [-0.5, 21.0],
        [0.0, 15.0],
        [0.5, 9.0],
        [1.0, 3.0],
        [3.0, -3.0],
        [4.0, -9.0],
        [5.0, -15.0],
        [12.0, -21.0],
    ];
    assert_eq!(all, expected.as_flattened());
    assert_eq!(weights(&awq(), &awq_tensors(), 3..5), expected[3..5].as_flattened());
}

fn gptq(changes: Value) -> Value {
    let mut section =
        json!({"quant_method": "gptq", "bits": 4, "group_size": 4, "desc_act": false});
    section.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    section
}

/// Eight inputs in two groups and two outputs: codes `0 1 … 7` and `15 15 …`.
fn gptq_tensors() -> [Tensor; 3] {
    [
        words("x.qweight", [1, 2], &[0x7654_3210, 0xffff_ffff]),
        words("x.qzeros", [2, 1], &[0x37, 0x0f]),
        scales([2, 2], &[0.5, 2.0, 1.0, 0.25]),
    ]
}

#[test]
fn gptq_by_hand() {
    let first = [-4.0, -3.5, -3.0, -2.5, -12.0, -11.0, -10.0, -9.0];
    let second = [22.0, 22.0, 22.0, 22.0, 3.5, 3.5, 3.5, 3.5];
    let all = weights(&gptq(json!({})), &gptq_tensors(), 0..2);
    assert_eq!(all, [first, second].as_flattened(), "zero points are stored less one: 8 4, 16 1");
    let first = [-3.5, -3.0, -2.5, -2.0, -11.0, -10.0, -9.0, -8.0];
    let v2 = gptq(json!({"checkpoint_format": "gptq_v2"}));
    assert_eq!(weights(&v2, &gptq_tensors(), 0..1), first, "zero points are 7 3, 15 0");
}

#[test]
fn inputs_are_of_the_groups_that_act_order_puts_them_into() {
    let [codes, zeros, scales] = gptq_tensors();
    let tensors = [codes, zeros, scales, order(&[1, 0, 1, 0, 1, 0, 1, 0])];
    let got = weights(&gptq(json!({"desc_act": true})), &tensors, 0..1);
    assert_eq!(got, [-16.0, -3.5, -14.0, -2.5, -12.0, -1.5, -10.0, -0.5]);
}

#[test]
fn eight_bits_are_four_to_a_word() {
    let tensors = [
        words("x.qweight", [1, 2], &[0xff80_0100, 0]),
        words("x.qzeros", [1, 1], &[0x017f]),
        scales([1, 2], &[1.0, 0.5]),
    ];
    let section = gptq(json!({"bits": 8, "group_size": -1}));
    let all = weights(&section, &tensors, 0..2);
    assert_eq!(all, [-128.0, -127.0, 0.0, 127.0, -1.0, -1.0, -1.0, -1.0]);
}

#[test]
fn pieces_of_a_layer_are_read_from_what_is_held() {
    let directory = model(&awq(), &awq_tensors());
    let source = Source::open(directory.path()).unwrap();
    let mut bytes = Vec::new();
    for row in 0..8 {
        source.read("x.weight", row..row + 1, &mut bytes).unwrap();
        let held = source.packed.as_ref().unwrap().held.lock().unwrap().len();
        assert_eq!(held, usize::from(row < 7), "and let go with the last");
    }
    assert_eq!(crate::lora::floats(&bytes, DType::F32), weights(&awq(), &awq_tensors(), 0..8));
    assert_eq!(source.packed().unwrap(), "1 weight of AWQ 4 bits, groups of 1");
}

fn refused(section: &Value, tensors: &[Tensor], code: u16, word: &str) {
    let directory = model(section, tensors);
    let read = |source: Source| source.read("x.weight", 0..1, &mut Vec::new());
    let error = Source::open(directory.path()).and_then(read).unwrap_err();
    assert_eq!(error.code().0, code, "{error}");
    assert!(error.help().is_some() && error.location().is_some());
    assert!(error.to_string().contains(word), "no `{word}` in: {error}");
}

#[test]
fn other_packings_are_turned_down() {
    for (section, code, word) in [
        (
            json!({"quant_method": "awq", "bits": 4, "group_size": 1, "version": "gemv"}),
            180,
            "gemv",
        ),
        (json!({"quant_method": "awq", "bits": 3, "group_size": 1}), 180, "3 bits"),
        (json!({"quant_method": "awq", "group_size": 1}), 105, "quantization_config.bits"),
        (json!({"quant_method": "awq", "bits": 4}), 105, "group_size"),
        (json!({"quant_method": "awq", "bits": 4, "group_size": 0}), 105, "group_size"),
        (json!({"quant_method": 1}), 105, "quant_method"),
        (gptq(json!({"bits": 2})), 180, "2 bits"),
        (gptq(json!({"is_marlin_format": true})), 180, "marlin"),
        (gptq(json!({"checkpoint_format": "bitblas"})), 180, "bitblas"),
    ] {
        refused(&section, &awq_tensors(), code, word);
    }
    // A packing that is not ours to read is not looked at.
    let directory = model(&json!({"quant_method": "other"}), &awq_tensors());
    let source = Source::open(directory.path()).unwrap();
    assert!(source.tensors().contains_key("x.qweight") && source.packed().is_none());
    assert!(!source.ignorable_keys().contains(&KEY));
}

#[test]
fn layers_that_do_not_hold_together_are_told_by_their_tensor() {
    let [codes, zeros, steps] = awq_tensors();
    let all = [codes.clone(), zeros.clone(), steps.clone()];
    let cases: [(&[Tensor], &str); 8] = [
        (&all[..2], "it has no scales"),
        (&[codes.clone(), steps.clone()], "it has no qzeros"),
        (&[codes.clone(), zeros.clone(), scales([1, 8], &[1.0; 8])], "should be [2, 8]"),
        (&[codes.clone(), words("x.qzeros", [1, 1], &[0]), steps.clone()], "qzeros are [1, 1]"),
        (&[all.as_slice(), &[order(&[0])]].concat(), "g_idx is [1]"),
        (&[all.as_slice(), &[words("x.weight", [1, 1], &[0])]].concat(), "beside its qweight"),
        (&[words("x.qweight", [0, 1], &[]), zeros.clone(), steps.clone()], "no layer's"),
        (&[("x.qweight", DType::U8, vec![8], vec![0; 8]), zeros, steps], "a matrix of I32"),
    ];
    for (tensors, word) in cases {
        refused(&awq(), tensors, 181, word);
    }
    for group in [-1, 2] {
        let [codes, zeros, steps] = gptq_tensors();
        let tensors = [codes, zeros, steps, order(&[0, 0, 0, 1, 1, 1, 1, group])];
        refused(&gptq(json!({})), &tensors, 182, &format!("input 7 into group {group}"));
    }
}
