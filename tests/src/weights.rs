//! Weights in memory, to be changed and written anew.

use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::BTreeMap;
use std::path::Path;

/// A tensor by itself.
#[derive(Clone)]
pub struct Tensor {
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its extents, outermost first.
    pub shape: Vec<usize>,
    /// Its elements, little-endian.
    pub bytes: Vec<u8>,
}

/// Tensors by their names.
pub type Tensors = BTreeMap<String, Tensor>;

impl Tensor {
    /// One of `F32`.
    pub fn floats(shape: &[usize], values: &[f32]) -> Tensor {
        assert_eq!(shape.iter().product::<usize>(), values.len());
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Tensor { dtype: Dtype::F32, shape: shape.to_vec(), bytes }
    }

    /// One of `F16`, rounded to it.
    pub fn halves(shape: &[usize], values: &[f32]) -> Tensor {
        assert_eq!(shape.iter().product::<usize>(), values.len());
        let bytes = values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect();
        Tensor { dtype: Dtype::F16, shape: shape.to_vec(), bytes }
    }

    /// One of `I32`.
    pub fn integers(shape: &[usize], values: &[u32]) -> Tensor {
        assert_eq!(shape.iter().product::<usize>(), values.len());
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Tensor { dtype: Dtype::I32, shape: shape.to_vec(), bytes }
    }

    /// Its values, of a floating-point type.
    pub fn values(&self) -> Vec<f32> {
        let pairs = || self.bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
        match self.dtype {
            Dtype::F32 => crate::floats(&self.bytes),
            Dtype::F16 => pairs().map(|b| f16::from_le_bytes(b).to_f32()).collect(),
            Dtype::BF16 => pairs().map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
            other => panic!("{other:?} is no floating-point type"),
        }
    }
}

/// All tensors of a file.
pub fn read(path: &Path) -> Tensors {
    let bytes = std::fs::read(path).expect("readable");
    let own = |view: &TensorView| Tensor {
        dtype: view.dtype(),
        shape: view.shape().to_vec(),
        bytes: view.data().to_vec(),
    };
    let all = SafeTensors::deserialize(&bytes).expect("safetensors");
    all.iter().map(|(name, view)| (name.to_owned(), own(&view))).collect()
}

/// Makes a file of tensors.
pub fn write(path: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, tensor)| {
        let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes);
        (name.as_str(), view.expect("fits"))
    });
    safetensors::serialize_to_file(views, None, path).expect("writable");
}

/// Numbers between -1 and 1, the same for the same seed.
pub fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}
