//! Providers in memory.

use engraft_files::FileError;
use engraft_ir::{Axis, DType, Meaning};
use engraft_weights::{Provider, Supply, WeightError};

/// One weight, `x.weight`, of `f32`, handed out three bytes at a time.
pub(crate) struct Lone {
    names: Vec<String>,
    supply: Supply,
    bytes: Vec<u8>,
}

impl Lone {
    pub(crate) fn new(shape: &[u64], values: &[f32]) -> Lone {
        let axes = shape.iter().map(|&n| Axis::new(n, Meaning::Plain)).collect();
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let supply = Supply { dtype: DType::F32, axes, tied: None };
        Lone { names: vec!["x.weight".to_owned()], supply, bytes }
    }
}

impl Provider for Lone {
    fn names(&self) -> &[String] {
        &self.names
    }

    fn get(&self, name: &str) -> Option<&Supply> {
        (self.names[0] == name).then_some(&self.supply)
    }

    fn stream(
        &self,
        _: &str,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), FileError>,
    ) -> Result<(), WeightError> {
        Ok(self.bytes.chunks(3).try_for_each(sink)?)
    }
}

/// All bytes of a tensor, as many as its supply says.
pub(crate) fn of(provider: &dyn Provider, name: &str) -> Vec<u8> {
    let mut all = Vec::new();
    provider
        .stream(name, &mut |bytes| {
            all.extend_from_slice(bytes);
            Ok(())
        })
        .unwrap();
    assert_eq!(all.len() as u64, provider.get(name).unwrap().bytes());
    all
}
