//! The text form both ways, over graphs as a plugin writes them and as passes leave them.

use engraft_ir::{
    Activation, AttentionData, Axis, DType, Graph, Meaning, Op, Place, PlaceKind, RotaryData,
    Scaling, Segment, StateData, Value, Weight, WeightData, parse, verify,
};

const WIDTH: u64 = 64;
const QUERY: u64 = 64;
const KEY: u64 = 32;
const INNER: u64 = 160;

/// Appends one operation and gives its first result.
fn put(graph: &mut Graph, place: Place, op: Op) -> Value {
    let node = graph.append(place, op).expect("the operands fit");
    graph.result(node)
}

fn weight(graph: &mut Graph, place: Place, name: String, axes: Vec<Axis>) -> Weight {
    graph.make_weight(place, WeightData::plain(name, DType::BF16, axes))
}

fn plain(size: u64) -> Axis {
    Axis::new(size, Meaning::Plain)
}

fn block(graph: &mut Graph, i: u32, input: Value, scaling: Scaling) -> Value {
    let place = graph.make_place(PlaceKind::Block(i));
    let name = |tail: &str| format!("transformer.layers.{i}.{tail}.weight");
    let fused = |parts: &[(u64, Meaning)]| Axis {
        segments: parts.iter().map(|&(size, meaning)| Segment { size, meaning }).collect(),
    };
    let norm1 = weight(graph, place, name("input_layernorm"), vec![plain(WIDTH)]);
    let parts = [(QUERY, Meaning::QueryHeads), (KEY, Meaning::KeyHeads), (KEY, Meaning::KeyHeads)];
    let qkv = weight(graph, place, name("attention.qkv"), vec![fused(&parts), plain(WIDTH)]);
    let bias = weight(graph, place, format!("bias {i} \"q\\k\""), vec![fused(&parts)]);
    let dense = vec![plain(WIDTH), Axis::new(QUERY, Meaning::QueryHeads)];
    let dense = weight(graph, place, name("attention.dense"), dense);
    let norm2 = weight(graph, place, name("post_layernorm"), vec![plain(WIDTH)]);
    let inner = || vec![Axis::new(INNER, Meaning::FeedForward), plain(WIDTH)];
    let fc = weight(graph, place, name("mlp.fc"), inner());
    let gate = weight(graph, place, name("mlp.gate"), inner());
    let down = vec![plain(WIDTH), Axis::new(INNER, Meaning::FeedForward)];
    let down = weight(graph, place, name("mlp.proj"), down);

    let interleaved = i % 2 == 1;
    let rotary = RotaryData { head_width: 16, rotated: 16, base: 1e4, scaling, interleaved };
    let rotary = graph.make_rotary(rotary);
    let cache = StateData::Cache { key_heads: 2, head_width: 16, keys_only: false };
    let cache = graph.states.push(cache);
    let x = put(graph, place, Op::RmsNorm { input, weight: norm1, epsilon: 1e-5 });
    let x = put(graph, place, Op::Linear { input: x, weight: qkv, bias: Some(bias) });
    let cut = graph.append(place, Op::Split { input: x, sizes: vec![QUERY, KEY, KEY] });
    let [query, key, value] = graph.nodes[cut.expect("the sizes fit")].results[..] else {
        unreachable!("a split gives a value a size")
    };
    graph.labels[value] = Some("the values;\n \"so\"".to_string());
    let query = put(graph, place, Op::Rotate { input: query, rotary });
    let key = put(graph, place, Op::Rotate { input: key, rotary });
    let options = AttentionData::new(4, 2, 16, 0.25);
    let attend = Op::Attend { query, key, value, cache, rotary: None, options };
    let x = put(graph, place, attend);
    let x = put(graph, place, Op::Linear { input: x, weight: dense, bias: None });
    let residual = put(graph, place, Op::Add { left: input, right: x });
    let x = put(graph, place, Op::RmsNorm { input: residual, weight: norm2, epsilon: 1e-5 });
    let up = put(graph, place, Op::Linear { input: x, weight: gate, bias: None });
    let x = put(graph, place, Op::Linear { input: x, weight: fc, bias: None });
    let x = put(graph, place, Op::Activate { input: x, activation: Activation::Silu });
    let x = put(graph, place, Op::Multiply { left: x, right: up });
    let x = put(graph, place, Op::Linear { input: x, weight: down, bias: None });
    let out = put(graph, place, Op::Add { left: residual, right: x });
    graph.places[place].carry = vec![out];
    out
}

