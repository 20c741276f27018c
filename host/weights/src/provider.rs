//! Whoever has the parameters of a model: a plan over a source, or a checkpoint.

use crate::WeightError;
use engraft_files::FileError;
use engraft_ir::{Axis, DType};

/// What a provider hands out under one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Supply {
    /// The elements as streamed.
    pub dtype: DType,
    /// Outermost first. A checkpoint knows lengths only, so its axes are all plain.
    pub axes: Vec<Axis>,
    /// The parameter with the very same bytes, where there is one; it is not tied itself.
    pub tied: Option<String>,
}

impl Supply {
    /// Its lengths, outermost first.
    pub fn shape(&self) -> Vec<u64> {
        self.axes.iter().map(Axis::size).collect()
    }

    /// How many bytes its stream has; saturates.
    pub fn bytes(&self) -> u64 {
        self.shape().iter().fold(self.dtype.size() as u64, |n, &d| n.saturating_mul(d))
    }
}

/// The parameters of a model by their names in the checkpoint. Several are streamed at a time.
pub trait Provider: Sync {
    /// All names, in the order of places: embedding, blocks, head.
    fn names(&self) -> &[String];

    /// What there is under a name.
    fn get(&self, name: &str) -> Option<&Supply>;

    /// About how many bytes a stream of it holds at a time; for what is not tied.
    fn held(&self, name: &str) -> u64 {
        self.get(name).map_or(0, |supply| supply.bytes().min(16 << 20))
    }

    /// Hands the bytes of a parameter to `sink`, piece after piece, row-major and
    /// little-endian. A tied parameter gives the bytes of what it is tied to. Stops at the
    /// first error, that of `sink` included, and at an interrupt.
    fn stream(
        &self,
        name: &str,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), FileError>,
    ) -> Result<(), WeightError>;
}
