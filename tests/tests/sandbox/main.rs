//! Hostile plugins: whatever a component does, what comes out is a typed error that says who,
//! where and why; nothing hangs, nothing grows, and the next plugin is not touched.
//!
//! | what a hostile component does                        | test                                  |
//! |------------------------------------------------------|---------------------------------------|
//! | 1 loops for ever                                     | `looping_for_ever_runs_out_of_fuel_at_the_same_instruction_each_time` |
//! | 2, 3 grows its memory, or begins with too much       | `growing_without_end_says_what_was_asked_for` |
//! | 4 recurses for ever                                  | `recursing_for_ever_stops_at_the_guests_own_stack` |
//! | 5, 6 traps; divides by zero                          | `a_trap_names_the_guests_function` |
//! | 7, 9, 10 returns a list past its memory; bytes that are no text; a crooked pointer | `lists_and_texts_must_lie_in_the_guests_memory` |
//! | 8 returns more than may cross in a call              | `what_crosses_in_one_call_is_bounded` |
//! | 11 returns a case that an enum does not have         | `a_case_that_there_is_not_is_refused` |
//! | 12 returns half of a pair as a character             | `no_answer_has_a_single_character` |
//! | 13 makes a call that the host refuses                | `a_call_that_does_not_fit_says_both_shapes` |
//! | 14, 15 imports WASI, or what we lack                 | `imports_are_ours_or_none` |
//! | 16 imports a function with another type              | `an_import_of_another_type_says_both_types` |
//! | 17 keeps the builder                                 | `the_builder_is_lent_for_one_call` |
//! | 18, 19 forges handles; mints them                    | `handles_are_bounded_and_cannot_be_forged` |
//! | 20, 41 is called after a trap; sits beside another   | `after_a_trap_a_session_is_over_and_another_is_not_touched` |
//! | 21, 22 is a core module, or garbage                  | `what_is_no_component_is_said_to_be_what_it_is` |
//! | 23, 24 wants shared memory, or relaxed SIMD          | `shared_memory_and_relaxed_simd_are_not_there` |
//! | 25 has two memories                                  | `a_second_memory_is_one_too_many` |
//! | 26 grows a table                                     | `a_table_is_bounded_too` |
//! | 27, 28 traps or loops as it starts                   | `a_start_function_is_metered_too` |
//! | 29 speaks another version                            | `another_patch_of_the_contract_links_and_another_minor_version_does_not` |
//! | 30 has an enum with fewer cases                      | `an_enum_with_fewer_cases_does_not_fit` |
//! | 31, 32 is code that was compiled elsewhere           | there is no cache of code: `what_is_no_component_is_said_to_be_what_it_is` |
//! | 33 calls without end, with long names                | `calls_without_end_hit_the_budget` |
//! | 34 uses values and weights of other places           | `values_and_weights_are_those_of_the_place` |
//! | 35 says sizes whose product wraps around, or zero    | `shapes_are_counted_without_wrapping_around` |
//! | 36 repeats a name; ties in a circle                  | `parameters_have_one_name_each_and_tie_to_the_embedding` |
//! | 37 names a tensor like a path, or with escape codes  | `a_name_is_a_key_and_never_a_path`, `a_name_must_be_short_and_printable` |
//! | 38 returns no value, ten thousand, or undefined ones | `what_a_place_returns_is_checked` |
//! | 39 says four billion blocks                          | `an_outline_of_four_billion_blocks_is_refused_before_any_loop` |
//! | 40 answers differently each time                     | `different_answers_for_one_question_are_found` |
//! | 42 is large, or is small and much to compile         | `a_file_over_the_cap_is_not_even_compiled`, and all of `compiling` |
//!
//! What a person sees of it, exit code and all, is in `outside`.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod compiling;
mod contract;
mod guest;
mod operations;
mod outside;

use engraft_diagnostic::{Diagnostic, Fault};
use engraft_ir::{DType, Graph, PlaceKind};
use engraft_plugin::{Exhausted, Limits, Plugin, PluginError, Problem, Session};
use guest::{FREE, Guest, bytes_at, parameter, words};
use std::time::Duration;

