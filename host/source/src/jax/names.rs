//! From the paths of a tree of parameters to the names that plugins ask for.
//!
//! Flax's modules keep a linear layer as `kernel`, `[in, out]`, a norm's gain as `scale` and a
//! table as `embedding`; where a tree has such, its names and layouts become those of the same
//! model in PyTorch, as `transformers` does it: `weight` for all three, kernels transposed. Other
//! trees, which have none, keep their names but for levels that say nothing; what these mean is the
//! plugin's to say.

use std::collections::{BTreeMap, BTreeSet};

use super::JaxError;

/// The names of the same model in PyTorch.
pub(crate) const HUGGING_FACE: &str = "hugging-face";
/// The tree's own names.
pub(crate) const JAX: &str = "jax";

/// What training keeps beside the parameters, at the top of its state.
const TRAINING: [&str; 7] =
    ["opt_state", "optimizer", "optimizer_state", "state", "step", "rng", "rngs"];

/// A path as one name: levels are told apart by dots, however they were.
pub(crate) fn dotted(path: &str) -> String {
    let levels: Vec<&str> = path.split(['/', '.']).filter(|level| !level.is_empty()).collect();
    // Flax's NNX keeps what a variable holds one level below it.
    let levels = match levels.split_last() {
        Some((&"value", rest)) if !rest.is_empty() => rest,
        _ => &levels[..],
    };
    levels.join(".")
}

/// What a tree of arrays holds.
pub(crate) struct Parameters<T> {
    /// The parameters of the model, by what they are called below `params`.
    pub(crate) parameters: BTreeMap<String, T>,
    /// The branches that are left out as a state of training.
    pub(crate) training: Vec<String>,
}

/// Tells the parameters of a model from what training keeps beside them.
pub(crate) fn parameters<T>(tree: Vec<(String, T)>) -> Result<Parameters<T>, JaxError> {
    let (mut all, mut training) = (BTreeMap::new(), BTreeSet::new());
    for (path, array) in tree {
        let name = dotted(&path);
        if all.insert(name.clone(), array).is_some() {
            return Err(JaxError::Twice(name));
        }
    }
    // A state of training has its parameters in one branch; Flax has a level of that name itself.
    for branch in ["params.", "target.", "params."] {
        if !all.keys().any(|name| name.starts_with(branch)) {
            continue;
        }
        let mut below = BTreeMap::new();
        for (name, array) in std::mem::take(&mut all) {
            let name = match name.strip_prefix(branch) {
                Some(rest) => rest.to_owned(),
                None => match name.split('.').next() {
                    Some(top) if TRAINING.contains(&top) => {
                        training.insert(top.to_owned());
                        continue;
                    }
                    _ => name,
                },
            };
            if below.insert(name.clone(), array).is_some() {
                return Err(JaxError::Twice(name));
            }
        }
        all = below;
    }
    Ok(Parameters { parameters: all, training: training.into_iter().collect() })
}

/// Whose names these are.
pub(crate) fn dialect<'a>(mut names: impl Iterator<Item = &'a String>) -> &'static str {
    let flax = |name: &String| ["kernel", "weight"].contains(&last(name));
    if names.any(flax) { HUGGING_FACE } else { JAX }
}

/// Names without levels that say nothing: one at the top that all have, and `w` at the end, which
/// some writers give to an array that has no other name than its module's.
pub(crate) fn bare<T>(tree: BTreeMap<String, T>) -> Result<BTreeMap<String, T>, JaxError> {
    let top = |name: &str| name.split_once('.').map(|(top, _)| format!("{top}."));
    let shared = tree.keys().next().and_then(|name| top(name));
    let shared = shared.filter(|shared| tree.keys().all(|name| name.starts_with(shared.as_str())));
    let shared = shared.unwrap_or_default();
    let mut all = BTreeMap::new();
    for (name, array) in tree {
        let name = name.strip_prefix(&shared).unwrap_or(&name);
        let name = name.strip_suffix(".w").unwrap_or(name).to_owned();
        if all.insert(name.clone(), array).is_some() {
            return Err(JaxError::Twice(name));
        }
    }
    Ok(all)
}

