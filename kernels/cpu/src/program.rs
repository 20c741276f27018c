//! A forward pass as data, and what runs it.
//!
//! Every thread walks the same steps, computes its share of each and waits for the others at a
//! barrier. That shares never meet is what [`crate::check`] and the kernels' divisions see to.

#![allow(unsafe_code, reason = "threads write disjoint parts of one arena")]

use crate::{
    Activation, Arena, AttentionOptions, Experts, Grid, Isa, KvCache, Norm, Pool, RopeTable,
    Routing, Rows, Span, Team, Weights, attention, cache::CacheView, check, elementwise, embedding,
    heads, linear, mixture::Mixture, norm, recurrent, rope, rounding, rows::View,
};

/// One kernel call. Matrices are places in the arena; all with a row a token (or a row an
/// output) unless said otherwise.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::large_enum_variant, reason = "a few hundred a pass, each made once and read")]
pub enum Step<'a> {
    /// Rows of a table: `output[r] = table[tokens[r]]`.
    Embedding {
        /// A token id for each row, less than the table's rows.
        tokens: &'a [u32],
        /// `[vocabulary, width]`
        table: Weights<'a>,
        /// Where the table is a stretch of a larger one: the number of its first row. Ids of
        /// other rows may be there too, and give zeros.
        first: Option<usize>,
        /// `[tokens, width]`
        output: Rows,
    },
    /// Rows of a matrix: `output[r] = input[rows[r]]`.
    Gather {
        /// Where from.
        input: Rows,
        /// A row of the input for each row of the output.
        rows: &'a [u32],
        /// Where to; apart from the input.
        output: Rows,
    },
    /// `output = input · weightsᵀ + bias`
    Linear {
        /// `[rows, k]`
        input: Rows,
        /// `[n, k]`
        weights: Weights<'a>,
        /// `[n]`
        bias: Option<&'a [f32]>,
        /// `[rows, n]`; apart from the input.
        output: Rows,
    },
    /// `output = input · weightsᵀ + bias`, each head by its own matrix.
    LinearHeads {
        /// `[rows, heads · k]`
        input: Rows,
        /// `[heads, n, k]`
        weights: Weights<'a>,
        /// `[heads · n]`
        bias: Option<&'a [f32]>,
        /// How many.
        heads: usize,
        /// `[rows, heads · n]`; apart from the input.
        output: Rows,
    },
    /// Each head of the output, from element `first` on, becomes that head of the input; the
    /// others of its elements stay. Several such steps put heads of several matrices side by
    /// side.
    PlaceHeads {
        /// `[rows, heads · k]`
        input: Rows,
        /// How many.
        heads: usize,
        /// Where in each of the output's heads.
        first: usize,
        /// `[rows, heads · n]`, `n` being `first + k` at least; apart from the input.
        output: Rows,
    },
    /// `output = input / sqrt(mean(input²) + epsilon) · gain`, row by row.
    RmsNorm {
        /// `[rows, n]`
        input: Rows,
        /// `[n]`
        gain: &'a [f32],
        /// Keeps the root away from zero.
        epsilon: f32,
        /// `[rows, n]`; may be the input.
        output: Rows,
    },
    /// `sum = left + right; output = rms_norm(sum)`
    AddRmsNorm {
        /// `[rows, n]`
        left: Rows,
        /// `[rows, n]`
        right: Rows,
        /// `[n]`
        gain: &'a [f32],
        /// Keeps the root away from zero.
        epsilon: f32,
        /// `[rows, n]`; may be one of the summands.
        sum: Rows,
        /// `[rows, n]`; may be one of the summands, not `sum`.
        output: Rows,
    },
    /// `output = (input - mean) / sqrt(mean((input - mean)²) + epsilon) · gain + bias`, row by
    /// row.
    LayerNorm {
        /// `[rows, n]`
        input: Rows,
        /// `[n]`; ones if there is none.
        gain: Option<&'a [f32]>,
        /// `[n]`; zeros if there is none.
        bias: Option<&'a [f32]>,
        /// Keeps the root away from zero.
        epsilon: f32,
        /// `[rows, n]`; may be the input.
        output: Rows,
    },
    /// A norm of each head by itself.
    HeadNorm {
        /// `[rows, heads · head_width]`
        input: Rows,
        /// Which norm.
        norm: Norm,
        /// `[head_width]`, the same for all heads, or `[heads · head_width]`.
        gain: &'a [f32],
        /// Elements of a head.
        head_width: usize,
        /// Keeps the root away from zero.
        epsilon: f32,
        /// May be the input.
        output: Rows,
    },
    /// Rows of a table by position: `output[r] = table[position of r]`.
    Positions {
        /// `[positions, width]`
        table: Weights<'a>,
        /// As of an embedding.
        first: Option<usize>,
        /// Positions of the rows, all less than the table's rows.
        spans: &'a [Span<'a>],
        /// `[rows, width]`
        output: Rows,
    },
    /// Turns each head by its row's position.
    Rotate {
        /// `[rows, heads · head_width]`
        input: Rows,
        /// Angles.
        table: &'a RopeTable,
        /// Positions of the rows.
        spans: &'a [Span<'a>],
        /// May be the input.
        output: Rows,
    },
    /// Causal self-attention over a paged cache, which the keys and values join first.
    Attend {
        /// `[rows, query_heads · head_width]`
        query: Rows,
        /// `[rows, key_heads · head_width]`
        key: Rows,
        /// `[rows, key_heads · head_width]`; none where the cache has keys only, and values are
        /// their first elements, as many as a head of the output has.
        value: Option<Rows>,
        /// Which of the caches.
        cache: usize,
        /// Whose rows they are.
        spans: &'a [Span<'a>],
        /// A multiple of the cache's key heads.
        query_heads: usize,
        /// What scores are multiplied by.
        scale: f32,
        /// Turns queries and keys on the way.
        rotary: Option<&'a RopeTable>,
        /// What else happens to scores; the default is nothing.
        options: AttentionOptions<'a>,
        /// `[rows, query_heads · head_width]`, or less a head where there are keys only; apart
        /// from all operands.
        output: Rows,
    },
    /// `output = activation(input)`
    Activate {
        /// Its argument.
        input: Rows,
        /// Which.
        activation: Activation,
        /// May be the input.
        output: Rows,
    },
    /// `output = activation(gate) · up`
    Gate {
        /// Goes through the activation.
        gate: Rows,
        /// Does not.
        up: Rows,
        /// Which.
        activation: Activation,
        /// May be one of the operands.
        output: Rows,
    },
    /// `output = left + right`
    Add {
        /// A summand.
        left: Rows,
        /// A summand.
        right: Rows,
        /// May be one of the operands.
        output: Rows,
    },
    /// `output = left · right`, element by element.
    Multiply {
        /// A factor.
        left: Rows,
        /// A factor; of one column, it counts for every column, and is apart from the output.
        right: Rows,
        /// May be one of the operands.
        output: Rows,
    },
    /// Each row through a few of many feed-forward layers, summed by their weights.
    Mix {
        /// `[rows, k]`
        input: Rows,
        /// `[rows, experts]`: the router's logits.
        scores: Rows,
        /// How experts are chosen and weighed.
        routing: Routing<'a>,
        /// The layers.
        experts: Experts<'a>,
        /// One row of [`workspace`](crate::workspace) floats; apart from all others.
        work: Rows,
        /// `[rows, n]`; apart from all operands.
        output: Rows,
    },
    /// A convolution over time, each channel by itself: `output[p] = Σ weights[tap] ·
    /// input[p - (taps - 1) + tap] + bias` at position `p`.
    Convolve {
        /// `[rows, channels]`
        input: Rows,
        /// `[taps, channels]`: the last are for the row itself.
        weights: &'a [f32],
        /// `[channels]`
        bias: Option<&'a [f32]>,
        /// A row of [`convolution_state`](crate::convolution_state) floats for each request that
        /// runs at a time; apart from all others, and kept from step to step.
        states: Rows,
        /// Whose rows they are.
        spans: &'a [Span<'a>],
        /// Which of the states is each span's.
        slots: &'a [u32],
        /// `[rows, channels]`; apart from the input.
        output: Rows,
    },
    /// A gated linear recurrence, each channel by itself: `h[p] = a · h[p - 1] + √(1 - a²) ·
    /// sigmoid(input_gate) · input` with `a = exp(rate · sigmoid(recurrent_gate))`, where the
    /// root is 1 at position 0.
    Recur {
        /// `[rows, channels]`
        input: Rows,
        /// `[rows, channels]`
        input_gate: Rows,
        /// `[rows, channels]`
        recurrent_gate: Rows,
        /// `[channels]`, none above zero.
        rates: &'a [f32],
        /// A row of as many floats for each request that runs at a time; apart from all others,
        /// and kept from step to step.
        states: Rows,
        /// Whose rows they are.
        spans: &'a [Span<'a>],
        /// Which of the states is each span's.
        slots: &'a [u32],
        /// `[rows, channels]`; may be one of the operands.
        output: Rows,
    },
    /// `output = round(input · scales)` to a grid: what goes into a linear whose inputs are
    /// codes.
    RoundInputs {
        /// `[rows, k]`
        input: Rows,
        /// `[k]`: what each column is multiplied by first; ones if there are none.
        scales: Option<&'a [f32]>,
        /// What is rounded to; nothing if there is none.
        grid: Option<Grid>,
        /// `[rows, k]`; may be the input.
        output: Rows,
    },
    /// `output = factor · input`
    Scale {
        /// What is scaled.
        input: Rows,
        /// By what.
        factor: f32,
        /// May be the input.
        output: Rows,
    },
    /// `output = bound · tanh(input / bound)`
    Softcap {
        /// What is bounded.
        input: Rows,
        /// More than zero, and finite.
        bound: f32,
        /// May be the input.
        output: Rows,
    },
    /// `output = min(max(input, low), high)`; NaN stays.
    Clamp {
        /// What is bounded.
        input: Rows,
        /// The least.
        low: f32,
        /// The greatest, at least `low`.
        high: f32,
        /// May be the input.
        output: Rows,
    },
}

