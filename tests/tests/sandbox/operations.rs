//! What heads, experts and recurrences are refused, each with the operation and what is wrong.

use crate::guest::{FREE, bytes_at, words};
use crate::{exhausted, in_the_block, rejected};
use engraft_plugin::{Exhausted, Problem};

#[test]
fn heads_experts_and_recurrences_take_what_fits_and_is_of_the_place() {
    // Four numbers a token; the block's weights are a gain of four.
    let x = "(i32.const 1)";
    let gain = "(call $parameter (local.get 1) (i32.const 2064) (i32.const 4))";
    let of = |call: &str, operands: &[&str]| {
        format!("(drop (call {call} (local.get 1) {}))", operands.join(" "))
    };
    let mixture = |set: &str| format!("(call $set_mixture (i32.const 2) {set})");
    let attention = "(call $attention (i32.const 2) (i32.const 1) (i32.const 2))";
    let rotary = "(call $rotary (i32.const 4) (i32.const 4) (f64.const 1e4))";
    let (no, zero, far) = ("(i32.const 0) (i32.const 0)", "(i32.const 0)", "(i32.const 77)");
    let silu = format!("(call $mixture (i32.const 2) (i32.const {FREE}) (i32.const 4))");
    let cases = [
        (of("$linear_heads", &[x, gain, no, "(i32.const 2)"]), "it must have 3 axes"),
        (
            of("$linear_heads", &[x, zero, no, zero]),
            "weight w0 `transformer.embed.we` [8, 4] is of embed",
        ),
        (of("$concat", &[zero, zero, zero]), "concat: heads is 0"),
        (of("$concat", &[zero, zero, "(i32.const 1)"]), "concat: it has no inputs"),
        (
            of("$concat", &["(i32.const 9000)", "(i32.const 1)", "(i32.const 1)"]),
            "value v99 is not defined",
        ),
        (of("$convolve", &[x, gain, no]), "it must have 2 axes"),
        (of("$convolve", &[x, gain, "(i32.const 1)", far]), "weight w77 is not declared"),
        (of("$convolve", &[x, far, no]), "weight w77 is not declared"),
        (of("$recur", &[far, x, x, gain]), "value v77 is not defined"),
        (
            of("$recur", &[x, x, zero, gain]),
            "value v0 i32 [tokens] is of embed and was not handed on",
        ),
        (of("$recur", &[x, x, x, zero]), "weight w0 `transformer.embed.we` [8, 4] is of embed"),
        (of("$mix", &[x, x, gain, gain, &silu]), "mix: up w1 \"transformer.layers.0.gain\" is [4]"),
        (
            of("$mix", &[x, x, gain, zero, &silu]),
            "weight w0 `transformer.embed.we` [8, 4] is of embed",
        ),
        (of("$mix", &[x, x, gain, gain, &mixture("(i32.const 0)")]), "weight w77 is not declared"),
        (
            of("$mix", &[x, x, gain, gain, &mixture("(i32.const 1)")]),
            "weight w0 `transformer.embed.we` [8, 4] is of embed",
        ),
        (
            format!("(drop {})", mixture("(i32.const 2)")),
            "mixture: chosen_groups is 5: it must be at most groups, 4",
        ),
        (format!("(drop {})", mixture("(i32.const 3)")), "mixture: bound is 0.0"),
        (format!("(drop {})", mixture("(i32.const 4)")), "mixture: scale is NaN"),
        (
            "(drop (call $mixture (i32.const 2) (i32.const 2096) (i32.const 4)))".into(),
            "mixture: `tame` is unknown; there are silu,",
        ),
        (
            format!("(drop (call $mixture (i32.const 0) (i32.const {FREE}) (i32.const 4)))"),
            "mixture: chosen is 0",
        ),
        (format!("(call $latent {attention} (i32.const 3))"), "attention: latent is 3"),
        (
            of("$attend", &[x, x, x, &format!("(call $sunk {attention})")]),
            "weight w0 `transformer.embed.we` [8, 4] is of embed",
        ),
        (
            format!("(call $long {rotary} {no} {no} (f64.const 1) (i32.const 8))"),
            "rotary: short has 0 factors: they must be as many as pairs, 2",
        ),
        (format!("(call $untruncated {rotary})"), "rotary: untruncated is of YaRN"),
    ];
    let set = "(func $sunk (param i32) (result i32)
            (call $sinks (local.get 0) (i32.const 0)) (local.get 0))
        (func $set_mixture (param i32 i32) (result i32) (local $m i32)
            (local.set $m (call $mixture (local.get 0) (i32.const 8192) (i32.const 4)))
            (if (i32.eq (local.get 1) (i32.const 0)) (then
                (call $prefer (local.get $m) (i32.const 77))))
            (if (i32.eq (local.get 1) (i32.const 1)) (then
                (call $biases (local.get $m) (i32.const 1) (i32.const 0))))
            (if (i32.eq (local.get 1) (i32.const 2)) (then
                (call $groups (local.get $m) (i32.const 4) (i32.const 5) (i32.const 1))))
            (if (i32.eq (local.get 1) (i32.const 3)) (then
                (call $bounded (local.get $m) (f64.const 0) (f64.const 1))))
            (if (i32.eq (local.get 1) (i32.const 4)) (then
                (call $weigh (local.get $m) (f64.const nan))))
            (local.get $m))";
    for (call, expected) in cases {
        let guest = in_the_block(&call).and(set);
        let guest = guest.and(bytes_at(FREE, b"silu")).and(words(9000, &[99]));
        let error = rejected(&guest);
        assert!(matches!(*error.kind, Problem::Rejected(_)), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    let many = of("$concat", &[zero, "(i32.const 10001)", "(i32.const 1)"]);
    let what = "inputs of a concat";
    let error = rejected(&in_the_block(&many));
    assert_eq!(*exhausted(&error), Exhausted::Budget { what, limit: 10_000 });
}