/// What an array of `rank` axes is called in PyTorch, and the order of its axes there.
pub(crate) fn in_pytorch(name: &str, rank: usize) -> (String, Vec<usize>) {
    let order = match (last(name), rank) {
        // A convolution: height, width, in, out.
        ("kernel", 4) => vec![3, 2, 0, 1],
        ("kernel", _) => (0..rank).rev().collect(),
        _ => (0..rank).collect(),
    };
    let name = match last(name) {
        kind @ ("kernel" | "embedding" | "scale") => {
            format!("{}weight", &name[..name.len() - kind.len()])
        }
        _ => name.to_owned(),
    };
    (name, order)
}

fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(paths: &[&str]) -> Result<Vec<String>, JaxError> {
        let tree = paths.iter().map(|path| ((*path).to_owned(), ())).collect();
        Ok(parameters(tree)?.parameters.into_keys().collect())
    }

    #[test]
    fn parameters_are_found_in_whatever_holds_them() {
        assert_eq!(
            names(&["model/norm/weight", "lm_head/kernel"]).unwrap(),
            ["lm_head.kernel", "model.norm.weight"]
        );
        assert_eq!(
            names(&["params.params.a.kernel", "params.params.b"]).unwrap(),
            ["a.kernel", "b"]
        );
        let state = ["step", "opt_state.0.mu.params.a", "params.transformer/layer_0.w", "other"];
        assert_eq!(names(&state).unwrap(), ["other", "transformer.layer_0.w"]);
        let tree = state.map(|path| (path.to_owned(), ())).to_vec();
        assert_eq!(parameters(tree).unwrap().training, ["opt_state", "step"]);
        assert_eq!(names(&["target.a.w", "state.step"]).unwrap(), ["a.w"]);
        assert_eq!(names(&["a.kernel.value", "value"]).unwrap(), ["a.kernel", "value"]);
        assert_eq!(names(&["a/b", "a.b"]), Err(JaxError::Twice("a.b".into())));
        assert_eq!(names(&["params.a", "a"]), Err(JaxError::Twice("a".into())));
    }

    #[test]
    fn flax_names_become_pytorchs() {
        let of = |name, rank| in_pytorch(name, rank);
        assert_eq!(of("h.0.attn.c_attn.kernel", 2), ("h.0.attn.c_attn.weight".into(), vec![1, 0]));
        assert_eq!(of("conv.kernel", 4), ("conv.weight".into(), vec![3, 2, 0, 1]));
        assert_eq!(of("conv.kernel", 3), ("conv.weight".into(), vec![2, 1, 0]));
        assert_eq!(of("wte.embedding", 2), ("wte.weight".into(), vec![0, 1]));
        assert_eq!(of("ln_f.scale", 1), ("ln_f.weight".into(), vec![0]));
        assert_eq!(of("ln_f.bias", 1), ("ln_f.bias".into(), vec![0]));
        assert_eq!(of("norm.upscale", 1), ("norm.upscale".into(), vec![0]));
        assert_eq!(of("kernel", 2), ("weight".into(), vec![1, 0]));
    }

    #[test]
    fn levels_that_say_nothing_are_left_out() {
        let of = |paths: &[&str]| {
            let tree = paths.iter().map(|path| ((*path).to_owned(), ())).collect();
            bare(tree).map(|tree| tree.into_keys().collect::<Vec<_>>())
        };
        assert_eq!(of(&["t.a.w", "t.b.scale", "t.c"]).unwrap(), ["a", "b.scale", "c"]);
        assert_eq!(of(&["t.a.w", "u.b"]).unwrap(), ["t.a", "u.b"]);
        assert_eq!(of(&["w"]).unwrap(), ["w"]);
        assert_eq!(of(&["t.a.w", "t.a"]), Err(JaxError::Twice("a".into())));
    }

    #[test]
    fn a_tree_without_kernels_keeps_its_names() {
        let of = |names: &[&str]| {
            dialect(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>().iter())
        };
        assert_eq!(of(&["a.scale", "b.kernel"]), HUGGING_FACE);
        assert_eq!(of(&["a.scale", "b.w", "c.gating_einsum"]), JAX);
    }
}
