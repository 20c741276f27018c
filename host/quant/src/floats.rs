//! What the tensors of a quantised weight stand for.

use engraft_ir::{CodeKind, DType};
use engraft_kernels_cpu::fp8;

use crate::rounded::widen;
use crate::{Coded, Grouping, Role, codes};

/// The numbers that a weight's tensors stand for, each what it is of with its type and its
/// elements: `(code − zero) · scale · input_scale`.
///
/// Elements that are not there count as 0.
pub fn weights(coded: &Coded, tensors: &[(Role, DType, Vec<u8>)]) -> Vec<f32> {
    let find = |role: Role| tensors.iter().find(|(found, ..)| *found == role);
    let numbers = |role: Role| -> Vec<f32> {
        find(role).map(|(_, dtype, bytes)| widened(bytes, *dtype)).unwrap_or_default()
    };
    let columns = coded.shape.last().copied().unwrap_or(1).max(1) as usize;
    let rows = coded.shape.iter().product::<u64>() as usize / columns;
    let bytes = find(Role::Codes).map(|(_, _, bytes)| bytes.as_slice()).unwrap_or_default();
    let (scales, zeros) = (numbers(Role::Scales), numbers(Role::Zeros));
    let (index, inputs) = (numbers(Role::GroupIndex), numbers(Role::InputScales));
    let groups = match coded.scheme.grouping {
        Grouping::Group(size) => columns / (size as usize).max(1),
        Grouping::Tensor | Grouping::Row => 1,
    };
    let rows_of_scale = match coded.scheme.grouping {
        Grouping::Tensor => rows / scales.len().max(1),
        Grouping::Row | Grouping::Group(_) => 1,
    };
    // Lists and scales of inputs are for all rows, or for those of each matrix.
    let of = |list: &[f32], row: usize, column: usize, other: f32| {
        let matrices = (list.len() / columns).max(1);
        let matrix = row / (rows / matrices).max(1);
        list.get(matrix * columns + column).copied().unwrap_or(other)
    };
    let mut all = Vec::with_capacity(rows * columns);
    for row in 0..rows {
        for column in 0..columns {
            let code = match coded.scheme.kind {
                CodeKind::Int4 => {
                    let byte = bytes.get(row / 2 * columns + column).copied().unwrap_or(0);
                    let (even, odd) = codes::unpack(byte);
                    f32::from(if row % 2 == 0 { even } else { odd })
                }
                CodeKind::Int8 => {
                    f32::from(bytes.get(row * columns + column).copied().unwrap_or(0) as i8)
                }
                CodeKind::Fp8 => {
                    fp8::decode(bytes.get(row * columns + column).copied().unwrap_or(0))
                }
            };
            let neighbour = (column * groups / columns) as f32;
            let group = of(&index, row, column, neighbour) as usize;
            let at = row / rows_of_scale.max(1) * groups + group;
            let scale = scales.get(at).copied().unwrap_or(0.0);
            let zero = zeros.get(at).copied().unwrap_or(0.0);
            all.push((code - zero) * scale * of(&inputs, row, column, 1.0));
        }
    }
    all
}

/// Elements as `f32`: floats, and integers that are small enough.
fn widened(bytes: &[u8], dtype: DType) -> Vec<f32> {
    match dtype {
        DType::I16 => {
            bytes.as_chunks::<2>().0.iter().map(|&b| f32::from(i16::from_le_bytes(b))).collect()
        }
        DType::I32 => {
            bytes.as_chunks::<4>().0.iter().map(|&b| i32::from_le_bytes(b) as f32).collect()
        }
        _ => {
            let mut floats = Vec::new();
            widen(bytes, dtype, &mut floats);
            floats
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scheme;

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn codes_by_hand() {
        let scheme = Scheme::from_name("W4A16_GPTQ").unwrap();
        let scheme =
            Scheme { grouping: Grouping::Group(1), zeros: true, input_scales: true, ..scheme };
        let mut coded = Coded { scheme, shape: vec![2, 2] };
        let mut tensors = vec![
            (Role::Codes, DType::I8, codes::pack(&[1, 2], &[-3, -8])),
            (Role::Scales, DType::F32, floats(&[1.0, 0.5, 2.0, 4.0])),
            (
                Role::Zeros,
                DType::I16,
                [0i16, 1, -1, 0].iter().flat_map(|z| z.to_le_bytes()).collect(),
            ),
            (Role::InputScales, DType::F32, floats(&[1.0, 10.0])),
        ];
        assert_eq!(weights(&coded, &tensors), [1.0, 5.0, -4.0, -320.0]);
        // The other way round: the first input is of the second group.
        coded.scheme.group_index = true;
        let index = [1i32, 0].iter().flat_map(|group| group.to_le_bytes()).collect();
        tensors.push((Role::GroupIndex, DType::I32, index));
        assert_eq!(weights(&coded, &tensors), [0.0, 20.0, -12.0, -140.0]);
    }

    #[test]
    fn one_scale_is_for_a_matrix_and_one_for_each_of_several() {
        let scheme = Scheme::from_name("FP8").unwrap();
        let coded = Coded { scheme, shape: vec![2, 1, 2] };
        let tensors = [
            (Role::Codes, DType::F8E4M3, vec![0x38, 0xb8, 0x40, 0]),
            (Role::Scales, DType::F32, floats(&[3.0, 5.0])),
        ];
        assert_eq!(weights(&coded, &tensors), [3.0, -3.0, 10.0, 0.0]);
    }
}