/// Limits that stop a hostile guest at once.
fn limits() -> Limits {
    Limits { fuel: 20_000_000, ..Limits::default() }
}

fn load(bytes: &[u8]) -> Result<Plugin, PluginError> {
    Plugin::from_bytes("hostile", bytes, &limits())
}

/// Loading it must fail; why.
fn refused(guest: &Guest) -> PluginError {
    let error = load(&guest.component()).expect_err("it is hostile");
    assert_eq!(error.fault(), Fault::Plugin, "{error}");
    error
}

fn opened(guest: &Guest) -> Session {
    let plugin = load(&guest.component()).expect("loads");
    let mut session = plugin.session().expect("starts");
    session.open(&[]).expect("answers").expect("accepts");
    session
}

fn graph(guest: &Guest) -> Result<Graph, PluginError> {
    opened(guest).write(&|_, _| DType::F32)
}

/// Writing its graph must fail; why.
fn rejected(guest: &Guest) -> PluginError {
    let error = graph(guest).expect_err("it is hostile");
    assert_eq!(error.fault(), Fault::Plugin, "{error}");
    error
}

/// Its answer must break the contract, in words that contain these.
fn broken(error: PluginError, words: &str) {
    assert!(matches!(*error.kind, Problem::Answer(_)), "{error}");
    assert!(error.to_string().contains(words), "{error}");
}

fn exhausted(error: &PluginError) -> &Exhausted {
    match &*error.kind {
        Problem::Limit(what) => what,
        _ => panic!("{error}"),
    }
}

/// A body of `write` that does something in the block and is tame elsewhere.
fn in_the_block(what: &str) -> Guest {
    let body = format!(
        "(if (i32.eq (local.get 2) (i32.const 1)) (then {what}))
         (call $tame (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4)
             (local.get 5))"
    );
    Guest::tame().with("[method]model.write", body).and(guest::tame_write())
}

#[test]
fn a_tame_plugin_writes_its_graph() {
    let graph = graph(&Guest::tame()).expect("a graph");
    let text = graph.to_string();
    assert!(text.contains("\"lm_head.weight\" f32 [8 vocabulary, 4] tied w0"), "{text}");
    let plugin = load(&Guest::tame().component()).expect("loads");
    assert_eq!(plugin.check_determinism("hugging-face", &[]), Ok(Ok(())));
}

#[test]
fn looping_for_ever_runs_out_of_fuel_at_the_same_instruction_each_time() {
    let error = refused(&Guest::tame().with("identify", "(loop br 0) unreachable"));
    assert_eq!(*exhausted(&error), Exhausted::Fuel(20_000_000));
    let error = rejected(&in_the_block("(loop br 0)"));
    assert_eq!((error.place, error.function), (Some(PlaceKind::Block(0)), "write"));
}

#[test]
fn growing_without_end_says_what_was_asked_for() {
    let grow = "(drop (memory.grow (i32.const 60000))) i32.const 1024";
    let error = refused(&Guest::tame().with("identify", grow));
    let asked = 60_004 * 65_536;
    assert_eq!(*exhausted(&error), Exhausted::Memory { asked, limit: 64 << 20 });
    let error = refused(&Guest::tame().memory("2000"));
    assert!(matches!(exhausted(&error), Exhausted::Memory { .. }), "{error}");
}

#[test]
fn a_table_is_bounded_too() {
    let grow = "(drop (table.grow $t (ref.null func) (i32.const 100000))) i32.const 1024";
    let error = refused(&Guest::tame().with("identify", grow).and("(table $t 1 funcref)"));
    assert_eq!(*exhausted(&error), Exhausted::Table { asked: 100_001, limit: 20_000 });
}

#[test]
fn recursing_for_ever_stops_at_the_guests_own_stack() {
    let error = refused(
        &Guest::tame()
            .with("identify", "(call $deep) i32.const 1024")
            .and("(func $deep call $deep call $deep)"),
    );
    assert_eq!(*exhausted(&error), Exhausted::Stack);
}

