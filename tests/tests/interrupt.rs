//! Ctrl-C ends evaluations. In a binary of its own: the request is the whole process's.

use engraft_diagnostic::{Code, Diagnostic};
use engraft_runtime::{LoadOptions, evaluate};
use engraft_tests::{engine, fixtures, load};

#[test]
fn an_interrupt_ends_an_evaluation() {
    let engine = engine(&fixtures().join("golden/llama-mha"), None);
    let mut model = load(&engine, &LoadOptions::default());
    let ids = [1, 2, 3, 4];
    evaluate::logits(&mut model, &[ids.to_vec()]).unwrap();
    engraft_files::interrupt::request();
    let error = evaluate::logits(&mut model, &[ids.to_vec()]).unwrap_err();
    assert_eq!(error.code(), Code(19));
    assert_eq!(error.fault().exit_code(), 130);
    evaluate::perplexity(&mut model, &ids, 4, 2, |_, _| {}).unwrap_err();
}
