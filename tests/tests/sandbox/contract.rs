//! Components that speak the contract almost: another version, another type, a case too few.

use crate::guest::{FREE, Guest, bytes_at, words};
use crate::{broken, component, exhausted, graph, load, opened, refused};
use engraft_ir::PlaceKind;
use engraft_plugin::{Exhausted, Problem};
use std::path::Path;

/// Why a component that parses is no plugin for us.
fn unfit(problem: Problem) -> String {
    match problem {
        Problem::Unlinkable(why) => why,
        other => panic!("{other}"),
    }
}

#[test]
fn a_case_that_there_is_not_is_refused() {
    let answer = |meaning: u32, precision: u32| {
        let axes = words(8400, &[8, 0, meaning, 0, 4, 0, 0, 0]);
        let all = words(FREE, &[2048, 8, 0, 2144, 6, 0, 0, 8400, 2, precision]);
        let guest = Guest::tame().with("[method]model.parameters", "i32.const 8300");
        let guest = guest.and(axes + &all + &words(8300, &[FREE, 1]));
        opened(&guest).parameters(PlaceKind::Embed, "hugging-face")
    };
    assert!(answer(0, 0).is_ok());
    broken(answer(77, 0).expect_err("hostile"), "unexpected discriminant: 77");
    broken(answer(0, 77).expect_err("hostile"), "unexpected discriminant: 77");
}

/// A surrogate is no character. Nothing in the contract is one; texts are checked as a whole.
#[test]
fn no_answer_has_a_single_character() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit/v0.1");
    for file in folder.read_dir().unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("///"));
        for line in code {
            assert!(
                !line.split(|c: char| !c.is_alphanumeric()).any(|word| word == "char"),
                "{line}"
            );
        }
    }
    // The same as UTF-8 would spell it.
    let half = words(FREE, &[8300, 3, 2104, 5, 1072, 1, 1080, 1, 2096, 4]);
    let guest = Guest::tame().with("identify", "i32.const 8192");
    broken(refused(&guest.and(half + &bytes_at(8300, b"\xed\xa0\x80"))), "invalid utf-8");
}

#[test]
fn an_import_of_another_type_says_both_types() {
    let other = r#"(component
        (import "engraft:plugin/report@0.1.0"
            (instance (export "fail" (func (param "reason" u32)))))
        (instance $i) (export "engraft:plugin/architecture@0.1.0" (instance $i)))"#;
    let why = unfit(component(other));
    assert!(why.contains("u32") && why.contains("string"), "{why}");
}

#[test]
fn a_second_memory_is_one_too_many() {
    let error = refused(&Guest::tame().and("(memory $other 1)"));
    let Exhausted::Store(why) = exhausted(&error) else { panic!("{error}") };
    assert!(why.contains("memory count too high at 2"), "{why}");
    assert!(error.to_string().contains("cannot be started"), "{error}");
}

#[test]
fn another_patch_of_the_contract_links_and_another_minor_version_does_not() {
    let speaking = |version: &str| {
        Guest::tame()
            .contract("engraft:plugin@0.1.0", &format!("engraft:plugin@{version}"))
            .contract("@0.1.0\"", &format!("@{version}\""))
            .contract("@0.1.0#", &format!("@{version}#"))
    };
    let ours = graph(&Guest::tame()).expect("a graph").to_string();
    for version in ["0.1.0", "0.1.2", "0.1.9"] {
        let graph = graph(&speaking(version)).expect("it links");
        assert_eq!(graph.to_string(), ours, "{version}");
    }
    for version in ["0.2.0", "1.0.0"] {
        let error = load(&speaking(version).component()).expect_err("it is another contract");
        let Problem::UnknownVersion { found, served } = &*error.kind else { panic!("{error}") };
        assert!(found.ends_with(version), "{found}");
        assert_eq!(served, "0.1.0");
    }
}

#[test]
fn an_enum_with_fewer_cases_does_not_fit() {
    let fewer = Guest::tame().contract("        experts,\n", "");
    let why = unfit(*refused(&fewer).kind);
    assert!(why.contains("expected enum of 8 names, found 7 names"), "{why}");
}
