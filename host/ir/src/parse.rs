//! The text form, inwards: what [`Graph`]'s `Display` writes.
//!
//! A line a statement; `;` begins a comment:
//! ```text
//! graph 1
//! r0 = rotary head_width=64 rotated=64 base=10000.0
//! place block 0 {
//!     s0 = cache key_heads=3 head_width=64
//!     w1 = weight "transformer.layers.0.mlp.fc.weight" bf16 [1536 feed_forward, 576]
//!     v2 = linear v1, w1                  ; operands, then attributes as `name=value`
//!     return v2
//! }
//! ```
//! Numbers of entities are dense and in the order of the text; attributes come in one order.
//! Operands are checked as they are read, so a text that parses has types; that it keeps the
//! other rules is [`verify`](crate::verify())'s to say. Time and memory are linear in the text,
//! whatever it holds: an engine from anywhere is read through this.

mod options;

use crate::activation::{ACTIVATIONS, Activation};
use crate::coding::{CodeKind, Coding};
use crate::cursor::Cursor;
use crate::entities::{Place, Rotary, State, Value, Weight};
use crate::graph::{Graph, PlaceKind, WeightData};
use crate::mapping::{Mapping, Rank};
use crate::op::{Grid, Op, Stretch};
use crate::rotary::RotaryData;
use crate::shape::{Axis, MEANINGS, Meaning, Segment};
use crate::state::StateData;
use crate::write::VERSION;
use cranelift_entity::SecondaryMap;
use engraft_diagnostic::{Code, Diagnostic, Fault};

/// Where and why a text is not a graph.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct ParseError {
    /// From 1.
    pub line: usize,
    /// In bytes, from 1.
    pub column: usize,
    /// What is wrong, or what was expected and what was found.
    pub message: String,
}

impl Diagnostic for ParseError {
    fn code(&self) -> Code {
        Code(802)
    }

    fn fault(&self) -> Fault {
        Fault::Input
    }

    fn location(&self) -> Option<String> {
        Some(format!("line {} of the graph", self.line))
    }

    fn help(&self) -> Option<String> {
        Some("build the engine again; if the text was written by hand, mend that line".to_string())
    }
}

/// Reads a graph.
///
/// # Errors
/// [`ParseError`] at the first thing that does not fit.
pub fn parse(text: &str) -> Result<Graph, ParseError> {
    let mut parser = Parser::default();
    let mut last = 1;
    for (i, line) in text.lines().enumerate() {
        last = i + 1;
        let mut line = Cursor::new(line, last);
        if line.peek() != 0 {
            parser.statement(&mut line)?;
            line.end()?;
        }
    }
    let end = Cursor::new("", last);
    match parser.section {
        Section::Start => end.fail_at(1, format!("expected `graph {VERSION}`, the text ends")),
        Section::Outside => Ok(parser.graph),
        Section::Inside(_) | Section::Returned => end.fail_at(1, "expected `}`, the text ends"),
    }
}

/// Where in the text a statement stands.
#[derive(Clone, Copy, Default)]
enum Section {
    /// Before `graph 1`.
    #[default]
    Start,
    /// Outside of places.
    Outside,
    /// In a place.
    Inside(Place),
    /// In a place, after its `return`.
    Returned,
}

#[derive(Default)]
struct Parser {
    graph: Graph,
    section: Section,
    /// States that the open place declares, and the line of each.
    states: Vec<(State, usize)>,
    kept: SecondaryMap<State, bool>,
}

