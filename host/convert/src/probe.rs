//! The beginning of a model as an engine of its own, to see what a block takes.

use crate::{ConvertError, Pipeline};
use engraft_compile::{BuildOptions, Built, Part};
use engraft_files::FileError;
use engraft_ir::{Graph, PlaceKind, parse};
use engraft_weights::{Effort, Provider, Supply, WeightError};
use serde_json::json;
use std::path::Path;

impl Pipeline {
    /// Compiles the embedding and the first `blocks` blocks. What the next block would take first
    /// comes out where a model's logits do. `None` where that is nothing that can come out: a
    /// value without a width.
    ///
    /// # Errors
    /// As [`Pipeline::compile`].
    pub fn compile_beginning(
        &self,
        blocks: u32,
        build: BuildOptions,
        directory: &Path,
    ) -> Result<Option<Built>, ConvertError> {
        let Some(graph) = beginning(self.graph(), blocks) else { return Ok(None) };
        let plan = self.plan()?;
        let names = graph.weights.values().map(|weight| weight.name.clone()).collect();
        Ok(Some(engraft_compile::build(engraft_compile::Input {
            parts: vec![Part::whole(graph)],
            provider: &Few { plan: &plan, names },
            config: self.config(),
            build,
            provenance: &json!({}),
            text_files: &Default::default(),
            directory,
            effort: Effort::default(),
        })?))
    }
}

/// The graph's text up to a place, closed by a head that hands on what the place does.
fn beginning(graph: &Graph, blocks: u32) -> Option<Graph> {
    let text = graph.to_string();
    let first = format!("\nplace {} {{\n", PlaceKind::Block(blocks));
    let head = format!("\nplace {} {{\n", PlaceKind::Head);
    let end = text.find(&first).or_else(|| text.find(&head))?;
    let place = graph.places.values().nth(blocks as usize)?;
    let value = place.carry.first()?;
    let cut = parse(&format!("{}{head}    return {value}\n}}\n", &text[..end])).ok()?;
    engraft_ir::verify(&cut).is_ok().then_some(cut)
}

/// Some of the parameters of a plan.
struct Few<'a> {
    plan: &'a dyn Provider,
    names: Vec<String>,
}

impl Provider for Few<'_> {
    fn names(&self) -> &[String] {
        &self.names
    }

    fn get(&self, name: &str) -> Option<&Supply> {
        self.plan.get(name)
    }

    fn held(&self, name: &str) -> u64 {
        self.plan.held(name)
    }

    fn stream(
        &self,
        name: &str,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), FileError>,
    ) -> Result<(), WeightError> {
        self.plan.stream(name, sink)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"graph 1
place embed {
    w0 = weight "e" f32 [10 vocabulary, 8]
    v0 = tokens
    v1 = embedding v0, w0
    return v1
}
place block 0 {
    w1 = weight "n" f32 [8]
    v2 = rms_norm v1, w1, epsilon=1e-5
    return v2
}
place head {
    w2 = weight "h" f32 [10 vocabulary, 8]
    v3 = linear v2, w2
    return v3
}
"#;

    #[test]
    fn a_beginning_ends_with_what_the_next_block_takes_and_has_no_other_weights() {
        let graph = parse(TEXT).unwrap();
        let embed = beginning(&graph, 0).unwrap();
        assert_eq!((embed.places.len(), embed.weights.len()), (2, 1));
        let all = beginning(&graph, 1).unwrap();
        assert_eq!((all.places.len(), all.weights.len()), (3, 2));
        let out = all.output().unwrap();
        assert_eq!(all.values[out].ty.width, Some(8));
        assert!(beginning(&graph, 3).is_none());
    }
}