/// A decoder of so many blocks.
fn decoder(blocks: u32) -> Graph {
    let mut graph = Graph::new();
    let embed = graph.make_place(PlaceKind::Embed);
    let table = || vec![Axis::new(100, Meaning::Vocabulary), plain(WIDTH)];
    let tokens = put(&mut graph, embed, Op::Tokens);
    let name = "transformer.vocab_embedding.weight".to_string();
    let base = weight(&mut graph, embed, name, table());
    let mut x = put(&mut graph, embed, Op::Embedding { tokens, table: base, stretch: None });
    graph.places[embed].carry = vec![x];
    let scalings = [
        Scaling::None,
        Scaling::Linear { factor: 4.0 },
        Scaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, context: 8192 },
        Scaling::Yarn {
            factor: 4.0,
            fast: 32.0,
            slow: 1.0,
            attention: None,
            context: 4096,
            untruncated: false,
        },
        Scaling::Yarn {
            factor: 4.0,
            fast: 32.0,
            slow: 1.0,
            attention: Some(1.1),
            context: 4096,
            untruncated: false,
        },
    ];
    for (i, scaling) in (0..blocks).zip(scalings.into_iter().cycle()) {
        x = block(&mut graph, i, x, scaling);
    }
    let head = graph.make_place(PlaceKind::Head);
    let norm = weight(&mut graph, head, "transformer.ln_f.weight".to_string(), vec![plain(WIDTH)]);
    let out = weight(&mut graph, head, "lm_head.weight".to_string(), table());
    graph.weights[out].tied = Some(base);
    let x = put(&mut graph, head, Op::RmsNorm { input: x, weight: norm, epsilon: 1e-6 });
    let logits = put(&mut graph, head, Op::Linear { input: x, weight: out, bias: None });
    graph.places[head].carry = vec![logits];
    graph
}

/// What passes make, beside the rest, and operations and options that the decoder has not.
const FUSED: &str = r#"graph 1
r0 = rotary head_width=4 rotated=2 base=500000.0
place embed {
    w0 = weight "e" f32 [10 vocabulary, 8]
    v0 = tokens
    v1 = embedding v0, w0
    return v1
}
place block 0 {
    s0 = cache key_heads=1 head_width=4
    w1 = weight "k" f16 [4 key_heads, 8]
    w2 = weight "n" f16 [8]
    v2 = linear v1, w1
    v3 = attend v1, v2, v2, s0, query_heads=2 scale=0.5 rotary=r0
    v4, v5 = add_rms_norm v1, v3, w2, epsilon=0.001
    v6 = gate v4, v5, gelu_new
    return v6
}
place block 1 {
    s1 = cache key_heads=1 head_width=4
    w3 = weight "p" f16 [64, 8]
    w4 = weight "h" f16 [4]
    w5 = weight "g" f16 [8]
    v7 = positions w3
    v8 = add v6, v7
    v9 = layer_norm v8, w5, _, epsilon=1e-5
    v10 = rms_norm_heads v9, w4, head_width=4 epsilon=1e-6
    v11, v12 = split v10, [4, 4]
    v13 = layer_norm_heads v11, w4, head_width=4 epsilon=1e-6
    v14 = attend v10, v12, v13, s1, query_heads=2 scale=0.5 window=16 softcap=50.0 alibi=[0.5, 0.25]
    v15 = scale v14, factor=12.0
    v16 = clamp v15, low=-8.0 high=8.0
    return v16
}
place head {
    v17 = outputs v16
    w6 = weight "o" f32 [10 vocabulary, 8]
    v18 = linear v17, w6
    v19 = softcap v18, bound=30.0
    return v19
}
"#;

/// Heads, experts and what is kept of requests, with every option.
const EXPERTS: &str = r#"graph 1
r0 = rotary head_width=4 rotated=4 base=10000.0 scaling=long short=[1.0, 1.25] long=[1.5, 64.0] attention=1.19 context=4096
r1 = rotary head_width=8 rotated=4 base=10000.0 scaling=yarn factor=32.0 fast=32.0 slow=1.0 context=4096 untruncated
place embed {
    w0 = weight "e" f32 [10 vocabulary, 8]
    v0 = tokens
    v1 = embedding v0, w0
    return v1
}
place block 0 {
    s0 = cache key_heads=1 head_width=8 keys_only
    s1 = convolution channels=8 taps=4
    s2 = recurrence channels=8
    w1 = weight "h" f16 [2, 6, 4 latent]
    w2 = weight "hb" f16 [12]
    w3 = weight "s" f16 [2]
    w4 = weight "c" f16 [8 recurrent, 4]
    w5 = weight "cb" f16 [8]
    w6 = weight "d" f16 [8]
    v2 = linear_heads v1, w1, w2, heads=2
    v3, v4 = split v1, [4, 4]
    v5 = rotate v3, r0
    v6 = concat v2, v5, heads=2
    v7 = rotate v1, r1
    v8 = attend v6, v7, v7, s0, query_heads=2 scale=0.5 sinks=w3 latent=4
    v9 = convolve v8, w4, w5, s1
    v10 = recur v9, v8, v7, w6, s2
    return v10
}
place block 1 {
    w7 = weight "r" f32 [4 experts, 8]
    w8 = weight "u" f16 [4 experts, 12 feed_forward, 8]
    w9 = weight "w" f16 [4 experts, 8, 6 feed_forward]
    w10 = weight "p" f32 [4]
    w11 = weight "ub" f16 [4 experts, 12]
    w12 = weight "wb" f16 [4 experts, 8]
    v11 = linear v10, w7
    v12 = mix v10, v11, w8, w9, chosen=2 activation=silu sigmoid renormalize scale=2.5 prefer=w10 groups=2 chosen_groups=1 best=2 up_bias=w11 down_bias=w12 bound=7.0 slope=1.702
    v13, v14 = split v12, [7, 1]
    v15 = activate v14, sigmoid
    v16 = multiply v12, v15
    return v16
}
place head {
    v17 = outputs v16
    return v17
}
"#;

