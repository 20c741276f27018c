//! Components that are small and much work to compile: what they cost is known before it is paid.

use crate::guest::Guest;
use engraft_diagnostic::{Code, Diagnostic, Fault};
use engraft_plugin::{Limits, Plugin, Problem, Shelf};
use std::fmt::Write;
use std::time::{Duration, Instant};

/// No bound on what is counted beforehand.
fn uncounted() -> Limits {
    let all = u64::MAX;
    Limits { compile_work: all, function_work: all, expanded_instances: all, ..Limits::default() }
}

/// A function in which many locals may have one of two values at each of many joins.
fn joins(locals: usize, joins: usize) -> Guest {
    let mut body = format!("(func (param i32) (local{})", " i32".repeat(locals));
    for join in 0..joins {
        let local = join % locals + 1;
        let _ = write!(body, "(if (local.get 0) (then (local.set {local} (i32.const {join}))))");
    }
    for local in 1..=locals {
        let _ = write!(body, "(i32.store (i32.const 0) (local.get {local}))");
    }
    Guest::tame().and(body + ")")
}

/// Components of which each instantiates the one before it twice.
fn doubling(levels: usize) -> Vec<u8> {
    let mut text =
        "(component (component $c0 (core module $m) (core instance (instantiate $m)))".to_owned();
    for level in 1..=levels {
        let before = level - 1;
        let _ = write!(
            text,
            "(component $c{level} (alias outer 1 $c{before} (component $b))
                (instance (instantiate $b)) (instance (instantiate $b)))"
        );
    }
    let _ = write!(text, "(instance (instantiate $c{levels})))");
    wat::parse_str(text).expect("the text parses")
}

/// Compiling it must be turned down before it begins; by which limit.
fn too_much(bytes: &[u8]) -> &'static str {
    let started = Instant::now();
    let error = Plugin::from_bytes("small", bytes, &Limits::default()).expect_err("too much");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!((error.code(), error.fault()), (Code(205), Fault::Plugin), "{error}");
    let Problem::TooMuchToCompile { setting, .. } = *error.kind else { panic!("{error}") };
    assert!(error.help().is_some_and(|help| help.contains(setting)), "{error}");
    setting
}

#[test]
fn locals_at_joins_are_counted_as_the_compiler_meets_them() {
    // Four times as much of both is sixteen times the work.
    let small = Plugin::from_bytes("x", &joins(100, 100).component(), &uncounted()).expect("loads");
    let large = Plugin::from_bytes("x", &joins(400, 400).component(), &uncounted()).expect("loads");
    let ratio = large.bulk().largest as f64 / small.bulk().largest as f64;
    assert!((12.0..17.0).contains(&ratio), "{:?} {:?}", small.bulk(), large.bulk());
    assert_eq!(too_much(&joins(3000, 3000).component()), "function_work");
}

#[test]
fn values_that_one_byte_asks_for_are_counted() {
    let many = " i32".repeat(1000);
    let calls = "(block (call $wide) (br 0))".repeat(3000);
    let wide = format!("(func $wide (result{many}) unreachable) (func {calls})");
    assert_eq!(too_much(&Guest::tame().and(wide).component()), "function_work");
    let targets = " 0".repeat(3_000_000);
    let table = format!("(func (br_table{targets} (i32.const 0)))");
    assert_eq!(too_much(&Guest::tame().and(table).component()), "function_work");
}

#[test]
fn many_functions_that_are_each_allowed_are_too_much_together() {
    // Four bytes ask for as many locals as a function may have.
    let locals = " i64".repeat(40_000);
    let all = format!("(func (local{locals}))").repeat(300);
    assert_eq!(too_much(&Guest::tame().and(all).component()), "compile_work");
}

#[test]
fn components_that_double_thirty_times_are_not_expanded() {
    let bytes = doubling(30);
    assert!(bytes.len() < 4096, "{}", bytes.len());
    assert_eq!(too_much(&bytes), "expanded_instances");
    let passed = "(component (component (import \"c\" (component)) (instance (instantiate 0))))";
    let passed = wat::parse_str(passed).expect("the text parses");
    let error = Plugin::from_bytes("x", &passed, &uncounted()).expect_err("unknown");
    assert!(error.to_string().contains("imports a component"), "{error}");
}

#[test]
fn a_compilation_that_takes_too_long_or_too_much_is_given_up() {
    let bytes = joins(2000, 2000).component();
    let started = Instant::now();
    let limits = Limits { compile_time: Duration::from_millis(50), ..uncounted() };
    let error = Plugin::from_bytes("slow", &bytes, &limits).expect_err("slow");
    assert_eq!(*error.kind, Problem::SlowToCompile(0));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let limits = Limits { compile_memory: 16 << 20, ..uncounted() };
    let error = Plugin::from_bytes("large", &bytes, &limits).expect_err("large");
    assert_eq!(*error.kind, Problem::LargeToCompile(16 << 20));
    assert_eq!(error.code(), Code(205));
    assert!(error.help().is_some_and(|help| help.contains("compile_memory=67108864")), "{error}");
}

/// What the counts let through by a hair is done within a second or two, and 200 MiB.
#[test]
fn the_most_that_is_let_through_is_little() {
    let bytes = joins(800, 800).component();
    let limits = Limits::default();
    let started = Instant::now();
    let plugin = Plugin::from_bytes("x", &bytes, &limits).expect("loads");
    let bulk = plugin.bulk();
    assert!(bulk.largest * 10 > limits.function_work * 9, "{bulk:?}");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    let peak = engraft_tests::peak_memory();
    assert!(peak < 400 << 20, "{peak}");
}

#[test]
fn shipped_plugins_are_a_fiftieth_of_what_is_allowed() {
    let limits = Limits::default();
    for found in Shelf::new([engraft_tests::plugins()]).all() {
        let bulk = Plugin::load(&found.path, &limits).expect("loads").bulk();
        let (name, whole) = (found.name, limits.compile_work / 50);
        assert!(bulk.work < whole && bulk.largest < limits.function_work / 50, "{name}: {bulk:?}");
    }
}
