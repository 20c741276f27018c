//! Weights small enough to unpack by hand, out of memory.

use super::*;
use crate::Scheme;

/// Tensors in memory, handed out two bytes at a time.
struct Memory {
    names: Vec<String>,
    tensors: BTreeMap<String, (Supply, Vec<u8>)>,
}

impl Memory {
    fn new(tensors: &[(&str, DType, &[u64], Vec<u8>)]) -> Memory {
        let of = |(name, dtype, shape, bytes): &(&str, DType, &[u64], Vec<u8>)| {
            let axes = shape.iter().map(|&n| Axis::new(n, Meaning::Plain)).collect();
            ((*name).to_owned(), (Supply { dtype: *dtype, axes, tied: None }, bytes.clone()))
        };
        let names = tensors.iter().map(|(name, ..)| (*name).to_owned()).collect();
        Memory { names, tensors: tensors.iter().map(of).collect() }
    }
}

impl Provider for Memory {
    fn names(&self) -> &[String] {
        &self.names
    }

    fn get(&self, name: &str) -> Option<&Supply> {
        self.tensors.get(name).map(|(supply, _)| supply)
    }

    fn stream(
        &self,
        name: &str,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), FileError>,
    ) -> Result<(), WeightError> {
        let parameter = name.to_owned();
        let found = self.tensors.get(name).ok_or(WeightError::Unknown { parameter })?;
        found.1.chunks(2).try_for_each(sink)?;
        Ok(())
    }
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

const SCHEME: Scheme = Scheme { group: 2, input_scales: true };

/// `[2, 4]`: codes 1 2 3 4 and -1 -2 -3 -8.
fn memory(scale: f32) -> Memory {
    Memory::new(&[
        ("x.weight", DType::I8, &[1, 4], codes::pack(&[1, 2, 3, 4], &[-1, -2, -3, -8])),
        ("x.weights_scaling_factor", DType::F32, &[2, 2], floats(&[scale, 1.0, 2.0, 4.0])),
        ("x.prequant_scaling_factor", DType::F16, &[4], vec![0, 0x3c, 0, 0x40, 0, 0x3c, 0, 0x38]),
        ("n.weight", DType::F32, &[1], floats(&[9.0])),
    ])
}

fn stored() -> Stored {
    let weights = [("x.weight".to_owned(), vec![2, 4]), ("n.weight".to_owned(), vec![1])];
    Stored::new(SCHEME, &weights, &|name| name == "x.weight").unwrap()
}

fn read(from: &Floats<'_>, name: &str) -> Result<Vec<u8>, WeightError> {
    let mut all = Vec::new();
    from.stream(name, &mut |piece| {
        all.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(all)
}

#[test]
fn a_weight_by_hand() {
    let (memory, stored) = (memory(0.5), stored());
    let all = Floats::new(&memory, &stored, DType::F32).unwrap();
    assert_eq!(all.names(), ["x.weight", "n.weight"], "scales are no weights");
    // The inputs' scales are 1, 2, 1 and a half.
    let expected = [0.5, 2.0, 3.0, 2.0, -2.0, -8.0, -12.0, -16.0];
    assert_eq!(read(&all, "x.weight").unwrap(), floats(&expected));
    assert_eq!(all.get("x.weight").unwrap().shape(), [2, 4]);
    assert_eq!(read(&all, "n.weight").unwrap(), floats(&[9.0]));
    let halves = Floats::new(&memory, &stored, DType::BF16).unwrap();
    assert_eq!(read(&halves, "x.weight").unwrap()[..4], [0x00, 0x3f, 0x00, 0x40]);
}

#[test]
fn what_a_type_cannot_hold_is_told_by_its_index() {
    let (memory, stored) = (memory(60000.0), stored());
    let all = Floats::new(&memory, &stored, DType::F16).unwrap();
    match read(&all, "x.weight").unwrap_err() {
        WeightError::TooLarge { index, value, .. } => {
            assert_eq!((index, value), (vec![0, 1], 240000.0))
        }
        other => panic!("{other}"),
    }
}

#[test]
fn all_misfits_are_told_at_once() {
    let broken = Memory::new(&[
        ("x.weight", DType::F32, &[1, 4], Vec::new()),
        ("x.weights_scaling_factor", DType::F32, &[2, 3], Vec::new()),
        ("n.weight", DType::I8, &[1], Vec::new()),
    ]);
    let error = Floats::new(&broken, &stored(), DType::F32).map(drop).unwrap_err().to_string();
    for word in [
        "4 of the tensors",
        "`x.weight` holds f32, and no codes",
        "`x.weights_scaling_factor` is [2, 3], not [2, 2]",
        "`x.prequant_scaling_factor` [4] is missing",
        "`n.weight` holds i8, and no floats",
    ] {
        assert!(error.contains(word), "no `{word}` in: {error}");
    }
}
