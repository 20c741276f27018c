//! By hand, and every kernel bit for bit against the floats that codes mean.

use super::*;
use crate::testing::{bits, codebooks, noise, run};
use crate::{
    Activation, Executor, Experts, Gating, Isa, Routing, Rows, Span, Step, Weights, convert,
    workspace,
};

fn weights(codes: Codes<'_>) -> Vec<f32> {
    convert::to_vec(Weights::Coded(Coded::new(codes).unwrap()))
}

#[test]
fn two_rows_of_four_bits_share_bytes_and_the_even_row_has_the_low_half() {
    let codes = Codes {
        kind: CodeKind::Int4,
        // Rows (1, -8, 7) and (-1, 2, 0).
        codes: &[0xf1, 0x28, 0x07],
        columns: 3,
        scales: &[0.5, 10.0],
        zeros: None,
        grouping: Grouping::Rows,
    };
    assert_eq!(weights(codes), [0.5, -4.0, 3.5, -10.0, 20.0, 0.0]);
    let codes = Codes { zeros: Some(&[1, -3]), ..codes };
    assert_eq!(weights(codes), [0.0, -4.5, 3.0, 20.0, 50.0, 30.0]);
    let second = Coded::new(codes).unwrap().part(1..2);
    assert_eq!(convert::to_vec(Weights::Coded(second)), [20.0, 50.0, 30.0]);
    assert_eq!(Weights::Coded(second).part(3..3).len(), 0);
}

#[test]
fn scales_are_by_matrix_by_group_or_by_a_list() {
    let codes = Codes {
        kind: CodeKind::Int8,
        codes: &[1, 2, 3, 4, 0x80, 0xff, 127, 0],
        columns: 4,
        scales: &[2.0],
        zeros: None,
        grouping: Grouping::Rows,
    };
    assert_eq!(weights(codes), [2.0, 4.0, 6.0, 8.0, -256.0, -2.0, 254.0, 0.0]);
    let scales = &[1.0, 10.0, 2.0, 3.0];
    let codes =
        Codes { scales, zeros: Some(&[0, 1, -1, 0]), grouping: Grouping::Inputs(2), ..codes };
    assert_eq!(weights(codes), [1.0, 2.0, 20.0, 30.0, -254.0, 0.0, 381.0, 0.0]);
    let grouping = Grouping::Listed { groups: 2, lists: &[1, 0, 0, 1] };
    let codes = Codes { zeros: None, grouping, ..codes };
    assert_eq!(weights(codes), [10.0, 2.0, 3.0, 40.0, -384.0, -2.0, 254.0, 0.0]);
    let grouping = Grouping::Listed { groups: 2, lists: &[1, 0, 0, 1, 0, 0, 1, 1] };
    assert_eq!(
        weights(Codes { grouping, ..codes }),
        [10.0, 2.0, 3.0, 40.0, -256.0, -2.0, 381.0, 0.0]
    );
    let codes = Codes { kind: CodeKind::Fp8, codes: &[0x38, 0xfe, 0x01, 0x80], ..codes };
    let codes = Codes { scales: &[2.0], grouping: Grouping::Rows, ..codes };
    assert_eq!(bits(&weights(codes)), bits(&[2.0, -896.0, 1.0 / 256.0, -0.0]));
}