impl Parser {
    fn statement(&mut self, line: &mut Cursor<'_>) -> Result<(), ParseError> {
        match self.section {
            Section::Start => {
                line.keyword("graph")?;
                line.peek();
                let column = line.column();
                let version: u32 = line.integer("a version")?;
                if version != VERSION {
                    let message = format!("version {version} of the graph's text is not known");
                    return line.fail_at(column, message);
                }
                self.rank(line)?;
                self.section = Section::Outside;
                Ok(())
            }
            Section::Outside if line.peek() == b'r' => self.rotary(line),
            Section::Outside => self.place(line),
            Section::Inside(place) => match line.peek() {
                b's' => self.state(line),
                b'w' => self.weight(line, place),
                b'v' => self.node(line, place),
                b'r' => self.carry(line, place),
                _ => line.expected("`s…`, `w…`, `v…` or `return`"),
            },
            Section::Returned => {
                line.expect(b'}')?;
                self.section = Section::Outside;
                Ok(())
            }
        }
    }

    /// `rank=3 tp=2 pp=2 moe_tp=1 moe_ep=2`, after the version; the last two, or all, may be
    /// missing.
    fn rank(&mut self, line: &mut Cursor<'_>) -> Result<(), ParseError> {
        if line.peek() == 0 {
            return Ok(());
        }
        let column = line.column();
        let number = line.integer_attribute("rank")?;
        let (tp, pp) = (line.integer_attribute("tp")?, line.integer_attribute("pp")?);
        let mut mapping = Mapping::new(tp, pp);
        if line.peek() != 0 {
            mapping.moe_tp_size = line.integer_attribute("moe_tp")?;
            mapping.moe_ep_size = line.integer_attribute("moe_ep")?;
        }
        if let Err(message) = mapping.check() {
            return line.fail_at(column, message);
        }
        if number >= mapping.world_size() {
            let message = format!("rank {number} of {} ranks", mapping.world_size());
            return line.fail_at(column, message);
        }
        self.graph.rank = Rank { mapping, number };
        Ok(())
    }

    /// `r0 = rotary head_width=64 rotated=64 base=10000.0`
    fn rotary(&mut self, line: &mut Cursor<'_>) -> Result<(), ParseError> {
        line.define('r', self.graph.rotaries.len())?;
        line.expect(b'=')?;
        line.keyword("rotary")?;
        let data = RotaryData {
            head_width: line.integer_attribute("head_width")?,
            rotated: line.integer_attribute("rotated")?,
            base: line.number_attribute("base")?,
            scaling: options::scaling(line)?,
            interleaved: match line.peek() {
                0 => false,
                _ => line.keyword("interleaved").map(|()| true)?,
            },
        };
        self.graph.rotaries.push(data);
        Ok(())
    }

    /// `place block 0 {`
    fn place(&mut self, line: &mut Cursor<'_>) -> Result<(), ParseError> {
        line.keyword("place")?;
        let kind = line.choice("`embed`, `block` or `head`", |word| match word {
            "embed" => Some(PlaceKind::Embed),
            "block" => Some(PlaceKind::Block(0)),
            "head" => Some(PlaceKind::Head),
            _ => None,
        })?;
        let kind = match kind {
            PlaceKind::Block(_) => PlaceKind::Block(line.integer("the number of the block")?),
            kind => kind,
        };
        line.expect(b'{')?;
        self.section = Section::Inside(self.graph.make_place(kind));
        Ok(())
    }

    /// `s0 = cache key_heads=3 head_width=64`
    fn state(&mut self, line: &mut Cursor<'_>) -> Result<(), ParseError> {
        line.define('s', self.graph.states.len())?;
        line.expect(b'=')?;
        let state = self.graph.states.push(options::state(line)?);
        self.states.push((state, line.line()));
        Ok(())
    }

    /// `w1 = weight "lm_head.weight" bf16 [49152 vocabulary, 576] tied w0`
    fn weight(&mut self, line: &mut Cursor<'_>, place: Place) -> Result<(), ParseError> {
        line.define('w', self.graph.weights.len())?;
        line.expect(b'=')?;
        line.keyword("weight")?;
        let name = line.string()?;
        let dtype = line.choice("an element type", |word| word.parse().ok())?;
        let axes = line.list(axis)?;
        let tied = match line.maybe_keyword("tied") {
            true => Some(weight(line)?),
            false => None,
        };
        let coding = match line.peek() {
            0 => None,
            _ => Some(coding(line)?),
        };
        self.graph.make_weight(place, WeightData { name, dtype, axes, tied, coding });
        Ok(())
    }

