//! Each step with one thing wrong.

use crate::testing;
use crate::{
    Activation, Experts, Gating, Isa, Routing, RoutingGroups, Rows, Span, Step, Weights, workspace,
};

/// What a program that does not fit panics with.
fn refusal(step: Step<'_>) -> String {
    let run = std::panic::AssertUnwindSafe(|| {
        testing::run(Isa::Plain, 2, &[0.0; 1000], &mut [], &[step]);
    });
    let panic = std::panic::catch_unwind(run).expect_err("it should not run");
    panic.downcast_ref::<String>().cloned().expect("a message")
}

#[test]
fn mixtures_that_do_not_fit_are_refused_with_the_reason() {
    let floats = [0.0; 1000];
    let gating = Gating::Plain(Activation::Silu);
    let all = Experts {
        up: Weights::F32(&floats[..4 * 6 * 8]),
        down: Weights::F32(&floats[..4 * 5 * 3]),
        up_bias: None,
        down_bias: None,
        inner: 3,
        gating,
        stretch: None,
    };
    let any = Routing {
        chosen: 2,
        sigmoid: false,
        prefer: None,
        groups: None,
        renormalize: false,
        scale: 1.0,
    };
    let [input, scores, output] =
        [(0, 8), (20, 4), (30, 5)].map(|(start, width)| Rows::dense(start, 2, width));
    let room = workspace(2, 2, 3).unwrap();
    let work = Rows::dense(40, 1, room);
    let mix =
        |routing, experts| refusal(Step::Mix { input, scores, routing, experts, work, output });
    let place = |scores, work, output| {
        let (routing, experts) = (any, all);
        refusal(Step::Mix { input, scores, routing, experts, work, output })
    };
    let groups = |count, chosen, best| {
        let groups = Some(RoutingGroups { count, chosen, best });
        mix(Routing { groups, ..any }, all)
    };
    let bounded = Gating::BoundedSwish { bound: f32::NAN, slope: 1.0 };
    for (refusal, reason) in [
        (mix(Routing { chosen: 0, ..any }, all), "0 of 4 experts"),
        (mix(Routing { chosen: 5, ..any }, all), "5 of 4 experts"),
        (mix(Routing { prefer: Some(&floats[..3]), ..any }, all), "preferences: 3 where 4"),
        (groups(0, 1, 1), "0 groups of 4"),
        (groups(3, 1, 1), "3 groups of 4"),
        (groups(2, 3, 1), "of 2"),
        (groups(2, 1, 3), "of 2"),
        (groups(4, 1, 1), "of 1"),
        (mix(any, Experts { inner: 0, ..all }), "4 experts of 0"),
        (mix(any, Experts { stretch: Some([1, 4]), ..all }), "experts 1..5 of 4"),
        (mix(any, Experts { stretch: Some([1, 3]), ..all }), "where 18 times 8"),
        (mix(any, Experts { inner: usize::MAX, ..all }), "4 experts of"),
        (mix(any, Experts { up: all.down, ..all }), "60 weights where 24 times 8"),
        (mix(any, Experts { down: all.up, ..all }), "192 weights where 20 times 3"),
        (mix(any, Experts { up_bias: Some(&floats[..6]), ..all }), "biases: 6 where 24"),
        (mix(any, Experts { down_bias: Some(&floats[..5]), ..all }), "biases: 5 where 20"),
        (mix(any, Experts { gating: bounded, ..all }), "experts bounded at NaN"),
        (place(Rows::dense(20, 1, 4), work, output), "rows: 1 where 2"),
        (place(scores, Rows::dense(40, 1, room - 1), output), "a workspace of"),
        (place(scores, Rows::dense(39, 1, room), output), "is written over"),
        (place(scores, work, Rows::dense(27, 2, 5)), "is written over"),
        (place(scores, Rows::dense(990, 1, room), output), "outside of an arena"),
    ] {
        assert!(refusal.contains(reason), "{refusal}");
    }
}

#[test]
fn states_that_are_not_there_or_used_twice_are_refused() {
    let floats = [0.0; 100];
    let [input, output] = [0, 40].map(|start| Rows::dense(start, 4, 10));
    let span = |first_row, rows, position| Span { first_row, rows, position, pages: &[], reach: 0 };
    let two = [span(0, 1, 0), span(1, 3, 7)];
    let endless = [span(0, 4, usize::MAX)];
    let convolve = |taps: usize, width, spans, slots, output| {
        let (weights, bias) = (&floats[..taps], None);
        let states = Rows::dense(100, 2, width);
        refusal(Step::Convolve { input, weights, bias, states, spans, slots, output })
    };
    let recur = |rates: usize, start, gate, slots, output| {
        let states = Rows::dense(start, 2, 10);
        refusal(Step::Recur {
            input,
            input_gate: input,
            recurrent_gate: gate,
            rates: &floats[..rates],
            states,
            spans: &two,
            slots,
            output,
        })
    };
    for (refusal, reason) in [
        (convolve(9, 20, &two, &[0, 1], output), "a convolution of no taps"),
        (convolve(29, 10, &two, &[0, 1], output), "weights: 29 where 20"),
        (convolve(30, 10, &two, &[0, 1], output), "floats of a state: 10 where 20"),
        (convolve(30, 20, &two, &[0], output), "states: 1 where 2"),
        (convolve(30, 20, &two, &[0, 2], output), "state 2 of 2"),
        (convolve(30, 20, &two, &[1, 1], output), "state 1 is used twice"),
        (convolve(30, 20, &two[..1], &[1], output), "rows of spans: 1 where 4"),
        (convolve(30, 20, &endless, &[1], output), "position"),
        (convolve(30, 20, &two, &[0, 1], input), "is written over"),
        (convolve(30, 20, &two, &[0, 1], Rows::dense(61, 4, 10)), "is written over"),
        (recur(9, 100, input, &[0, 1], output), "rates: 9 where 10"),
        (recur(10, 39, input, &[0, 1], output), "is written over"),
        (recur(10, 79, input, &[0, 1], output), "is written over"),
        (recur(10, 100, input, &[0, 0], output), "state 0 is used twice"),
        (recur(10, 100, Rows::dense(0, 4, 9), &[0, 1], output), "width: 10 where 9"),
        (recur(10, 100, input, &[0, 1], Rows::dense(10, 4, 10)), "is written over"),
    ] {
        assert!(refusal.contains(reason), "{refusal}");
    }
}
