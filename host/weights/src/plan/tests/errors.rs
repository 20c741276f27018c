//! What is turned down, and in which words.

use super::*;
use engraft_diagnostic::{Diagnostic, Fault};
use std::path::Path;

#[test]
fn all_missing_tensors_are_listed_with_what_needs_them() {
    let source = Model::new().f32("other", &[2], &[1.0, 2.0]).open();
    let parameters: Vec<_> = (0..25)
        .map(|i| {
            let parameter = Parameter {
                name: "mlp.fc.weight".to_owned(),
                origin: Origin::Tensor(part(&format!("layers.{i}.gate"), &[], &[4, 2])),
                precision: Precision::Any,
            };
            (PlaceKind::Block(i), parameter)
        })
        .collect();
    let error = Plan::new(&source, &parameters, DType::F32, &[]).err().unwrap();
    assert!(error.to_string().contains("lacks 25 of"), "{error}");
    let location = error.location().unwrap();
    assert!(location.contains("`layers.3.gate`, for `transformer.layers.3.mlp.fc.weight` [4, 2]"));
    assert!(location.ends_with("and 5 more"), "{location}");
    assert!(error.help().unwrap().contains("`other` [2] F32"));
    assert_eq!(error.code().to_string(), "EG0301");
}

#[test]
fn all_unused_tensors_are_listed_but_those_that_are_explained() {
    let source = Model::new()
        .f32("t", &[2], &[1.0, 2.0])
        .f32("model.layers.0.self_attn.rotary_emb.inv_freq", &[1], &[1.0])
        .f32("stray.one", &[1, 2], &[1.0, 1.0])
        .bytes("stray.two", Dtype::I64, &[1], vec![0; 8])
        .open();
    let origin = || head("w", Origin::Tensor(part("t", &[], &[2])));
    let explained = |glob: &str| (glob.to_owned(), "computed".to_owned());
    let rotary = explained("*.rotary_emb.inv_freq");
    let error =
        Plan::new(&source, &[origin()], DType::F32, std::slice::from_ref(&rotary)).err().unwrap();
    assert!(error.to_string().starts_with("2 of"), "{error}");
    let location = error.location().unwrap();
    assert!(location.contains("`stray.one` [1, 2] F32\n`stray.two` [1] I64"), "{location}");
    assert!(!location.contains("inv_freq"));

    let stray = explained("stray.*");
    let plan = Plan::new(&source, &[origin()], DType::F32, &[rotary, stray]).unwrap();
    assert_eq!(plan.left_out().len(), 3);
    assert_eq!(plan.left_out()[0].1, "computed");

    let bad = Plan::new(&source, &[origin()], DType::F32, &[explained("a[")]).err().unwrap();
    assert!(matches!(bad, WeightError::Glob { .. }), "{bad}");
}

#[test]
fn a_wrong_shape_names_tensor_shapes_step_and_place() {
    let source = Model::new().f32("t", &[4, 3], &numbers(12, 8)).open();
    let fail = |origin| plan(&source, origin, DType::F32).err().unwrap();
    let error = fail(Origin::Tensor(part("t", &[], &[3, 4])));
    assert_eq!(error.to_string(), "`t` is [4, 3] in the source, but [3, 4] is needed");
    assert_eq!(error.location().unwrap(), "head, `transformer.w`");
    assert_eq!(error.fault(), Fault::Input);

    let steps = [Step::Add(1.0), Step::Reshape(vec![5, 2])];
    let error = fail(Origin::Tensor(part("t", &steps, &[5, 2]))).to_string();
    assert!(error.contains("its step 2, `reshape [5, 2]`"), "{error}");

    let error = fail(Origin::Tensor(part("t", &[Step::Permute(vec![1, 0])], &[4, 3]))).to_string();
    assert!(error.contains("make [3, 4], and [4, 3] is needed"), "{error}");

    let error = fail(Origin::Concat(Joint { axis: 0, parts: Vec::new() }));
    assert!(matches!(error, WeightError::Origin { .. }));
    assert_eq!(error.fault(), Fault::Plugin);
    let error = fail(Origin::Tensor(part("t", &[Step::Times("u".to_owned())], &[4, 3])));
    assert!(error.location().unwrap().contains("`u`, for"), "{error}");
}