#[test]
fn a_trap_names_the_guests_function() {
    let error = refused(&Guest::tame().with("identify", "unreachable"));
    assert!(matches!(*error.kind, Problem::Trapped(_)), "{error}");
    assert_eq!(error.frames.first().map(String::as_str), Some("guest_identify"));
    let divide = "(i32.div_u (i32.const 1) (i32.const 0))";
    let error = refused(&Guest::tame().with("identify", divide));
    assert!(error.to_string().contains("divide by zero"), "{error}");
}

#[test]
fn a_panic_is_told_in_its_own_words_without_control_characters() {
    let fail = "(call $fail (i32.const 8192) (i32.const 8)) i32.const 1024";
    let guest = Guest::tame().with("identify", fail).and(bytes_at(FREE, b"oh\x1b[2J no"));
    let error = refused(&guest);
    assert_eq!(*error.kind, Problem::Failed("oh\\u{1b}[2J n".into()));
}

#[test]
fn what_is_no_component_is_told_apart() {
    let kind = |bytes: &[u8]| *load(bytes).expect_err("no component").kind;
    let module = wat::parse_str("(module)").expect("parses");
    assert_eq!(kind(&module), Problem::NotAComponent("a core WebAssembly module"));
    assert_eq!(kind(b""), Problem::NotAComponent("an empty file"));
    assert_eq!(kind(b"{}"), Problem::NotAComponent("some other file"));
    assert!(matches!(kind(b"\0asm\x0d\0\x01\0garbage"), Problem::Invalid(_)));
    let mut cut = Guest::tame().component();
    cut.truncate(cut.len() / 2);
    assert!(matches!(kind(&cut), Problem::Invalid(_)));
}

#[test]
fn a_file_over_the_cap_is_not_even_compiled() {
    let bytes = Guest::tame().component();
    let limits = Limits { component_bytes: 100, ..Limits::default() };
    let error = Plugin::from_bytes("large", &bytes, &limits).expect_err("too large");
    assert_eq!(*error.kind, Problem::TooLarge { size: bytes.len() as u64, limit: 100 });
    let limits = Limits { compile_time: Duration::ZERO, ..Limits::default() };
    let error = Plugin::from_bytes("slow", &bytes, &limits).expect_err("too slow");
    assert_eq!(*error.kind, Problem::SlowToCompile(0));
}

fn component(text: &str) -> Problem {
    let bytes = wat::parse_str(text).expect("the text parses");
    *load(&bytes).expect_err("it does not fit").kind
}

#[test]
fn imports_are_ours_or_none() {
    let wasi = r#"(component (import "wasi:cli/environment@0.2.3" (instance
        (export "get-arguments" (func (result (list string)))))))"#;
    let name = "wasi:cli/environment@0.2.3".to_owned();
    assert_eq!(component(wasi), Problem::ForbiddenImport { name, wasi: true });
    let other = r#"(component (import "host" (func)))"#;
    assert!(matches!(component(other), Problem::ForbiddenImport { wasi: false, .. }));
    let newer = r#"(component (import "engraft:plugin/graph@0.2.0" (instance)))"#;
    assert!(matches!(component(newer), Problem::UnknownVersion { .. }));
    let nothing = Problem::NoExport("engraft:plugin/architecture@0.1.0".into());
    assert_eq!(component("(component)"), nothing);
    let lacking = r#"(component
        (import "engraft:plugin/report@0.1.9" (instance (export "sing" (func))))
        (instance $i) (export "engraft:plugin/architecture@0.1.9" (instance $i)))"#;
    let Problem::Unlinkable(why) = component(lacking) else { panic!("it links") };
    assert!(why.contains("sing"), "{why}");
}

#[test]
fn shared_memory_and_relaxed_simd_are_not_there() {
    let shared = "(component (core module (memory 1 1 shared)))";
    assert!(matches!(component(shared), Problem::Invalid(_)));
    let relaxed = "(component (core module (func (drop (f32x4.relaxed_madd
        (v128.const i64x2 0 0) (v128.const i64x2 0 0) (v128.const i64x2 0 0))))))";
    assert!(matches!(component(relaxed), Problem::Invalid(_)));
}