/// Runs programs: an instruction set, a pool of threads and what each thread needs to work.
pub struct Executor {
    isa: Isa,
    pool: Pool,
    scratch: Vec<Arena>,
}

impl Executor {
    /// Runs on `threads` threads, the caller's among them.
    ///
    /// # Panics
    /// If this machine has not got `isa`, or `threads` is zero.
    pub fn new(isa: Isa, threads: usize) -> std::io::Result<Executor> {
        assert!(isa.is_available(), "this machine has no {isa}");
        let pool = Pool::new(threads)?;
        Ok(Executor { isa, scratch: (0..pool.threads()).map(|_| Arena::new(0)).collect(), pool })
    }

    /// What it computes with.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Its threads, for other work between programs.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Runs `steps` in their order, later attentions seeing what earlier ones wrote. Everything
    /// is checked before the first runs.
    ///
    /// # Panics
    /// If a step does not fit: shapes that disagree, places outside of the arena or over each
    /// other, token ids, pages or positions that do not exist. That is a mistake of the caller's,
    /// never of a model's; the message says which step.
    pub fn run(&mut self, arena: &mut [f32], caches: &mut [KvCache], steps: &[Step<'_>]) {
        let needed = check::program(arena.len(), caches, steps);
        for scratch in &mut self.scratch {
            if scratch.len() < needed {
                *scratch = Arena::new(needed);
            }
        }
        let shared = Shared {
            isa: self.isa,
            arena: arena.as_mut_ptr(),
            caches: caches.iter_mut().map(KvCache::view).collect(),
            scratch: self.scratch.as_mut_ptr(),
        };
        self.pool.run(|team| {
            for step in steps {
                // SAFETY: the program is checked; all threads walk the same steps with a
                // barrier between any two.
                unsafe { shared.step(step, team) };
                team.wait();
            }
        });
    }
}

/// What all threads see while a program runs.
struct Shared {
    isa: Isa,
    arena: *mut f32,
    caches: Vec<CacheView>,
    scratch: *mut Arena,
}

// SAFETY: `Executor::run` borrows all of it exclusively for as long as the threads run, and
// they write disjoint parts.
unsafe impl Sync for Shared {}

impl Shared {
    /// A matrix in the arena.
    ///
    /// # Safety
    /// `rows` lies in the arena.
    unsafe fn view(&self, rows: Rows) -> View {
        // SAFETY: as promised by the caller.
        let data = unsafe { self.arena.add(rows.start) };
        View { data, rows: rows.rows, width: rows.width, stride: rows.stride }
    }

