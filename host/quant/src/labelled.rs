//! Codes whose tensors say that they are plain bytes, under the type that they are of.

use std::collections::BTreeMap;

use engraft_files::FileError;
use engraft_weights::{Provider, Supply, WeightError};

use crate::Stored;

/// Provides the tensors of quantised weights, codes under the type of their kind.
pub struct Labelled<'a> {
    inner: &'a dyn Provider,
    codes: BTreeMap<String, Supply>,
}

impl<'a> Labelled<'a> {
    /// The tensors of `inner`, which are `stored`, and whose codes may be `I8` or `U8` whatever
    /// they are.
    pub fn new(inner: &'a dyn Provider, stored: &Stored) -> Labelled<'a> {
        let label = |(name, coded): (&str, &crate::Coded)| {
            let supply = inner.get(name)?.clone();
            Some((name.to_owned(), Supply { dtype: coded.scheme.kind.dtype(), ..supply }))
        };
        Labelled { inner, codes: stored.weights().filter_map(label).collect() }
    }
}

impl Provider for Labelled<'_> {
    fn names(&self) -> &[String] {
        self.inner.names()
    }

    fn get(&self, name: &str) -> Option<&Supply> {
        self.codes.get(name).or_else(|| self.inner.get(name))
    }

    fn held(&self, name: &str) -> u64 {
        self.inner.held(name)
    }

    fn stream(
        &self,
        name: &str,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), FileError>,
    ) -> Result<(), WeightError> {
        self.inner.stream(name, sink)
    }
}