    /// `return v1, v2`
    fn carry(&mut self, line: &mut Cursor<'_>, place: Place) -> Result<(), ParseError> {
        line.keyword("return")?;
        let mut carry = Vec::new();
        while line.peek() != 0 {
            if !carry.is_empty() {
                line.expect(b',')?;
            }
            carry.push(value(line)?);
        }
        self.graph.places[place].carry = carry;
        self.section = Section::Returned;
        match self.states.drain(..).find(|&(state, _)| !self.kept[state]) {
            Some((state, number)) => {
                let message = format!("no operation of this place uses {state}");
                Cursor::new("", number).fail_at(1, message)
            }
            None => Ok(()),
        }
    }

    /// `v4, v5 = split v3, [64, 64]`
    fn node(&mut self, line: &mut Cursor<'_>, place: Place) -> Result<(), ParseError> {
        let mut results = 0;
        loop {
            line.define('v', self.graph.values.len().saturating_add(results))?;
            results += 1;
            if !line.take(b',') {
                break;
            }
        }
        line.expect(b'=')?;
        line.peek();
        let column = line.column();
        let op = self.op(line)?;
        let name = op.name();
        let node = match self.graph.append(place, op) {
            Ok(node) => node,
            Err(error) => return line.fail_at(column, error.to_string()),
        };
        let given = self.graph.nodes[node].results.len();
        if results != given {
            let message = format!("{name} gives {given} values, the line names {results}");
            return line.fail_at(column, message);
        }
        Ok(())
    }