#[test]
fn a_parameter_that_is_declared_twice_is_the_plugins_fault() {
    let source = Model::new().f32("t", &[2], &[1.0, 2.0]).open();
    let one = || head("w", Origin::Tensor(part("t", &[], &[2])));
    let error = Plan::new(&source, &[one(), one()], DType::F32, &[]).err().unwrap();
    assert!(matches!(error, WeightError::Twice { .. }));
}

#[test]
fn integers_and_empty_tensors_make_no_parameter() {
    let source = Model::new()
        .bytes("i", Dtype::I8, &[4], vec![1; 4])
        .bytes("empty", Dtype::F32, &[0, 4], Vec::new())
        .open();
    let error = plan(&source, Origin::Tensor(part("i", &[], &[4])), DType::F32).err().unwrap();
    assert_eq!(error.to_string(), "`i` holds i8 elements; a parameter needs floating-point ones");
    let error = plan(&source, Origin::Tensor(part("empty", &[], &[0, 4])), DType::F32);
    assert!(matches!(error.err().unwrap(), WeightError::Shape { .. }));
}

#[test]
fn what_is_not_finite_is_named_by_tensor_index_and_file() {
    let mut values = numbers(60, 9);
    values[43] = f32::NAN;
    let model = Model::new().f32("t", &[5, 4, 3], &values).f32("m", &[3, 2], &[f32::INFINITY; 6]);
    let source = model.open();
    let file = |path: &Path| path.join("model.safetensors").display().to_string();
    for piece in [1, 30, PIECE] {
        for steps in [vec![], vec![Step::Permute(vec![0, 2, 1]), Step::Reshape(vec![5, 4, 3])]] {
            let origin = Origin::Tensor(part("t", &steps, &[5, 4, 3]));
            let plan = plan(&source, origin, DType::F16).unwrap().in_pieces_of(piece);
            let error = stream(&plan, "transformer.w").unwrap_err();
            assert_eq!(error.to_string(), "`t`[3, 2, 1] is NaN");
            assert_eq!(error.location(), Some(file(model.directory.path())));
        }
    }
    // In what is cut away it does no harm; in a factor it does.
    let cut = Origin::Tensor(part("t", &[slice(0, 0, 3)], &[3, 4, 3]));
    assert!(stream(&plan(&source, cut, DType::F32).unwrap(), "transformer.w").is_ok());
    let steps = [slice(0, 0, 3), Step::Times("m".to_owned())];
    let product = Origin::Tensor(part("t", &steps, &[3, 4, 2]));
    let error = stream(&plan(&source, product, DType::F32).unwrap(), "transformer.w").unwrap_err();
    assert_eq!(error.to_string(), "`m`[0, 0] is inf");
}

#[test]
fn a_number_that_the_type_cannot_hold_is_an_error_and_not_an_infinity() {
    let mut values = numbers(20, 10);
    values[17] = -70_000.0;
    let source = Model::new().f32("t", &[4, 5], &values).open();
    for piece in [1, 16, PIECE] {
        let origin = Origin::Tensor(part("t", &[], &[4, 5]));
        let half = plan(&source, origin.clone(), DType::F16).unwrap().in_pieces_of(piece);
        let error = stream(&half, "transformer.w").unwrap_err();
        assert_eq!(error.to_string(), "`t`[3, 2] is -70000, too large for float16");
        assert!(error.help().unwrap().contains("bfloat16"));
        assert!(stream(&plan(&source, origin, DType::BF16).unwrap(), "transformer.w").is_ok());
    }
    let steps = [Step::Scale(1e35)];
    let huge = plan(&source, Origin::Tensor(part("t", &steps, &[4, 5])), DType::F32).unwrap();
    let error = stream(&huge, "transformer.w").unwrap_err();
    assert_eq!(
        error.to_string(),
        "`scale 100000000000000000000000000000000000` makes `t` too large for f32 at [3, 2]"
    );
}

#[test]
fn an_error_of_the_sink_ends_the_stream() {
    let source = Model::new().f32("t", &[100], &numbers(100, 11)).open();
    let origin = Origin::Tensor(part("t", &[], &[100]));
    let plan = plan(&source, origin, DType::F32).unwrap().in_pieces_of(40);
    let mut calls = 0;
    let result = plan.stream("transformer.w", &mut |_| {
        calls += 1;
        if calls == 3 { Err(FileError::Interrupted) } else { Ok(()) }
    });
    assert!(matches!(result, Err(WeightError::File(FileError::Interrupted))));
    assert_eq!(calls, 3);
}
