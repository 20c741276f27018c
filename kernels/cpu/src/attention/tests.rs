//! Against double precision, and bit for bit against itself.

use crate::testing::{bits, noise, run};
use crate::{AttentionOptions, Isa, KvCache, RopeTable, Rows, Span, Step};

/// One request's whole context: what each position's queries, keys and values are.
#[derive(Clone)]
struct Context {
    length: usize,
    key_heads: usize,
    group: usize,
    width: usize,
    /// Elements of a value where it is the beginning of a key.
    latent: Option<usize>,
    /// `[length, (group·key_heads + 2·key_heads) · width]`; latent ones do not read the values.
    rows: Vec<f32>,
    rope: RopeTable,
    options: AttentionOptions<'static>,
}

const NONE: AttentionOptions<'static> =
    AttentionOptions { softcap: None, alibi: None, window: None, sinks: None };

/// For up to six heads.
const SLOPES: [f32; 6] = [0.5, 0.25, 0.7, 0.0, 0.031_25, 0.1];

/// For up to six heads; one is greater than all scores, one is nothing.
const SINKS: [f32; 6] = [0.5, -1.25, 20.0, 0.0, -80.0, 1.0];

/// Options in all sorts, for this many query heads.
fn all_options(query_heads: usize) -> [AttentionOptions<'static>; 8] {
    let alibi = Some(&SLOPES[..query_heads]);
    let sinks = Some(&SINKS[..query_heads]);
    [
        AttentionOptions { window: Some(1), ..NONE },
        AttentionOptions { window: Some(4), ..NONE },
        AttentionOptions { window: Some(33), ..NONE },
        AttentionOptions { softcap: Some(0.5), ..NONE },
        AttentionOptions { alibi, ..NONE },
        AttentionOptions { sinks, ..NONE },
        AttentionOptions { sinks, window: Some(4), ..NONE },
        AttentionOptions { softcap: Some(0.7), alibi, window: Some(20), sinks },
    ]
}

impl Context {
    fn new(length: usize, key_heads: usize, group: usize, width: usize) -> Context {
        let rows = noise(length * (group + 2) * key_heads * width, 5);
        let rotated = (width - width / 4) / 2 * 2;
        let angle = |i: usize| {
            let pair = (i % (rotated / 2)) as f64 * 2.0 / rotated as f64;
            (i / (rotated / 2)) as f64 * 1000f64.powf(-pair)
        };
        let table = |f: fn(f64) -> f64| {
            (0..length * rotated / 2).map(|i| f(angle(i)) as f32).collect::<Vec<f32>>()
        };
        let rope = RopeTable::new(width, rotated, table(f64::cos), table(f64::sin));
        Context { length, key_heads, group, width, latent: None, rows, rope, options: NONE }
    }

    /// Values that are the first `values` elements of keys.
    fn latent(self, values: usize) -> Context {
        Context { latent: Some(values), ..self }
    }

    /// Elements of a value.
    fn values(&self) -> usize {
        self.latent.unwrap_or(self.width)
    }

    fn outputs(&self) -> usize {
        self.group * self.key_heads * self.values()
    }

    fn cache(&self, pages: usize, page: usize) -> KvCache {
        match self.latent {
            None => KvCache::new(pages, page, self.key_heads, self.width),
            Some(_) => KvCache::keys_only(pages, page, self.key_heads, self.width),
        }
    }