    fn op(&mut self, line: &mut Cursor<'_>) -> Result<Op, ParseError> {
        let word = line.word();
        Ok(match word {
            "tokens" => Op::Tokens,
            "embedding" => Op::Embedding {
                tokens: value(line)?,
                table: and(line, weight)?,
                stretch: stretch(line)?,
            },
            "positions" => Op::Positions { table: weight(line)?, stretch: stretch(line)? },
            "receive" => Op::Receive { widths: line.list(|line| line.integer("a width"))? },
            "all_reduce" => Op::AllReduce { input: value(line)? },
            "all_gather" => Op::AllGather { input: value(line)? },
            "linear" => Op::Linear {
                input: value(line)?,
                weight: and(line, weight)?,
                bias: if line.take(b',') { Some(weight(line)?) } else { None },
            },
            "linear_heads" => {
                let (input, weight) = (value(line)?, and(line, weight)?);
                line.expect(b',')?;
                let bias = bias_before(line, b'h')?;
                let heads = line.integer_attribute("heads")?;
                Op::LinearHeads { input, weight, bias, heads }
            }
            "concat" => {
                let mut inputs = vec![value(line)?];
                line.expect(b',')?;
                while line.peek() == b'v' {
                    inputs.push(value(line)?);
                    line.expect(b',')?;
                }
                Op::Concat { inputs, heads: line.integer_attribute("heads")? }
            }
            "mix" => Op::Mix {
                input: value(line)?,
                scores: and(line, value)?,
                up: and(line, weight)?,
                down: and(line, weight)?,
                options: and(line, options::mixture)?,
            },
            "convolve" => {
                let (input, weight) = (value(line)?, and(line, weight)?);
                line.expect(b',')?;
                let bias = bias_before(line, b's')?;
                Op::Convolve { input, weight, bias, state: self.kept_state(line)? }
            }
            "recur" => Op::Recur {
                input: value(line)?,
                input_gate: and(line, value)?,
                recurrent_gate: and(line, value)?,
                decay: and(line, weight)?,
                state: and(line, |line| self.kept_state(line))?,
            },
            "split" => Op::Split {
                input: value(line)?,
                sizes: and(line, |line| line.list(|line| line.integer("a size")))?,
            },
            "rms_norm" => Op::RmsNorm {
                input: value(line)?,
                weight: and(line, weight)?,
                epsilon: and(line, |line| line.number_attribute("epsilon"))?,
            },
            "layer_norm" => Op::LayerNorm {
                input: value(line)?,
                weight: and(line, maybe_weight)?,
                bias: and(line, maybe_weight)?,
                epsilon: and(line, |line| line.number_attribute("epsilon"))?,
            },
            "rms_norm_heads" | "layer_norm_heads" => {
                let (input, weight) = (value(line)?, and(line, weight)?);
                let head_width = and(line, |line| line.integer_attribute("head_width"))?;
                let epsilon = line.number_attribute("epsilon")?;
                match word {
                    "rms_norm_heads" => Op::RmsNormHeads { input, weight, head_width, epsilon },
                    _ => Op::LayerNormHeads { input, weight, head_width, epsilon },
                }
            }
            "rotate" => Op::Rotate { input: value(line)?, rotary: and(line, rotary)? },
            "attend" => {
                let (query, key, value) = (value(line)?, and(line, value)?, and(line, value)?);
                line.expect(b',')?;
                line.peek();
                let column = line.column();
                let cache = self.kept_state(line)?;
                let state = self.graph.states.get(cache);
                let Some(&StateData::Cache { key_heads, head_width, .. }) = state else {
                    return line.fail_at(column, format!("{cache} is no cache"));
                };
                line.expect(b',')?;
                let options = options::attention(line, key_heads, head_width)?;
                let turned = if line.peek() != 0 {
                    line.attribute("rotary")?;
                    Some(rotary(line)?)
                } else {
                    None
                };
                Op::Attend { query, key, value, cache, rotary: turned, options }
            }
            "activate" => Op::Activate { input: value(line)?, activation: and(line, activation)? },
            "add" => Op::Add { left: value(line)?, right: and(line, value)? },
            "multiply" => Op::Multiply { left: value(line)?, right: and(line, value)? },
            "scale" => {
                let input = value(line)?;
                Op::Scale { input, factor: and(line, |line| line.number_attribute("factor"))? }
            }
            "softcap" => {
                let input = value(line)?;
                Op::Softcap { input, bound: and(line, |line| line.number_attribute("bound"))? }
            }
            "clamp" => Op::Clamp {
                input: value(line)?,
                low: and(line, |line| line.number_attribute("low"))?,
                high: line.number_attribute("high")?,
            },
            "outputs" => Op::Outputs { input: value(line)? },
            "round_inputs" => round_inputs(line)?,
            "add_rms_norm" => Op::AddRmsNorm {
                left: value(line)?,
                right: and(line, value)?,
                weight: and(line, weight)?,
                epsilon: and(line, |line| line.number_attribute("epsilon"))?,
            },
            "gate" => Op::Gate {
                gate: value(line)?,
                up: and(line, value)?,
                activation: and(line, activation)?,
            },
            _ => {
                line.back(word);
                return line.expected("an operation");
            }
        })
    }

    /// A state that an operation keeps.
    fn kept_state(&mut self, line: &mut Cursor<'_>) -> Result<State, ParseError> {
        line.peek();
        let column = line.column();
        let state = State::from_u32(line.entity('s')?);
        if !self.graph.states.is_valid(state) {
            return line.fail_at(column, format!("{state} does not exist"));
        }
        self.kept[state] = true;
        Ok(state)
    }
}

/// A bias and the comma after it, unless what comes next begins with a letter.
fn bias_before(line: &mut Cursor<'_>, letter: u8) -> Result<Option<Weight>, ParseError> {
    if line.peek() == letter {
        return Ok(None);
    }
    let bias = weight(line)?;
    line.expect(b',')?;
    Ok(Some(bias))
}

