//! Every golden, split in many ways: nothing of a parameter is lost, and nothing is counted twice.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use engraft_compile::partition::Options;
use engraft_compile::{CompileError, partition};
use engraft_ir::Mapping;
use engraft_tests::{goldens, pipeline};
use engraft_weights::{Cut, Piece};
use std::collections::{BTreeMap, BTreeSet};

/// How many elements of the whole a cut keeps.
fn kept(cut: &Cut) -> u64 {
    let of_axis = |pieces: &Vec<Piece>| -> u64 {
        let kept = pieces.iter().filter(|piece| matches!(piece, Piece::Keep(_)));
        kept.map(Piece::size).sum()
    };
    cut.axes.iter().map(of_axis).product()
}

#[test]
fn ranks_have_all_of_a_model_between_them() {
    let experts = Mapping { moe_tp_size: 1, moe_ep_size: 2, ..Mapping::new(2, 1) };
    let ways = [
        (Mapping::new(2, 1), None),
        (Mapping::new(2, 1), Some(1)),
        (Mapping::new(4, 1), Some(0)),
        (Mapping::new(1, 2), None),
        (Mapping::new(2, 2), Some(0)),
        (experts, None),
    ];
    let mut split = 0;
    for golden in goldens() {
        let model = pipeline(&golden.path, None);
        for (mapping, parallel_embedding) in ways {
            let options = Options { parallel_embedding };
            let parts = mapping.ranks().map(|r| partition(model.graph(), r, &options));
            let parts: Vec<_> = match parts.collect() {
                Ok(parts) => parts,
                // A count that does not divide, or fewer blocks than stages.
                Err(CompileError::Partition(_)) => continue,
                Err(other) => panic!("{} by {mapping}: {other}", golden.path.display()),
            };
            split += 1;
            let mut found: BTreeMap<&str, (u64, BTreeSet<String>)> = BTreeMap::new();
            for share in parts.iter().flat_map(|part| &part.stored) {
                let (sum, seen) = found.entry(&share.source).or_default();
                let cut = Cut { axes: share.cut.axes.clone() };
                if seen.insert(cut.to_string()) {
                    *sum += kept(&cut);
                }
            }
            for weight in model.graph().weights.values() {
                let whole: u64 = weight.shape().iter().product();
                let sum = found.get(weight.name.as_str()).map(|(sum, _)| *sum);
                // What several ranks share in part is counted more than once.
                let repeats = weight.axes.iter().flat_map(|axis| &axis.segments);
                let repeats = repeats
                    .filter(|s| s.meaning == engraft_ir::Meaning::KeyHeads)
                    .map(|s| s.size)
                    .sum::<u64>();
                let at = format!("{} by {mapping}: {}", golden.path.display(), weight.name);
                match repeats {
                    0 => assert_eq!(sum, Some(whole), "{at}"),
                    _ => assert!(sum >= Some(whole), "{at}: {sum:?} of {whole}"),
                }
            }
            for part in &parts {
                let names: BTreeSet<&str> =
                    part.graph.weights.values().map(|w| w.name.as_str()).collect();
                for share in &part.shares {
                    assert!(names.contains(share.name.as_str()), "{}", share.name);
                }
            }
        }
    }
    println!("{split} ways");
    assert!(split > 400, "only {split} ways");
}