#[test]
fn lists_and_texts_must_lie_in_the_guests_memory() {
    let far = words(FREE, &[0xffff_ff00, 0x7fff_ffff]);
    let guest = Guest::tame().with("fields", "i32.const 8192").and(&far);
    broken(opened(&guest).fields().expect_err("hostile"), "out of bounds");
    let ill = words(FREE, &[8300, 2, 2104, 5, 1072, 1, 1080, 1, 2096, 4]);
    let guest = Guest::tame().with("identify", "i32.const 8192");
    broken(refused(&guest.and(ill + &bytes_at(8300, b"\xff\xfe"))), "utf-8");
    broken(refused(&Guest::tame().with("identify", "i32.const 1025")), "not aligned");
}

#[test]
fn what_crosses_in_one_call_is_bounded() {
    // Well inside the guest's memory, so that only the bound on a call can stop it.
    let long = words(FREE, &[131_072, 8_000]);
    let guest = Guest::tame().with("[method]model.unused", "i32.const 8192").and(&long);
    let limits = Limits { call_bytes: 1 << 16, ..limits() };
    let plugin = Plugin::from_bytes("x", &guest.component(), &limits).expect("loads");
    let mut session = plugin.session().expect("starts");
    session.open(&[]).expect("answers").expect("accepts");
    broken(session.unused("hugging-face").expect_err("hostile"), "hostcalls");
}

#[test]
fn a_name_must_be_short_and_printable() {
    let named = |at: u32, length: u32| words(FREE, &[at, length, 2104, 5, 1072, 1, 1080, 1, 0, 0]);
    let guest = |data: String| Guest::tame().with("identify", "i32.const 8192").and(data);
    broken(refused(&guest(named(0, 1000))), "its name is");
    broken(refused(&guest(named(8300, 4) + &bytes_at(8300, b"\x1b[2J"))), "its name is");
    let speaking = parameter(FREE, (8350, 4), 0, [2144, 6, 0, 0, 1344, 2])
        + &words(8300, &[FREE, 1])
        + &bytes_at(8350, b"\x1b[2J");
    let guest = Guest::tame().with("[method]model.parameters", "i32.const 8300").and(speaking);
    let error = opened(&guest).parameters(PlaceKind::Embed, "hugging-face");
    broken(error.expect_err("hostile"), "control characters");
    let long = parameter(FREE, (16_384, 513), 0, [2144, 6, 0, 0, 1344, 2])
        + &words(8300, &[FREE, 1])
        + &bytes_at(16_384, &[b'a'; 513]);
    let guest = Guest::tame().with("[method]model.parameters", "i32.const 8300").and(long);
    let error = opened(&guest).parameters(PlaceKind::Embed, "hugging-face");
    broken(error.expect_err("hostile"), "513 bytes");
}

#[test]
fn an_outline_of_four_billion_blocks_is_refused_before_any_loop() {
    let guest = Guest::tame()
        .with("[method]model.outline", "i32.const 8192")
        .and(words(FREE, &[u32::MAX, 8, 16]));
    broken(rejected(&guest), "4294967295 blocks");
}

#[test]
fn values_and_weights_are_those_of_the_place() {
    let call = |x: u32| format!("(drop (call $add (local.get 1) (i32.const {x}) (i32.const {x})))");
    let error = rejected(&in_the_block(&call(99)));
    let why = "add: value v99 is not defined; this place was handed v1 f32 [tokens, 4], and has \
               defined none yet";
    assert_eq!(*error.kind, Problem::Rejected(why.into()));
    assert_eq!(error.frames.first().map(String::as_str), Some("guest__method_model_write"));
    let error = rejected(&in_the_block(&call(0)));
    let why = "plugin tame 0.1.0, block 0: add: value v0 i32 [tokens] is of embed and was not \
               handed on; this place was handed v1 f32 [tokens, 4]";
    assert_eq!(error.to_string(), why);
    let other = "(drop (call $norm (local.get 1) (i32.const 1) (i32.const 0) (f64.const 1)))";
    let error = rejected(&in_the_block(other));
    let why = "rms_norm: weight w0 `transformer.embed.we` [8, 4] is of embed: ask the builder for \
               a parameter of this place";
    assert_eq!(*error.kind, Problem::Rejected(why.into()));
    let far = "(drop (call $norm (local.get 1) (i32.const 1) (i32.const -1) (f64.const 1)))";
    let error = rejected(&in_the_block(far));
    assert!(error.to_string().ends_with("weight w4294967295 is not declared"), "{error}");
    let label = "(call $label (local.get 1) (i32.const 7) (i32.const 0) (i32.const 1))";
    let error = rejected(&in_the_block(label));
    assert!(error.to_string().contains("label: value v7 is not defined"), "{error}");
    assert_eq!(error.place, Some(PlaceKind::Block(0)));
}