fn reprint(text: &str) -> String {
    parse(text).unwrap_or_else(|error| panic!("{error}\n{text}")).to_string()
}

#[test]
fn a_decoder_verifies_and_reads_back() {
    let graph = decoder(5);
    assert_eq!(verify(&graph), Ok(()));
    let text = graph.to_string();
    let label = " \"the values;\\u{a} \\\"so\\\"\"";
    assert_eq!(reprint(&text), text.replace(label, ""), "all but labels");
    let read = parse(&text).expect("it parses");
    assert_eq!(verify(&read), Ok(()));
    assert_eq!(read.values.values().collect::<Vec<_>>(), graph.values.values().collect::<Vec<_>>());
    assert_eq!(read.nodes.values().collect::<Vec<_>>(), graph.nodes.values().collect::<Vec<_>>());
    assert!(read.weights.values().eq(graph.weights.values()));
    assert!(read.states.values().eq(graph.states.values()));
    assert!(read.rotaries.values().eq(graph.rotaries.values()));
    assert!(read.places.values().eq(graph.places.values()));
    assert!(graph.weights.keys().all(|w| read.homes[w] == graph.homes[w]));
}

#[test]
fn what_passes_make_reads_back() {
    for text in [FUSED, EXPERTS] {
        let printed = reprint(text);
        assert_eq!(reprint(&printed), printed);
        assert_eq!(verify(&parse(text).expect("it parses")), Ok(()));
    }
}

#[test]
fn dense_numbers_stay_as_they_are() {
    let read = |text| parse(text).expect("it parses");
    for graph in [decoder(5), read(FUSED), read(EXPERTS)] {
        assert_eq!(graph.renumber().to_string(), graph.to_string());
    }
}

/// The same sequence on every machine.
struct Xorshift(u64);

impl Xorshift {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

/// Changes a few bytes: another byte, one less, a stretch twice, two lines swapped.
fn mutate(text: &mut Vec<u8>, random: &mut Xorshift) {
    const ALPHABET: &[u8] = b" \t\n;,=[]{}+-.\"\\0123456789aersvwtu_\xc3\xa9\x00\xff";
    for _ in 0..=random.below(3) {
        if text.is_empty() {
            return;
        }
        let at = random.below(text.len());
        match random.below(5) {
            0 => text[at] ^= 1 << random.below(8),
            1 => text[at] = ALPHABET[random.below(ALPHABET.len())],
            2 => {
                text.remove(at);
            }
            3 => {
                let end = (at + random.below(80)).min(text.len());
                let stretch = text[at..end].to_vec();
                let to = random.below(text.len());
                text.splice(to..to, stretch);
            }
            _ => {
                let mut lines: Vec<_> = text.split(|&byte| byte == b'\n').collect();
                let (a, b) = (random.below(lines.len()), random.below(lines.len()));
                lines.swap(a, b);
                *text = lines.join(&b'\n');
            }
        }
    }
}

#[test]
fn no_mutation_of_a_text_panics_the_parser_or_the_verifier() {
    let mut random = Xorshift(0x9e37_79b9_7f4a_7c15);
    let seeds = [decoder(5).to_string(), reprint(FUSED), FUSED.to_string(), reprint(EXPERTS)];
    let (mut parsed, mut verified) = (0, 0);
    for round in 0..6000 {
        let mut bytes = seeds[round % seeds.len()].clone().into_bytes();
        mutate(&mut bytes, &mut random);
        let text = String::from_utf8_lossy(&bytes);
        let Ok(graph) = parse(&text) else { continue };
        parsed += 1;
        let first = graph.to_string();
        assert_eq!(reprint(&first), first, "from\n{text}");
        match verify(&graph) {
            Ok(()) => {
                verified += 1;
                let dense = graph.renumber();
                // A rotary embedding that nothing turns by verifies and gets no number.
                if dense.rotaries.len() == graph.rotaries.len() {
                    assert_eq!(dense.to_string(), first);
                }
            }
            Err(errors) => {
                let shown = engraft_ir::display_errors(&graph, &errors);
                assert_eq!(shown.matches("error: ").count(), errors.0.len(), "{shown}");
            }
        }
    }
    assert!(parsed > 500 && verified > 300, "{parsed} parsed, {verified} verified");
}
