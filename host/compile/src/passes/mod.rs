//! What is done to a graph between the plugin and the engine: one pass a file, each with its
//! before → after.
//!
//! A pass rewrites nodes where they stand and takes what it made needless off its place's list;
//! [`run`] then drops it, numbers everything densely and verifies. Fusing never changes a
//! result by a bit: the fused operation does the same sums in the same order, and saves a trip
//! through memory and a meeting of all threads.

mod fuse_gate;
mod fuse_residual_norm;
mod fuse_rotary;
mod gather_outputs;

#[cfg(test)]
mod tests;

use crate::error::CompileError;
use cranelift_entity::SecondaryMap;
use engraft_ir::{Graph, Node, Place, TypeError, verify};

/// A rewriting of a graph.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// Its name, in errors and filetests: that of its file.
    pub name: &'static str,
    rewrite: fn(&mut Graph) -> Result<(), TypeError>,
}

/// Every pass, in the order in which [`run`] takes them.
pub const ALL: [Pass; 4] = [
    Pass { name: "gather_outputs", rewrite: gather_outputs::run },
    Pass { name: "fuse_residual_norm", rewrite: fuse_residual_norm::run },
    Pass { name: "fuse_gate", rewrite: fuse_gate::run },
    Pass { name: "fuse_rotary", rewrite: fuse_rotary::run },
];

impl Pass {
    /// Runs it over a graph that verifies.
    ///
    /// # Errors
    /// What it made does not verify; this is our own fault.
    pub fn run(&self, mut graph: Graph) -> Result<Graph, CompileError> {
        let name = self.name;
        (self.rewrite)(&mut graph).map_err(|source| CompileError::Pass { name, source })?;
        let graph = graph.renumber();
        verify(&graph).map_err(|errors| CompileError::Broken { name, errors })?;
        Ok(graph)
    }
}

/// Runs all of them over a graph that verifies.
///
/// # Errors
/// As [`Pass::run`].
pub fn run(graph: Graph) -> Result<Graph, CompileError> {
    ALL.iter().try_fold(graph, |graph, pass| pass.run(graph))
}

/// The pass with this name.
pub fn by_name(name: &str) -> Option<Pass> {
    ALL.into_iter().find(|pass| pass.name == name)
}

/// Which place runs a node, for all that are run.
fn places(graph: &Graph) -> SecondaryMap<Node, Option<Place>> {
    let mut places = SecondaryMap::with_capacity(graph.nodes.len());
    for (place, node) in graph.schedule() {
        places[node] = Some(place);
    }
    places
}

/// Takes nodes off the lists of their places.
fn drop_nodes(graph: &mut Graph, dropped: &SecondaryMap<Node, bool>) {
    for place in graph.places.values_mut() {
        place.nodes.retain(|&node| !dropped[node]);
    }
}