    /// The step over dense rows at the beginning of an arena; outputs follow them.
    fn step<'a>(&'a self, rows: usize, spans: &'a [Span<'a>]) -> Step<'a> {
        let (heads, kv) = (self.group * self.key_heads * self.width, self.key_heads * self.width);
        let all = Rows::dense(0, rows, heads + 2 * kv);
        Step::Attend {
            query: all.columns(0, heads),
            key: all.columns(heads, kv),
            value: self.latent.is_none().then(|| all.columns(heads + kv, kv)),
            cache: 0,
            spans,
            query_heads: self.group * self.key_heads,
            scale: 0.3,
            rotary: Some(&self.rope),
            options: self.options,
            output: Rows::dense(rows * all.width, rows, self.outputs()),
        }
    }

    /// Elements of a row: queries, keys, values.
    fn stride(&self) -> usize {
        (self.group + 2) * self.key_heads * self.width
    }

    /// All positions, in chunks of these lengths; the outputs one after the other.
    fn run(&self, isa: Isa, threads: usize, page: usize, chunks: &[usize]) -> Vec<f32> {
        let pages: Vec<u32> = (0..self.length.div_ceil(page) as u32).rev().collect();
        let mut caches = [self.cache(pages.len(), page)];
        let (heads, stride) = (self.outputs(), self.stride());
        let (mut outputs, mut position) = (Vec::new(), 0);
        for &rows in chunks.iter().cycle() {
            let rows = rows.min(self.length - position);
            if rows == 0 {
                break;
            }
            let spans = [Span { rows, position, pages: &pages, ..Span::default() }];
            let mut arena = self.rows[position * stride..(position + rows) * stride].to_vec();
            arena.resize(rows * (stride + heads), f32::NAN);
            let step = self.step(rows, &spans);
            let after = run(isa, threads, &arena, &mut caches, &[step]);
            assert_eq!(bits(&after[..rows * stride]), bits(&arena[..rows * stride]));
            outputs.extend_from_slice(&after[rows * stride..]);
            position += rows;
        }
        outputs
    }

    fn turned(&self, position: usize, from: usize) -> Vec<f64> {
        let head = &self.rows[position * self.stride() + from..][..self.width];
        let mut turned: Vec<f64> = head.iter().map(|&x| f64::from(x)).collect();
        let half = self.rope.half;
        for i in 0..half {
            let at = position * half + i;
            let (cos, sin) = (f64::from(self.rope.cos[at]), f64::from(self.rope.sin[at]));
            let (low, high) = (turned[i], turned[half + i]);
            turned[i] = low * cos - high * sin;
            turned[half + i] = high * cos + low * sin;
        }
        turned
    }

    fn exact(&self, position: usize, head: usize) -> Vec<f64> {
        let (width, heads) = (self.width, self.group * self.key_heads);
        let stride = self.stride();
        let key_head = head / self.group;
        let query = self.turned(position, head * width);
        let AttentionOptions { softcap, alibi, window, sinks } = self.options;
        let seen = |p: usize| window.is_none_or(|window| p + window > position);
        let weights: Vec<f64> = (0..=position)
            .map(|p| {
                let key = self.turned(p, (heads + key_head) * width);
                let product: f64 = query.iter().zip(&key).map(|(q, k)| q * k).sum();
                let score = product * f64::from(0.3f32);
                let score = softcap.map(f64::from).map_or(score, |cap| cap * (score / cap).tanh());
                let slope = alibi.map_or(0.0, |slopes| f64::from(slopes[head]));
                let score = score + slope * (p as f64 - position as f64);
                if seen(p) { score.exp() } else { 0.0 }
            })
            .collect();
        let sink = sinks.map_or(0.0, |sinks| f64::from(sinks[head]).exp());
        let sum = weights.iter().sum::<f64>() + sink;
        let value = |p: usize, i: usize| match self.latent {
            Some(_) => self.turned(p, (heads + key_head) * width)[i],
            None => {
                f64::from(self.rows[p * stride + (heads + self.key_heads + key_head) * width + i])
            }
        };
        (0..self.values())
            .map(|i| weights.iter().enumerate().map(|(p, w)| w * value(p, i)).sum::<f64>() / sum)
            .collect()
    }
}

fn near_exact(context: &Context) {
    for isa in Isa::available() {
        let outputs = context.run(isa, 1, 32, &[context.length]);
        for (i, heads) in outputs.chunks(context.outputs()).enumerate() {
            for (head, values) in heads.chunks(context.values()).enumerate() {
                for (value, exact) in values.iter().zip(context.exact(i, head)) {
                    let error = (f64::from(*value) - exact).abs();
                    let options = context.options;
                    assert!(error < 2e-6, "{isa} {options:?} position {i} head {head}: {error}");
                }
            }
        }
    }
}

#[test]
fn attention_is_near_the_exact_one_on_every_instruction_set() {
    for (length, key_heads, group, width) in [(1, 1, 1, 16), (50, 2, 3, 24), (70, 1, 8, 80)] {
        near_exact(&Context::new(length, key_heads, group, width));
    }
}

#[test]
fn windows_softcaps_and_slopes_are_near_exact_ones() {
    for (length, key_heads, group, width) in [(1, 1, 1, 16), (50, 2, 3, 24), (70, 1, 4, 80)] {
        let context = Context::new(length, key_heads, group, width);
        for options in all_options(key_heads * group) {
            near_exact(&Context { options, ..context.clone() });
        }
    }
}

#[test]
fn latent_attention_is_near_the_exact_one() {
    for (key_heads, group, width, values) in [(1, 3, 40, 32), (1, 19, 24, 24), (2, 2, 72, 50)] {
        near_exact(&Context::new(40, key_heads, group, width).latent(values));
    }
    let context = Context::new(37, 2, 3, 40).latent(32);
    for options in all_options(6) {
        near_exact(&Context { options, ..context.clone() });
    }
}

