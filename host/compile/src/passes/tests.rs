//! Each pass on graphs that it rewrites and graphs that it must leave alone.

use super::*;
use engraft_ir::parse;

/// A graph of one block between embedding and head: `body` defines what it returns from `v1`,
/// eight numbers a token; `head` goes from there to the logits.
fn graph(weights: &str, body: &str, head: &str) -> Graph {
    let text = format!(
        "graph 1

r0 = rotary head_width=4 rotated=4 base=10000.0
r1 = rotary head_width=4 rotated=4 base=20000.0

place embed {{
    w0 = weight \"embedding\" f32 [32 vocabulary, 8]
    v0 = tokens
    v1 = embedding v0, w0
    return v1
}}

place block 0 {{
    {weights}
    {body}
}}

place head {{
    {head}
}}
"
    );
    let graph = parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let graph = graph.renumber();
    verify(&graph).unwrap_or_else(|e| panic!("{e}\n{text}"));
    graph
}

/// The lines of a place's operations, without comments.
fn lines(graph: &Graph, place: &str) -> Vec<String> {
    let text = graph.to_string();
    let body = text.split(&format!("place {place} {{")).nth(1).unwrap().split('}').next().unwrap();
    body.lines()
        .map(|line| line.split(';').next().unwrap().trim().to_owned())
        .filter(|line| !line.is_empty() && !line.contains("= weight") && !line.contains("= cache"))
        .collect()
}

/// What the pass makes of the block whose result, of the number `last`, goes to a plain head.
fn block(pass: &str, weights: &[&str], body: &[&str], last: u32) -> Vec<String> {
    let weights: Vec<String> = weights
        .iter()
        .enumerate()
        .map(|(i, what)| format!("w{} = weight \"{i}\" f32 {what}", i + 1))
        .collect();
    let w = weights.len() + 1;
    let head = format!(
        "w{w} = weight \"head\" f32 [32 vocabulary, 8]
    v{} = linear v{last}, w{w}
    return v{}",
        last + 1,
        last + 1
    );
    let states = if body.iter().any(|line| line.contains("attend")) {
        "s0 = cache key_heads=2 head_width=4\n    "
    } else {
        ""
    };
    let weights = format!("{states}{}", weights.join("\n    "));
    let graph = graph(&weights, &body.join("\n    "), &head);
    let pass = by_name(pass).unwrap();
    let once = pass.run(graph).unwrap();
    let twice = pass.run(once.clone()).unwrap();
    assert_eq!(once.to_string(), twice.to_string(), "a second run changes nothing");
    lines(&once, "block 0")
}

const NORM: &str = "[8]";
const SQUARE: &str = "[8, 8]";

#[test]
fn an_activation_and_a_product_become_a_gate() {
    let after = block(
        "fuse_gate",
        &[SQUARE, SQUARE],
        &[
            "v2 = linear v1, w1",
            "v3 = activate v2, silu",
            "v4 = linear v1, w2",
            "v5 = multiply v3, v4",
            "return v5",
        ],
        5,
    );
    assert_eq!(
        after,
        ["v2 = linear v1, w1", "v3 = linear v1, w2", "v4 = gate v2, v3, silu", "return v4"]
    );
}

#[test]
fn the_activation_may_be_the_right_factor() {
    let after = block(
        "fuse_gate",
        &[SQUARE],
        &["v2 = linear v1, w1", "v3 = activate v1, gelu_new", "v4 = multiply v2, v3", "return v4"],
        4,
    );
    assert_eq!(after, ["v2 = linear v1, w1", "v3 = gate v1, v2, gelu_new", "return v3"]);
}

#[test]
fn of_two_activations_the_left_one_is_folded() {
    let after = block(
        "fuse_gate",
        &[],
        &["v2 = activate v1, silu", "v3 = activate v1, relu", "v4 = multiply v2, v3", "return v4"],
        4,
    );
    assert_eq!(after, ["v2 = activate v1, relu", "v3 = gate v1, v2, silu", "return v3"]);
}

#[test]
fn an_activation_that_something_else_uses_stays() {
    let bodies: [&[&str]; 2] = [
        &["v2 = activate v1, silu", "v3 = multiply v2, v1", "v4 = add v3, v2", "return v4"],
        &["v2 = activate v1, silu", "v3 = multiply v2, v2", "v4 = add v3, v1", "return v4"],
    ];
    for body in bodies {
        assert_eq!(block("fuse_gate", &[], body, 4), body);
    }
}

#[test]
fn a_sum_and_its_norm_become_one_and_the_sum_stays() {
    let after = block(
        "fuse_residual_norm",
        &[SQUARE, NORM],
        &[
            "v2 = linear v1, w1",
            "v3 = add v1, v2",
            "v4 = rms_norm v3, w2, epsilon=1e-5",
            "v5 = add v3, v4",
            "return v5",
        ],
        5,
    );
    assert_eq!(
        after,
        [
            "v2 = linear v1, w1",
            "v3, v4 = add_rms_norm v1, v2, w2, epsilon=1e-5",
            "v5 = add v3, v4",
            "return v5"
        ]
    );
}

