//! What a tensor's shape goes through on its way into a parameter, for people to read.

use crate::origin::Part;
use crate::steps::apply;

/// The shape of a part's tensor in the source, and then after each of its steps; ends early where
/// there is no such tensor, or a step does not apply. `shape_of` knows the source's tensors.
pub fn trace(part: &Part, shape_of: &dyn Fn(&str) -> Option<Vec<u64>>) -> Vec<Vec<u64>> {
    let Some(mut shape) = shape_of(&part.tensor) else { return Vec::new() };
    let mut shapes = vec![shape.clone()];
    for step in &part.steps {
        match apply(&shape, step, shape_of) {
            Ok(after) => shape = after,
            Err(_) => break,
        }
        shapes.push(shape.clone());
    }
    shapes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Step;

    #[test]
    fn every_step_is_seen_up_to_one_that_does_not_apply() {
        let steps = vec![
            Step::Permute(vec![1, 0]),
            Step::Slice { axis: 0, start: 0, end: 4 },
            Step::Reshape(vec![5]),
        ];
        let part = Part { tensor: "w".into(), steps, axes: Vec::new() };
        let shapes = trace(&part, &|name| (name == "w").then(|| vec![6, 12]));
        assert_eq!(shapes, [vec![6, 12], vec![12, 6], vec![4, 6]]);
        assert!(trace(&part, &|_| None).is_empty());
    }
}