#[test]
fn latent_attention_of_a_real_size_is_near_the_exact_one() {
    let wide = Context::new(18, 1, 16, 576).latent(512);
    let rows = wide.rows.iter().map(|x| x / 8.0).collect();
    near_exact(&Context { rows, ..wide });
}

/// Checks that rows are the same however the work is divided.
fn same_bits(context: &Context, threads: &[usize], pages: &[usize]) {
    let one_by_one = bits(&context.run(Isa::Plain, 1, 16, &[1]));
    for isa in Isa::available() {
        for &threads in threads {
            for &page in pages {
                for chunks in [&[1][..], &[83], &[7, 20, 2], &[50]] {
                    let chunked = bits(&context.run(isa, threads, page, chunks));
                    let options = context.options;
                    let how = format!("{isa} {threads} threads, pages of {page}, {options:?}");
                    assert_eq!(chunked, one_by_one, "{how}");
                }
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_in_any_chunk_page_size_thread_count_and_instruction_set() {
    same_bits(&Context::new(83, 2, 3, 40), &[1, 2, 3], &[1, 5, 16, 20, 64]);
}

#[test]
fn latent_rows_are_the_same_in_any_division_too() {
    same_bits(&Context::new(83, 2, 3, 40).latent(32), &[1, 2, 3], &[1, 5, 16, 20, 64]);
    // More query heads than are taken together.
    same_bits(&Context::new(51, 1, 37, 24).latent(20), &[1, 3], &[16]);
}

#[test]
fn windows_softcaps_and_slopes_keep_a_row_the_same_in_any_division() {
    let context = Context::new(83, 2, 3, 40);
    for options in all_options(6) {
        same_bits(&Context { options, ..context.clone() }, &[1, 3], &[5, 16]);
    }
    let latent = Context { length: 47, ..context.clone() }.latent(32);
    for options in all_options(6) {
        same_bits(&Context { options, ..latent.clone() }, &[1, 3], &[5, 16]);
    }
    // A window that is never full is none.
    let options = AttentionOptions { window: Some(83), ..NONE };
    let wide = Context { options, ..context.clone() };
    let run = |context: &Context| bits(&context.run(Isa::detect(), 2, 16, &[83]));
    assert_eq!(run(&wide), run(&context));
}

#[test]
fn what_is_behind_the_window_does_not_touch_a_row_even_if_a_neighbour_sees_it() {
    let options = AttentionOptions { window: Some(6), ..NONE };
    let context = Context { options, ..Context::new(40, 1, 2, 24) };
    for context in [context.clone(), context.latent(24)] {
        neighbours_do_not_touch(&context);
    }
}

fn neighbours_do_not_touch(context: &Context) {
    let mut spoiled = context.clone();
    let stride = 4 * 24;
    // Keys and values of position 10; rows 10 to 15 see it.
    spoiled.rows[10 * stride + 2 * 24..11 * stride].fill(f32::NAN);
    for isa in Isa::available() {
        for chunks in [&[40][..], &[1], &[13, 9]] {
            let (clean, other) = (context.run(isa, 2, 16, chunks), spoiled.run(isa, 2, 16, chunks));
            for row in 0..40 {
                let (clean, other) = (&clean[row * 48..][..48], &other[row * 48..][..48]);
                if (10..16).contains(&row) {
                    assert!(other.iter().all(|x| x.is_nan()), "{isa} row {row}");
                } else {
                    assert_eq!(bits(clean), bits(other), "{isa} row {row}");
                }
            }
        }
    }
}

#[test]
fn parts_of_one_request_may_come_in_any_order() {
    let context = Context::new(48, 1, 2, 16);
    let expected = bits(&context.run(Isa::Plain, 1, 16, &[48]));
    let pages = [0, 1, 2];
    for isa in Isa::available() {
        let mut caches = [context.cache(3, 16)];
        let arena = [&context.rows[32 * 64..], &context.rows[..32 * 64]].concat();
        let arena = [arena, vec![0.0; 48 * 32]].concat();
        let spans = [(0, 16, 32), (16, 32, 0)].map(|(first_row, rows, position)| Span {
            first_row,
            rows,
            position,
            pages: &pages,
            ..Span::default()
        });
        let step = context.step(48, &spans);
        let after = run(isa, 2, &arena, &mut caches, &[step]);
        let (last, first) = after[48 * 64..].split_at(16 * 32);
        assert_eq!(bits(&[first, last].concat()), expected, "{isa}");
    }
}

#[test]
fn requests_in_one_batch_do_not_touch_each_other_and_share_a_prefix() {
    let context = Context::new(60, 1, 4, 32);
    for context in [context.clone(), context.latent(20)] {
        requests_share_a_prefix(&context);
    }
}

fn requests_share_a_prefix(context: &Context) {
    let alone = bits(&context.run(Isa::Plain, 1, 16, &[1]));
    let (heads, stride) = (context.outputs(), context.stride());
    for isa in Isa::available() {
        let mut caches = [context.cache(12, 16)];
        let steps = |spans: &[(usize, usize, &[u32])], caches: &mut [KvCache]| {
            let total: usize = spans.iter().map(|span| span.1).sum();
            let mut arena = Vec::new();
            let mut placed = Vec::new();
            for &(position, rows, pages) in spans {
                let first_row = arena.len() / stride;
                placed.push(Span { first_row, rows, position, pages, ..Span::default() });
                arena.extend_from_slice(&context.rows[position * stride..][..rows * stride]);
            }
            arena.resize(total * (stride + heads), 0.0);
            let step = context.step(total, &placed);
            bits(&run(isa, 2, &arena, caches, &[step])[total * stride..])
        };
        let row = |position: usize, rows: usize| &alone[position * heads..][..rows * heads];
        let first = steps(&[(0, 32, &[4, 2])], &mut caches);
        assert_eq!(first, row(0, 32));
        // Two requests go on from the shared prefix, a third begins.
        let second =
            steps(&[(32, 9, &[4, 2, 7]), (0, 21, &[0, 1]), (32, 28, &[4, 2, 3, 9])], &mut caches);
        assert_eq!(second, [row(32, 9), row(0, 21), row(32, 28)].concat());
        let third = steps(&[(41, 1, &[4, 2, 7]), (21, 1, &[0, 1])], &mut caches);
        assert_eq!(third, [row(41, 1), row(21, 1)].concat());
    }
}

#[test]
fn what_lies_in_a_page_from_before_is_never_seen() {
    let context = Context::new(20, 1, 2, 16);
    for context in [context.clone(), context.latent(9)] {
        let clean = bits(&context.run(Isa::Plain, 1, 16, &[20]));
        for isa in Isa::available() {
            let mut caches = [context.cache(2, 16)];
            let (stride, heads) = (context.stride(), context.outputs());
            let spoiled = Context {
                length: 32,
                rows: vec![f32::NAN; 32 * stride],
                rope: Context::new(32, 1, 2, 16).rope,
                ..context.clone()
            };
            let pages = [0, 1];
            for (content, rows) in [(&spoiled, 32), (&context, 20)] {
                let mut arena = content.rows[..rows * stride].to_vec();
                arena.resize(rows * (stride + heads), 0.0);
                let spans = [Span { rows, pages: &pages, ..Span::default() }];
                let after = run(isa, 1, &arena, &mut caches, &[content.step(rows, &spans)]);
                if rows == 20 {
                    assert_eq!(bits(&after[rows * stride..]), clean, "{isa}");
                }
            }
        }
    }
}

#[test]
fn requests_of_two_reaches_turn_by_their_own_angles() {
    let plain = Context::new(30, 1, 2, 24);
    let other = Context::new(30, 1, 2, 24).rope;
    let long = {
        let stretched = |table: &[f32]| table.iter().map(|x| x * 0.75).collect();
        RopeTable::new(24, 2 * other.half, stretched(&other.cos), stretched(&other.sin))
    };
    for plain in [plain.clone(), plain.latent(20)] {
        let alone = |rope: &RopeTable| {
            let context = Context { rope: rope.clone(), ..plain.clone() };
            bits(&context.run(Isa::Plain, 1, 16, &[7]))
        };
        let expected = [alone(&other), alone(&long)].concat();
        let both = other.clone().with_long(1000, long.clone());
        let context = Context { rope: both, ..plain };
        for isa in Isa::available() {
            let mut arena = [context.rows.clone(), context.rows.clone()].concat();
            let inputs = arena.len();
            arena.resize(inputs + 60 * context.outputs(), 0.0);
            let spans = [
                Span { rows: 30, pages: &[0, 2], reach: 1000, ..Span::default() },
                Span { first_row: 30, rows: 30, position: 0, pages: &[3, 1], reach: 1001 },
            ];
            let mut caches = [context.cache(4, 16)];
            let after = run(isa, 2, &arena, &mut caches, &[context.step(60, &spans)]);
            assert_eq!(bits(&after[inputs..]), expected, "{isa}");
        }
    }
}
