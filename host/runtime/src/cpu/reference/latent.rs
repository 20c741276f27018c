//! Latent attention as DeepSeek's is run, sinks, and rotary embeddings with two sorts of angles.

use super::{check_bits, check_logits, model, text};
use crate::batcher::{Batcher, Step};
use crate::evaluate::logits;
use crate::testing;

/// Requests of at most 50 tokens take short angles in the last block, and of at most 30 in the
/// first.
const TEXT: &str = r#"graph 1
r0 = rotary head_width=4 rotated=4 base=10000.0 scaling=long short=[1.0, 1.5] long=[2.0, 9.0] attention=1.125 context=30
r1 = rotary head_width=4 rotated=4 base=150000.0 scaling=yarn factor=8.0 fast=32.0 slow=1.0 context=64 untruncated
r2 = rotary head_width=8 rotated=6 base=10000.0 scaling=long short=[1.0, 1.25, 2.0] long=[1.5, 4.0, 64.0] attention=1.1875 context=50
place embed {
    w0 = weight "t" f32 [97 vocabulary, 32]
    v0 = tokens
    v1 = embedding v0, w0
    return v1
}
place block 0 {
    s0 = cache key_heads=1 head_width=32 keys_only
    w1 = weight "n" f32 [32]
    w2 = weight "q" f32 [64, 32]
    w3 = weight "kv" f32 [32, 32]
    w4 = weight "kn" f32 [24]
    w5 = weight "k_b" f32 [4, 24, 8]
    w6 = weight "v_b" f32 [4, 8, 24]
    w7 = weight "o" f32 [32, 32]
    v2 = rms_norm v1, w1, epsilon=1e-5
    v3 = linear v2, w2
    v4, v5, v6 = split v3, [32, 16, 16]
    v7 = linear_heads v4, w5, heads=4
    v8 = rotate v5, r0
    v9 = rotate v6, r1
    v10 = concat v7, v8, v9, heads=4
    v11 = linear v2, w3
    v12, v13, v14 = split v11, [24, 4, 4]
    v15 = rms_norm v12, w4, epsilon=1e-6
    v16 = rotate v13, r0
    v17 = rotate v14, r1
    v18 = concat v15, v16, v17, heads=1
    v19 = attend v10, v18, v18, s0, query_heads=4 scale=0.25 latent=24
    v20 = linear_heads v19, w6, heads=4
    v21 = linear v20, w7
    v22 = add v1, v21
    return v22
}
place block 1 {
    s1 = cache key_heads=2 head_width=8
    w8 = weight "n1" f32 [32]
    w9 = weight "qkv" f32 [64, 32]
    w10 = weight "sinks" f32 [4]
    w11 = weight "h" f32 [2, 16, 16]
    w12 = weight "hb" f32 [32]
    v23 = rms_norm v22, w8, epsilon=1e-5
    v24 = linear v23, w9
    v25, v26, v27 = split v24, [32, 16, 16]
    v28 = rotate v25, r2
    v29 = rotate v26, r2
    v30 = attend v28, v29, v27, s1, query_heads=4 scale=0.35 window=9 sinks=w10
    v31 = linear_heads v30, w11, w12, heads=2
    v32 = add v22, v31
    return v32
}
place block 2 {
    s2 = cache key_heads=2 head_width=12 keys_only
    w13 = weight "sinks2" f32 [4]
    w14 = weight "q2" f32 [48, 32]
    w15 = weight "k2" f32 [24, 32]
    w16 = weight "o2" f32 [32, 40]
    v33 = linear v32, w14
    v34 = linear v32, w15
    v35 = attend v33, v34, v34, s2, query_heads=4 scale=0.3 window=20 softcap=3.0 alibi=[0.5, 0.25, 0.125, 0.0] sinks=w13 latent=10
    v36 = linear v35, w16
    v37 = add v32, v36
    return v37
}
place head {
    w17 = weight "n2" f32 [32]
    w18 = weight "lm" f32 [97 vocabulary, 32]
    v38 = rms_norm v37, w17, epsilon=1e-5
    v39 = linear v38, w18
    return v39
}
"#;

#[test]
fn latent_attention_sinks_and_long_angles_do_what_their_definitions_say() {
    check_logits(TEXT);
}

#[test]
fn latent_attention_sinks_and_long_angles_give_the_same_bits_however_they_are_run() {
    check_bits(TEXT);
}

/// The logits of a prompt's last token, of a request that may come to `reach` tokens.
fn last_row(of: &str, prompt: &[u32], reach: usize) -> Vec<f32> {
    let mut model = model(of, testing::options());
    let mut batcher = Batcher::new(&mut model);
    batcher.join(prompt, prompt.len() - 1, reach - prompt.len()).expect("joins");
    let mut found = Vec::new();
    while !batcher.is_idle() {
        let look = |_, _, row: &[f32]| {
            found = row.to_vec();
            Ok(Step::Leave)
        };
        batcher.step(look).expect("a step");
    }
    found
}

#[test]
fn a_request_turns_by_what_it_may_come_to_from_its_first_token_on() {
    let prompt = text(23);
    let short =
        logits(&mut model(TEXT, testing::options()), std::slice::from_ref(&prompt)).expect("runs");
    let short = &short[0][22 * testing::VOCABULARY..];
    assert_eq!(last_row(TEXT, &prompt, 30), short);
    // Past the one context and not past the other, and past both.
    let r0 = TEXT.replace("short=[1.0, 1.5]", "short=[2.0, 9.0]");
    assert_eq!(last_row(TEXT, &prompt, 50), last_row(&r0, &prompt, 30));
    let both = r0.replace("short=[1.0, 1.25, 2.0]", "short=[1.5, 4.0, 64.0]");
    assert_eq!(last_row(TEXT, &prompt, 51), last_row(&both, &prompt, 23));
    assert_ne!(last_row(TEXT, &prompt, 51), last_row(TEXT, &prompt, 50));
    assert_ne!(last_row(TEXT, &prompt, 50), short);
}