#[test]
fn a_call_that_does_not_fit_says_both_shapes() {
    // The gain has one axis; a linear layer's weight has two.
    let wrong = "(drop (call $linear (local.get 1) (i32.const 1)
        (call $parameter (local.get 1) (i32.const 2064) (i32.const 4))
        (i32.const 0) (i32.const 0)))";
    let error = rejected(&in_the_block(wrong));
    assert!(matches!(*error.kind, Problem::Rejected(_)), "{error}");
    assert!(error.to_string().starts_with("plugin tame 0.1.0, block 0: linear: weight"), "{error}");
}

#[test]
fn numbers_that_make_no_sense_are_refused_where_they_are_given() {
    let gain = "(call $parameter (local.get 1) (i32.const 2064) (i32.const 4))";
    let heads = |width: u32| {
        format!(
            "(drop (call $norm_heads (local.get 1) (i32.const 1) {gain} (i32.const {width})
                (f64.const 1e-6)))"
        )
    };
    let one = |call: &str| format!("(drop (call {call}))");
    let attention = |call: &str| {
        call.replace("HEADS", "(call $attention (i32.const 2) (i32.const 1) (i32.const 2))")
    };
    let cases = [
        (one("$scale (local.get 1) (i32.const 1) (f64.const inf)"), "scale: factor is inf"),
        (one("$softcap (local.get 1) (i32.const 1) (f64.const 0)"), "softcap: bound is 0.0"),
        (
            one("$clamp (local.get 1) (i32.const 1) (f64.const 2) (f64.const -2)"),
            "clamp: low is 2.0: it must be less than high, -2.0",
        ),
        (heads(3), "its width must be a multiple of head_width, 3"),
        (heads(0), "head_width is 0"),
        (
            one("$layer_norm (local.get 1) (i32.const 1) (i32.const 0) (i32.const 0)
                (i32.const 1) (i32.const 0) (f64.const 1e-5)"),
            "weight w0 `transformer.embed.we` [8, 4] is of embed",
        ),
        (
            one("$positions (local.get 1) (i32.const 0)"),
            "weight w0 `transformer.embed.we` [8, 4] is of embed",
        ),
        ("(call $window HEADS (i32.const 0))".into(), "attention: window is 0"),
        ("(call $cap HEADS (f64.const nan))".into(), "attention: softcap is NaN"),
        (
            "(call $alibi HEADS (i32.const 1024) (i32.const 3))".into(),
            "attention: alibi has 3 slopes: they must be as many as query_heads, 2",
        ),
    ];
    for (call, words) in cases {
        let error = rejected(&in_the_block(&attention(&call)));
        assert!(matches!(*error.kind, Problem::Rejected(_)), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn calls_without_end_hit_the_budget() {
    let label = "(loop (call $label (local.get 1) (i32.const 1) (i32.const 0) (i32.const 1)) br 0)";
    let error = rejected(&in_the_block(label));
    let what = "calls on the builder in one place";
    assert_eq!(*exhausted(&error), Exhausted::Budget { what, limit: 10_000 });
    let long = "(call $label (local.get 1) (i32.const 1) (i32.const 0) (i32.const 300))";
    let error = rejected(&in_the_block(long));
    assert_eq!(*exhausted(&error), Exhausted::Budget { what: "bytes in a label", limit: 256 });
}

#[test]
fn handles_are_bounded_and_cannot_be_forged() {
    let options = "(call $rotary (i32.const 4) (i32.const 4) (f64.const 1e4))";
    let error = rejected(&in_the_block(&format!("(loop (drop {options}) br 0)")));
    assert!(matches!(*error.kind, Problem::Answer(_)), "{error}");
    let mint = "(loop (drop (call $new (i32.const 1))) br 0)";
    broken(rejected(&in_the_block(mint)), "handle limit");
    let forged = "(call $label (i32.const 12345) (i32.const 1) (i32.const 0) (i32.const 1))";
    broken(rejected(&in_the_block(forged)), "unknown handle index 12345");
}

#[test]
fn what_a_place_returns_is_checked() {
    let returns = |list: [u32; 2], values: &[u32]| {
        let body = "(drop (call $tame (local.get 0) (local.get 1) (local.get 2) (local.get 3)
            (local.get 4) (local.get 5))) i32.const 8192";
        let data = words(FREE, &list) + &words(8300, values);
        Guest::tame().with("[method]model.write", body).and(guest::tame_write()).and(data)
    };
    broken(rejected(&returns([8300, 0], &[])), "returned no value");
    broken(rejected(&returns([8300, 1], &[77])), "returned a value: value v77 is not defined");
    let error = rejected(&returns([8300, 10_000], &[]));
    assert!(matches!(exhausted(&error), Exhausted::Budget { .. }), "{error}");
}

#[test]
fn shapes_are_counted_without_wrapping_around() {
    let sized = |low: u32, high: u32| {
        let axes = words(8400, &[low, high, 1, 0, u32::MAX, u32::MAX, 0, 0]);
        let all = parameter(FREE, (2048, 8), 0, [2144, 6, 0, 0, 8400, 2]);
        let data = all + &axes + &words(8300, &[FREE, 1]);
        Guest::tame().with("[method]model.parameters", "i32.const 8300").and(data)
    };
    broken(rejected(&sized(0, 0)), "may be 0");
    broken(rejected(&sized(u32::MAX, u32::MAX)), "fewer than 2^63 bytes");
    broken(rejected(&sized(0, 1 << 31)), "fewer than 2^63 bytes");
}

#[test]
fn parameters_have_one_name_each_and_tie_to_the_embedding() {
    let list = |all: String| {
        let data = all + &words(8300, &[FREE, 2]);
        Guest::tame().with("[method]model.parameters", "i32.const 8300").and(data)
    };
    let plain = |at| parameter(at, (2048, 8), 0, [2144, 6, 0, 0, 1344, 2]);
    broken(rejected(&list(plain(FREE) + &plain(FREE + 40))), "two parameters are named");
    let itself = parameter(FREE + 40, (2064, 4), 3, [2064, 4, 0, 0, 0, 0]);
    broken(rejected(&list(plain(FREE) + &itself)), "is tied to `gain`");
    // A circle has no first one, which alone could have bytes.
    let circle = parameter(FREE, (2048, 8), 3, [2064, 4, 0, 0, 0, 0])
        + &parameter(FREE + 40, (2064, 4), 3, [2048, 8, 0, 0, 0, 0]);
    broken(rejected(&list(circle)), "is tied to `gain`, and the embedding has none of that name");
}

#[test]
fn a_name_is_a_key_and_never_a_path() {
    let name = b"../../etc/passwd";
    let all = parameter(FREE, (8300, 16), 0, [2144, 6, 0, 0, 1344, 2]);
    let data = all + &words(8400, &[FREE, 1]) + &bytes_at(8300, name);
    let guest = Guest::tame().with("[method]model.parameters", "i32.const 8400").and(data);
    let all = opened(&guest).parameters(PlaceKind::Embed, "hugging-face").expect("a name");
    assert_eq!(all[0].name.as_bytes(), name);
}

#[test]
fn what_is_declared_must_be_used_and_what_is_used_declared() {
    let idle = "(call $give_back (local.get 1)) (i32.store (i32.const 4096) (i32.const 0))
        (i32.store (i32.const 4104) (i32.const 4096)) (i32.store (i32.const 4108) (i32.const 1))
        i32.const 4104";
    let guest = Guest::tame().with("[method]model.write", idle);
    broken(rejected(&guest), "declares the parameter `embed.we` and never asks");
    let ask = "(drop (call $parameter (local.get 1) (i32.const 2048) (i32.const 7)))";
    let error = rejected(&in_the_block(ask));
    assert!(
        error.to_string().contains("parameter: this place declares no `embed.w`; it declares 1"),
        "{error}"
    );
}

#[test]
fn the_builder_is_lent_for_one_call() {
    let keep = "(i32.store (i32.const 4096) (i32.const 0)) i32.const 4104";
    broken(rejected(&Guest::tame().with("[method]model.write", keep)), "borrow handles");
}

#[test]
fn different_answers_for_one_question_are_found() {
    // The outline's third word counts the calls.
    let counting =
        "(i32.store (i32.const 1128) (i32.add (i32.load (i32.const 1128)) (i32.const 1)))
        (i32.store (i32.const 1376) (i32.add (i32.load (i32.const 1376)) (i32.const 1)))
        (i32.add (i32.const 1160) (i32.mul (local.get 1) (i32.const 8)))";
    let guest = Guest::tame().with("[method]model.parameters", counting);
    let plugin = load(&guest.component()).expect("loads");
    let error = plugin.check_determinism("hugging-face", &[]).expect_err("it counts");
    assert!(matches!(*error.kind, Problem::Nondeterministic(_)), "{error}");
    assert_eq!(error.function, "parameters");
}

#[test]
fn a_dialect_that_says_another_shape_is_found() {
    // In the second dialect, whose name has four bytes, the block's gain has five elements.
    let parameters = "(if (result i32)
        (i32.and (i32.eq (local.get 4) (i32.const 4)) (i32.eq (local.get 1) (i32.const 1)))
        (then (i32.const 8300))
        (else (i32.add (i32.const 1160) (i32.mul (local.get 1) (i32.const 8)))))";
    let dialects = words(8400, &[2096, 4, 2104, 5, 1072, 1, 8448, 2, 2096, 4])
        + &words(8448, &[2128, 12, 8480, 4])
        + &bytes_at(8480, b"gguf");
    let gain = parameter(FREE, (2064, 4), 0, [2144, 6, 0, 0, 8336, 1])
        + &words(8300, &[FREE, 1])
        + &words(8336, &[5, 0, 0, 0]);
    let two = Guest::tame().with("identify", "i32.const 8400").and(dialects).and(gain);
    let plugin = load(&two.component()).expect("loads");
    assert_eq!(plugin.check_dialects(&[]), Ok(Ok(())));
    let plugin =
        load(&two.with("[method]model.parameters", parameters).component()).expect("loads");
    let error = plugin.check_dialects(&[]).expect_err("they disagree");
    assert_eq!(error.place, Some(PlaceKind::Block(0)));
    broken(error, "parameter 0 is `gain` [4] in hugging-face and `gain` [5] in gguf");
}

#[test]
fn after_a_trap_a_session_is_over_and_another_is_not_touched() {
    let before = graph(&Guest::tame()).expect("a graph").to_string();
    let mut session = opened(&in_the_block("unreachable"));
    assert!(session.write(&|_, _| DType::F32).is_err());
    let error = session.outline().and_then(|_| session.write(&|_, _| DType::F32));
    assert!(matches!(*error.expect_err("it is over").kind, Problem::Misused(_)));
    assert_eq!(graph(&Guest::tame()).expect("a graph").to_string(), before);
}

#[test]
fn a_start_function_is_metered_too() {
    let error = refused(&Guest::tame().and("(func $s (loop br 0)) (start $s)"));
    assert!(matches!(exhausted(&error), Exhausted::Fuel(_)), "{error}");
    let error = refused(&Guest::tame().and("(func $s unreachable) (start $s)"));
    assert!(matches!(*error.kind, Problem::Trapped(_)), "{error}");
}