#[test]
fn codes_that_do_not_fit_are_refused_with_the_reason() {
    let good = Codes {
        kind: CodeKind::Int8,
        codes: &[0; 24],
        columns: 6,
        scales: &[1.0; 8],
        zeros: None,
        grouping: Grouping::Inputs(3),
    };
    assert!(Coded::new(good).is_ok());
    let listed = |groups, lists| Grouping::Listed { groups, lists };
    for (bad, reason) in [
        (Codes { columns: 0, ..good }, "rows of codes for no inputs"),
        (Codes { columns: 5, ..good }, "24 bytes of codes are no rows of 5"),
        (Codes { kind: CodeKind::Int4, ..good }, "8 scales for 8 rows of 2 groups"),
        (Codes { scales: &[1.0; 7], ..good }, "7 scales for 4 rows of 2 groups"),
        (Codes { grouping: Grouping::Inputs(4), ..good }, "groups of 4 inputs do not divide 6"),
        (Codes { grouping: Grouping::Inputs(0), ..good }, "groups of 0 inputs do not divide 6"),
        (Codes { grouping: Grouping::Rows, ..good }, "8 scales for 4 rows"),
        (Codes { grouping: Grouping::Rows, scales: &[], ..good }, "no scales for 4 rows"),
        (Codes { zeros: Some(&[0; 7]), ..good }, "7 zeros for 8 scales"),
        (Codes { zeros: Some(&[0; 8]), kind: CodeKind::Fp8, ..good }, "have no zeros"),
        (Codes { scales: &[f32::NAN; 8], kind: CodeKind::Fp8, ..good }, "a scale of NaN"),
        (Codes { scales: &[2e36; 8], kind: CodeKind::Fp8, ..good }, "a scale of 2"),
        (Codes { grouping: listed(2, &[0, 1, 1, 0, 2, 0]), ..good }, "group 2 of 2"),
        (Codes { grouping: listed(2, &[0, 1, -1, 0, 1, 0]), ..good }, "group -1 of 2"),
        (Codes { grouping: listed(2, &[0; 5]), ..good }, "5 groups listed for 6 inputs"),
        (Codes { grouping: listed(2, &[0; 18]), ..good }, "3 lists for 4 rows"),
        (Codes { grouping: listed(2, &[]), ..good }, "no lists for 4 rows"),
        (Codes { grouping: listed(3, &[0; 6]), ..good }, "8 scales for 4 rows of 3 groups"),
    ] {
        let misfit = Coded::new(bad).unwrap_err().to_string();
        assert!(misfit.contains(reason), "{misfit}: {reason}");
    }
    let none = Codes { codes: &[], scales: &[], grouping: listed(2, &[]), ..good };
    assert_eq!(Coded::new(none).map(Coded::rows), Ok(0));
}

#[test]
fn codes_are_not_taken_for_rows_of_another_length_or_cut_within_one() {
    let codes = Codes {
        kind: CodeKind::Int8,
        codes: &[0; 24],
        columns: 6,
        scales: &[1.0],
        zeros: None,
        grouping: Grouping::Rows,
    };
    let weights = Weights::Coded(Coded::new(codes).unwrap());
    let refusal = |act: &dyn Fn() -> usize| {
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
        panic.expect_err("it should not run").downcast_ref::<String>().cloned().expect("a message")
    };
    let (input, output) = (Rows::dense(0, 1, 4), Rows::dense(4, 1, 6));
    let linear = Step::Linear { input, weights, bias: None, output };
    let table = Step::Embedding { tokens: &[0], table: weights, first: None, output: input };
    for step in [linear, table] {
        let refusal = refusal(&|| run(Isa::Plain, 1, &[0.0; 10], &mut [], &[step]).len());
        assert!(refusal.contains("inputs of a row of codes: 6 where 4"), "{refusal}");
    }
    assert!(refusal(&|| weights.part(6..13).len()).contains("elements 6..13 of rows of 6"));
    assert!(refusal(&|| weights.part(6..30).len()).contains("rows 1..5 of 4"));
}

/// What runs a step with codes and one with their floats: every instruction set, and threads.
struct Both {
    all: Vec<Executor>,
}

impl Both {
    fn new() -> Both {
        let alone = Isa::available().map(|isa| (isa, 1));
        let all = alone.chain([(Isa::detect(), 2), (Isa::detect(), 3)]);
        Both { all: all.map(|(isa, threads)| Executor::new(isa, threads).unwrap()).collect() }
    }

    /// Both leave the same bits, everywhere.
    fn same(&mut self, coded: Step<'_>, floats: Step<'_>, arena: &[f32], about: &dyn fmt::Debug) {
        let left = |executor: &mut Executor, step| {
            let mut arena = arena.to_vec();
            executor.run(&mut arena, &mut [], &[step]);
            bits(&arena)
        };
        let expected = left(&mut self.all[0], floats);
        for executor in &mut self.all {
            let threads = executor.pool().threads();
            let found = left(executor, coded);
            assert!(found == expected, "{} {threads} threads {about:?}", executor.isa());
        }
    }
}

