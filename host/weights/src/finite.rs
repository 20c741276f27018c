//! Nothing that is not finite passes.

use crate::{WeightError, cast};
use engraft_ir::DType;
use std::path::Path;

/// Checks elements of a tensor, of which the first has the number `first` in row-major order.
/// Elements that are no floating-point numbers pass.
///
/// # Errors
/// [`WeightError::NotFinite`] with the index of the first NaN or infinity; `file` is for that.
pub fn finite(
    tensor: &str,
    shape: &[u64],
    dtype: DType,
    first: u64,
    bytes: &[u8],
    file: &Path,
) -> Result<(), WeightError> {
    if !dtype.is_float() {
        return Ok(());
    }
    let Some(i) = cast::first_not_finite(bytes, dtype) else {
        return Ok(());
    };
    let width = dtype.size();
    Err(WeightError::NotFinite {
        tensor: tensor.to_owned(),
        index: multi_index(first + i as u64, shape),
        value: cast::value(&bytes[i * width..(i + 1) * width], dtype),
        file: file.to_owned(),
    })
}

/// The index of an element by its number in row-major order; the tensor is not empty.
pub(crate) fn multi_index(number: u64, shape: &[u64]) -> Vec<u64> {
    let mut left = number;
    let mut index: Vec<u64> = shape
        .iter()
        .rev()
        .map(|&size| {
            let i = left % size;
            left /= size;
            i
        })
        .collect();
    index.reverse();
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_an_index_of_every_axis() {
        assert_eq!(multi_index(17, &[2, 3, 4]), [1, 1, 1]);
        assert_eq!(multi_index(0, &[]), Vec::<u64>::new());
    }

    #[test]
    fn the_index_counts_from_the_tensors_beginning() {
        let bytes = [0x80, 0x3f, 0x80, 0x7f]; // 1 and inf
        let error = finite("t", &[3, 4], DType::BF16, 6, &bytes, Path::new("f")).unwrap_err();
        assert_eq!(error.to_string(), "`t`[1, 3] is inf");
        assert!(finite("t", &[3, 4], DType::U8, 6, &bytes, Path::new("f")).is_ok());
    }
}