#[test]
fn the_first_of_two_norms_of_a_sum_is_fused() {
    let after = block(
        "fuse_residual_norm",
        &[NORM, NORM],
        &[
            "v2 = add v1, v1",
            "v3 = rms_norm v2, w1, epsilon=1e-5",
            "v4 = rms_norm v2, w2, epsilon=1e-5",
            "v5 = add v3, v4",
            "return v5",
        ],
        5,
    );
    assert_eq!(
        after,
        [
            "v2, v3 = add_rms_norm v1, v1, w1, epsilon=1e-5",
            "v4 = rms_norm v2, w2, epsilon=1e-5",
            "v5 = add v3, v4",
            "return v5"
        ]
    );
}

#[test]
fn a_norm_is_not_fused_with_a_sum_of_another_place() {
    let graph = graph(
        "",
        "v2 = add v1, v1\n    return v2",
        "w1 = weight \"norm\" f32 [8]
    w2 = weight \"head\" f32 [32 vocabulary, 8]
    v3 = rms_norm v2, w1, epsilon=1e-5
    v4 = linear v3, w2
    return v4",
    );
    let after = by_name("fuse_residual_norm").unwrap().run(graph.clone()).unwrap();
    assert_eq!(after.to_string(), graph.to_string());
}

const ATTEND: &str = "s0, query_heads=2 scale=0.5";

#[test]
fn rotations_of_queries_and_keys_go_into_the_attention() {
    let attend = format!("v4 = attend v2, v3, v1, {ATTEND}");
    let body = ["v2 = rotate v1, r0", "v3 = rotate v1, r0", &attend, "return v4"];
    let after = block("fuse_rotary", &[], &body, 4);
    assert_eq!(after, [&format!("v2 = attend v1, v1, v1, {ATTEND} rotary=r0"), "return v2"]);
}

#[test]
fn rotations_that_differ_or_are_used_twice_stay() {
    let (two, twice) = ("v4 = attend v2, v3, v1, ", "v3 = attend v2, v2, v1, ");
    let only = "v3 = attend v2, v1, v1, ";
    let bodies: [(Vec<String>, u32); 4] = [
        (
            vec![
                "v2 = rotate v1, r0".into(),
                "v3 = rotate v1, r1".into(),
                format!("{two}{ATTEND}"),
                "return v4".into(),
            ],
            4,
        ),
        (vec!["v2 = rotate v1, r0".into(), format!("{twice}{ATTEND}"), "return v3".into()], 3),
        (vec!["v2 = rotate v1, r0".into(), format!("{only}{ATTEND}"), "return v3".into()], 3),
        (
            vec![
                "v2 = rotate v1, r0".into(),
                "v3 = rotate v1, r0".into(),
                format!("{two}{ATTEND}"),
                "v5 = add v4, v3".into(),
                "return v5".into(),
            ],
            5,
        ),
    ];
    for (body, last) in bodies {
        let body: Vec<&str> = body.iter().map(String::as_str).collect();
        assert_eq!(block("fuse_rotary", &[], &body, last), body);
    }
}

#[test]
fn the_head_gathers_what_it_takes_once() {
    let graph = graph(
        "",
        "v2 = add v1, v1\n    return v2",
        "w1 = weight \"norm\" f32 [8]
    w2 = weight \"head\" f32 [32 vocabulary, 8]
    v3 = rms_norm v2, w1, epsilon=1e-5
    v4 = add v3, v2
    v5 = linear v4, w2
    return v5",
    );
    let pass = by_name("gather_outputs").unwrap();
    let after = pass.run(graph).unwrap();
    assert_eq!(
        lines(&after, "head"),
        [
            "v3 = outputs v2",
            "v4 = rms_norm v3, w1, epsilon=1e-5",
            "v5 = add v4, v3",
            "v6 = linear v5, w2",
            "return v6"
        ]
    );
    let ty = &after.values[after.output().unwrap()].ty;
    assert_eq!(ty.to_string(), "f32 [outputs, 32]");
    let again = pass.run(after.clone()).unwrap();
    assert_eq!(again.to_string(), after.to_string(), "a second run changes nothing");
}

#[test]
fn a_head_that_attends_is_gathered_behind_that() {
    let graph = graph(
        "",
        "v2 = add v1, v1\n    return v2",
        "s0 = cache key_heads=2 head_width=4
    w1 = weight \"head\" f32 [32 vocabulary, 8]
    v3 = attend v2, v2, v2, s0, query_heads=2 scale=0.5
    v4 = add v3, v2
    v5 = linear v4, w1
    return v5",
    );
    let after = by_name("gather_outputs").unwrap().run(graph).unwrap();
    assert_eq!(
        lines(&after, "head")[1..],
        [
            "v4 = outputs v2",
            "v5 = outputs v3",
            "v6 = add v5, v4",
            "v7 = linear v6, w1",
            "return v7"
        ]
    );
}

#[test]
fn every_pass_is_found_by_its_name() {
    for pass in ALL {
        assert_eq!(by_name(pass.name).unwrap().name, pass.name);
    }
    assert!(by_name("unroll").is_none());
}