#[test]
fn products_have_the_bits_of_those_with_floats() {
    let mut both = Both::new();
    for (k, n) in [(96, 37), (48, 33), (37, 20), (12, 1), (72, 18)] {
        // Not from the beginning: pairs of rows are cut through.
        let all = (n + 2) / 2 * 2;
        let arena = noise(27 * (k + n), 1);
        let bias = noise(n, 3);
        for (i, book) in codebooks(all, k, 2).into_iter().enumerate() {
            let first = if i % 3 == 0 { 0 } else { all - n };
            let coded = book.weights().part(first * k..(first + n) * k);
            let floats = convert::to_vec(coded);
            for rows in [1, 7, 27] {
                let (input, output) = (Rows::dense(0, rows, k), Rows::dense(rows * k, rows, n));
                let step = |weights| Step::Linear { input, weights, bias: Some(&bias), output };
                both.same(step(coded), step(Weights::F32(&floats)), &arena, &(&book, rows, first));
            }
        }
    }
}

#[test]
fn heads_have_the_bits_of_those_with_floats() {
    let mut both = Both::new();
    let (heads, k, n) = (4, 48, 7);
    let arena = noise(26 * heads * (k + n), 1);
    for book in codebooks(heads * n, k, heads) {
        let floats = convert::to_vec(book.weights());
        for rows in [1, 3, 26] {
            let input = Rows::dense(0, rows, heads * k);
            let output = Rows::dense(rows * heads * k, rows, heads * n);
            let step = |weights| Step::LinearHeads { input, weights, bias: None, heads, output };
            both.same(step(book.weights()), step(Weights::F32(&floats)), &arena, &book);
        }
    }
}

#[test]
fn experts_have_the_bits_of_those_with_floats() {
    let (experts, k, inner, n, most) = (4, 36, 19, 150, 60);
    let routing = Routing {
        chosen: 2,
        sigmoid: false,
        prefer: None,
        groups: None,
        renormalize: false,
        scale: 1.0,
    };
    let mut both = Both::new();
    let needed = |rows| workspace(rows, 2, inner).unwrap();
    let arena = noise(most * (k + experts + n) + needed(most), 1);
    let ups = codebooks(experts * 2 * inner, k, experts);
    for (up, down) in ups.iter().zip(&codebooks(experts * n, inner, experts)) {
        let floats = [up, down].map(|book| convert::to_vec(book.weights()));
        for rows in [1, most] {
            let step = |up, down| Step::Mix {
                input: Rows::dense(0, rows, k),
                scores: Rows::dense(rows * k, rows, experts),
                routing,
                experts: Experts {
                    up,
                    down,
                    up_bias: None,
                    down_bias: None,
                    inner,
                    gating: Gating::Plain(Activation::Silu),
                    stretch: None,
                },
                work: Rows::dense(rows * (k + experts + n), 1, needed(rows)),
                output: Rows::dense(rows * (k + experts), rows, n),
            };
            let coded = step(up.weights(), down.weights());
            let floats = step(Weights::F32(&floats[0]), Weights::F32(&floats[1]));
            both.same(coded, floats, &arena, &(up, down));
        }
    }
}

#[test]
fn rows_of_tables_have_the_bits_of_floats() {
    let mut both = Both::new();
    for k in [96, 37] {
        let spans = [Span { rows: 3, position: 4, ..Span::default() }];
        let output = Rows::dense(0, 3, k);
        for book in codebooks(10, k, 2) {
            let floats = convert::to_vec(book.weights());
            let embedding =
                |table| Step::Embedding { tokens: &[3, 0, 9], table, first: None, output };
            let positions =
                |table| Step::Positions { table, first: Some(1), spans: &spans, output };
            let (coded, floats) = (book.weights(), Weights::F32(&floats));
            both.same(embedding(coded), embedding(floats), &[0.5; 300], &book);
            both.same(positions(coded), positions(floats), &[0.5; 300], &book);
        }
    }
}

#[test]
fn every_code_of_a_float_means_the_same_on_every_instruction_set() {
    let all: Vec<u8> = (0..=255).collect();
    let codes = Codes {
        kind: CodeKind::Fp8,
        codes: &all,
        columns: 256,
        scales: &[0.3],
        zeros: None,
        grouping: Grouping::Rows,
    };
    let table = Weights::Coded(Coded::new(codes).unwrap());
    let output = Rows::dense(0, 1, 256);
    let step = Step::Embedding { tokens: &[0], table, first: None, output };
    for isa in Isa::available() {
        for (code, value) in run(isa, 1, &[0.0; 256], &mut [], &[step]).into_iter().enumerate() {
            let expected = fp8::decode(code as u8) * 0.3;
            let same = value.to_bits() == expected.to_bits();
            assert!(same || (value.is_nan() && expected.is_nan()), "{isa} {code:#x}: {value}");
        }
    }
}