/// `v1, inputs=w2, grid=int8, scale=w3`, of which only the value must be there.
fn round_inputs(line: &mut Cursor<'_>) -> Result<Op, ParseError> {
    let input = value(line)?;
    let (mut scales, mut grid) = (None, None);
    while line.take(b',') {
        match line.word() {
            "inputs" if scales.is_none() && grid.is_none() => {
                line.expect(b'=')?;
                scales = Some(weight(line)?);
            }
            "grid" if grid.is_none() => {
                line.expect(b'=')?;
                let kind = line.choice("int8 or fp8", |word| {
                    word.parse().ok().filter(|kind| *kind != CodeKind::Int4)
                })?;
                grid = Some(Grid { kind, scale: None });
            }
            "scale" if grid.is_some_and(|grid| grid.scale.is_none()) => {
                line.expect(b'=')?;
                let scale = Some(weight(line)?);
                grid = grid.map(|grid| Grid { scale, ..grid });
            }
            word => {
                line.back(word);
                return line.expected("`inputs=`, then `grid=`, then `scale=`");
            }
        }
    }
    Ok(Op::RoundInputs { input, scales, grid })
}

/// `, first=5 of=10`, or nothing.
fn stretch(line: &mut Cursor<'_>) -> Result<Option<Stretch>, ParseError> {
    if !line.take(b',') {
        return Ok(None);
    }
    line.attribute("first")?;
    let first = line.integer("a row")?;
    line.attribute("of")?;
    Ok(Some(Stretch { first, of: line.integer("a number of rows")? }))
}

/// What stands after a comma.
fn and<T>(
    line: &mut Cursor<'_>,
    read: impl FnOnce(&mut Cursor<'_>) -> Result<T, ParseError>,
) -> Result<T, ParseError> {
    line.expect(b',')?;
    read(line)
}

fn value(line: &mut Cursor<'_>) -> Result<Value, ParseError> {
    line.entity('v').map(Value::from_u32)
}

fn weight(line: &mut Cursor<'_>) -> Result<Weight, ParseError> {
    line.entity('w').map(Weight::from_u32)
}

/// `int4 scales w3 zeros w4 groups w5 inputs w6`, of which only the scales must be there.
fn coding(line: &mut Cursor<'_>) -> Result<Coding, ParseError> {
    let kind = line.choice("what a code is", |word| word.parse().ok())?;
    line.keyword("scales")?;
    let scales = weight(line)?;
    let mut maybe = |word| match line.maybe_keyword(word) {
        true => weight(line).map(Some),
        false => Ok(None),
    };
    let (zeros, group_index) = (maybe("zeros")?, maybe("groups")?);
    Ok(Coding { kind, scales, zeros, group_index, input_scales: maybe("inputs")? })
}

/// A weight, or `_` where there is none.
fn maybe_weight(line: &mut Cursor<'_>) -> Result<Option<Weight>, ParseError> {
    if line.take(b'_') { Ok(None) } else { weight(line).map(Some) }
}

fn rotary(line: &mut Cursor<'_>) -> Result<Rotary, ParseError> {
    line.entity('r').map(Rotary::from_u32)
}

/// By its first name, so that one text says it one way.
fn activation(line: &mut Cursor<'_>) -> Result<Activation, ParseError> {
    line.choice("an activation", |word| {
        ACTIVATIONS.iter().find(|(_, names)| names[0] == word).map(|found| found.0)
    })
}

/// `576 query_heads + 192 key_heads`
fn axis(line: &mut Cursor<'_>) -> Result<Axis, ParseError> {
    let mut segments = Vec::with_capacity(1);
    loop {
        let size = line.integer("a length")?;
        let meaning = match line.peek() {
            b'a'..=b'z' => line.choice("what the axis counts", |word| {
                MEANINGS.iter().find(|(_, name)| *name == word).map(|found| found.0)
            })?,
            _ => Meaning::Plain,
        };
        segments.push(Segment { size, meaning });
        if !line.take(b'+') {
            return Ok(Axis { segments });
        }
    }
}