    /// This thread's share of a step.
    ///
    /// # Safety
    /// The step has been checked, and between two steps all threads meet.
    unsafe fn step(&self, step: &Step<'_>, team: &Team<'_>) {
        let isa = self.isa;
        let view = |rows| {
            // SAFETY: checked.
            unsafe { self.view(rows) }
        };
        // SAFETY: each thread has a scratch of its own.
        let scratch = unsafe { &mut *self.scratch.add(team.thread()) };
        // SAFETY: checked; see each kernel for its division.
        unsafe {
            match *step {
                Step::Embedding { tokens, table, first, output } => {
                    let table = embedding::Table { weights: table, first };
                    embedding::embedding(isa, tokens, table, view(output), team);
                }
                Step::Gather { input, rows, output } => {
                    embedding::gather(view(input), rows, view(output), team);
                }
                Step::Linear { input, weights, bias, output } => {
                    linear::linear(isa, view(input), weights, bias, view(output), scratch, team);
                }
                Step::LinearHeads { input, weights, bias, heads, output } => {
                    let (input, output) = (view(input), view(output));
                    heads::linear(isa, input, weights, bias, heads, output, scratch, team);
                }
                Step::PlaceHeads { input, heads, first, output } => {
                    heads::place(view(input), heads, first, view(output), team);
                }
                Step::RmsNorm { input, gain, epsilon, output } => {
                    norm::rms_norm(isa, view(input), gain, epsilon, view(output), team);
                }
                Step::AddRmsNorm { left, right, gain, epsilon, sum, output } => {
                    let summands = [view(left), view(right)];
                    norm::add_rms_norm(isa, summands, gain, epsilon, view(sum), view(output), team);
                }
                Step::LayerNorm { input, gain, bias, epsilon, output } => {
                    let (input, output) = (view(input), view(output));
                    norm::layer_norm(isa, input, gain, bias, epsilon, output, team);
                }
                Step::HeadNorm { input, norm, gain, head_width, epsilon, output } => {
                    let heads = norm::Heads { norm, gain, head_width, epsilon };
                    norm::head_norm(isa, view(input), heads, view(output), team);
                }
                Step::Positions { table, first, spans, output } => {
                    let table = embedding::Table { weights: table, first };
                    embedding::positions(isa, table, spans, view(output), team);
                }
                Step::Rotate { input, table, spans, output } => {
                    rope::rotate(isa, view(input), table, spans, view(output), team);
                }
                Step::Attend {
                    query,
                    key,
                    value,
                    cache,
                    spans,
                    query_heads,
                    scale,
                    rotary,
                    options,
                    output,
                } => {
                    let cache = self.caches[cache];
                    let (key, value) = (view(key), value.map(view));
                    attention::write(isa, key, value, &cache, spans, rotary, scratch, team);
                    team.wait();
                    let heads = attention::Heads { query_heads, scale, rotary, options };
                    attention::attend(
                        isa,
                        view(query),
                        &cache,
                        spans,
                        heads,
                        view(output),
                        scratch,
                        team,
                    );
                }
                Step::Activate { input, activation, output } => {
                    elementwise::activate(isa, activation, view(input), view(output), team);
                }
                Step::Gate { gate, up, activation, output } => {
                    let operands = [view(gate), view(up)];
                    elementwise::gate(isa, activation, operands, view(output), team);
                }
                Step::Add { left, right, output } => {
                    elementwise::add(isa, view(left), view(right), view(output), team);
                }
                Step::Multiply { left, right, output } => {
                    elementwise::multiply(isa, view(left), view(right), view(output), team);
                }
                Step::Mix { input, scores, routing, experts, work, output } => {
                    let (input, scores) = (view(input), view(scores));
                    let (work, output) = (view(work), view(output));
                    let mixture = Mixture { isa, input, scores, routing, experts, work, output };
                    mixture.run(scratch, team);
                }
                Step::Convolve { input, weights, bias, states, spans, slots, output } => {
                    let requests = recurrent::Requests { spans, slots, states: view(states) };
                    let (input, output) = (view(input), view(output));
                    recurrent::convolve(isa, input, weights, bias, requests, output, team);
                }
                Step::Recur {
                    input,
                    input_gate,
                    recurrent_gate,
                    rates,
                    states,
                    spans,
                    slots,
                    output,
                } => {
                    let requests = recurrent::Requests { spans, slots, states: view(states) };
                    let recurrence = recurrent::Recurrence {
                        input: view(input),
                        input_gate: view(input_gate),
                        recurrent_gate: view(recurrent_gate),
                        rates,
                    };
                    recurrent::recur(isa, recurrence, requests, view(output), team);
                }
                Step::RoundInputs { input, scales, grid, output } => {
                    rounding::round(isa, view(input), scales, grid, view(output), team);
                }
                Step::Scale { input, factor, output } => {
                    elementwise::scale(isa, factor, view(input), view(output), team);
                }
                Step::Softcap { input, bound, output } => {
                    elementwise::softcap(isa, bound, view(input), view(output), team);
                }
                Step::Clamp { input, low, high, output } => {
                    elementwise::clamp(isa, [low, high], view(input), view(output), team);
                }
            }
        }
    }
}
