//! What a guest may call: each function hands its operands to the recorder.

use super::bindings::engraft::plugin::{config, graph, report, types, weights};
use super::{Attention, Mixture, State};
use crate::error::Rejection;
use crate::recorder::Recorder;
use engraft_diagnostic::escape;
use engraft_ir::{
    Activation, AttentionData, Bounded, Groups, MixtureData, Op, RotaryData, Scaling,
};
use wasmtime::Result;
use wasmtime::component::Resource;

pub(super) use graph::Value;
use graph::Weight;

impl types::Host for State {}
impl config::Host for State {}
impl weights::Host for State {}
impl graph::Host for State {}

impl report::Host for State {
    fn fail(&mut self, reason: String) -> Result<()> {
        Err(Rejection::Fail(reason).into())
    }
}

fn refuse<T>(call: &str, why: String) -> Result<T> {
    Err(Rejection::Call(format!("{call}: {why}")).into())
}

/// A weight, where one is given.
fn maybe(r: &Recorder, weight: Option<Weight>) -> Result<Option<engraft_ir::Weight>, Rejection> {
    weight.map(|weight| r.weight(weight.index)).transpose()
}

impl State {
    /// Appends an operation with one result. `op` finds the operands.
    fn one(
        &mut self,
        builder: &Resource<Recorder>,
        op: impl FnOnce(&mut Recorder) -> Result<Op, Rejection>,
    ) -> Result<Value> {
        let recorder = self.table.get_mut(builder)?;
        let op = op(recorder)?;
        let results = recorder.append(op)?;
        Ok(Value { index: results[0].as_u32() })
    }

    /// Sets a rotation's scaling, once.
    fn scale_rotary(&mut self, options: &Resource<RotaryData>, scaling: Scaling) -> Result<()> {
        let rotary = self.table.get_mut(options)?;
        if rotary.scaling != Scaling::None {
            return refuse("rotary", "it has a scaling already".into());
        }
        rotary.scaling = scaling;
        rotary.check().or_else(|why| refuse("rotary", why))
    }

    /// Sets one of an attention's options.
    fn set_attention(
        &mut self,
        options: &Resource<Attention>,
        set: impl FnOnce(&mut AttentionData),
    ) -> Result<()> {
        let attention = &mut self.table.get_mut(options)?.data;
        set(attention);
        attention.check().or_else(|why| refuse("attention", why))
    }

    /// Sets one of a mixture's options.
    fn set_mixture(
        &mut self,
        options: &Resource<Mixture>,
        set: impl FnOnce(&mut MixtureData),
    ) -> Result<()> {
        let mixture = &mut self.table.get_mut(options)?.data;
        set(mixture);
        mixture.check().or_else(|why| refuse("mixture", why))
    }
}

/// By any of its names.
fn activation(call: &str, name: &str) -> Result<Activation, Rejection> {
    Activation::from_name(name).ok_or_else(|| {
        let known: Vec<&str> = Activation::names().collect();
        let (name, known) = (escape(name), known.join(", "));
        Rejection::Call(format!("{call}: `{name}` is unknown; there are {known}"))
    })
}

impl graph::HostRotary for State {
    fn new(&mut self, head_width: u32, rotated: u32, base: f64) -> Result<Resource<RotaryData>> {
        let scaling = Scaling::None;
        let rotary = RotaryData { head_width, rotated, base, scaling, interleaved: false };
        rotary.check().or_else(|why| refuse("rotary", why))?;
        Ok(self.table.push(rotary)?)
    }

    fn scale_linear(&mut self, rotary: Resource<RotaryData>, factor: f64) -> Result<()> {
        self.scale_rotary(&rotary, Scaling::Linear { factor })
    }

    fn scale_llama3(
        &mut self,
        rotary: Resource<RotaryData>,
        factor: f64,
        low: f64,
        high: f64,
        context: u32,
    ) -> Result<()> {
        self.scale_rotary(&rotary, Scaling::Llama3 { factor, low, high, context })
    }

    fn scale_yarn(
        &mut self,
        rotary: Resource<RotaryData>,
        factor: f64,
        fast: f64,
        slow: f64,
        attention: Option<f64>,
        context: u32,
    ) -> Result<()> {
        let untruncated = false;
        let yarn = Scaling::Yarn { factor, fast, slow, attention, context, untruncated };
        self.scale_rotary(&rotary, yarn)
    }

    fn scale_long(
        &mut self,
        rotary: Resource<RotaryData>,
        short: Vec<f64>,
        long: Vec<f64>,
        attention: f64,
        context: u32,
    ) -> Result<()> {
        self.scale_rotary(&rotary, Scaling::Long { short, long, attention, context })
    }

    fn untruncated(&mut self, rotary: Resource<RotaryData>) -> Result<()> {
        match &mut self.table.get_mut(&rotary)?.scaling {
            Scaling::Yarn { untruncated, .. } => {
                *untruncated = true;
                Ok(())
            }
            _ => refuse("rotary", "untruncated is of YaRN: call `scale-yarn` first".into()),
        }
    }

    fn interleaved(&mut self, rotary: Resource<RotaryData>) -> Result<()> {
        self.table.get_mut(&rotary)?.interleaved = true;
        Ok(())
    }

    fn drop(&mut self, rotary: Resource<RotaryData>) -> Result<()> {
        self.table.delete(rotary)?;
        Ok(())
    }
}

impl graph::HostAttention for State {
    fn new(
        &mut self,
        query_heads: u32,
        key_heads: u32,
        head_width: u32,
    ) -> Result<Resource<Attention>> {
        let scale = 1.0 / f64::from(head_width.max(1)).sqrt();
        let attention = AttentionData::new(query_heads, key_heads, head_width, scale);
        attention.check().or_else(|why| refuse("attention", why))?;
        Ok(self.table.push(Attention { data: attention, sinks: None })?)
    }

    fn scale(&mut self, attention: Resource<Attention>, factor: f64) -> Result<()> {
        self.set_attention(&attention, |attention| attention.scale = factor)
    }

    fn window(&mut self, attention: Resource<Attention>, tokens: u32) -> Result<()> {
        self.set_attention(&attention, |attention| attention.window = Some(tokens))
    }

    fn softcap(&mut self, attention: Resource<Attention>, bound: f64) -> Result<()> {
        self.set_attention(&attention, |attention| attention.softcap = Some(bound))
    }

    fn alibi(&mut self, attention: Resource<Attention>, slopes: Vec<f64>) -> Result<()> {
        self.set_attention(&attention, |attention| attention.alibi = Some(slopes))
    }

    fn sinks(&mut self, attention: Resource<Attention>, weight: Weight) -> Result<()> {
        self.table.get_mut(&attention)?.sinks = Some(weight.index);
        Ok(())
    }

    fn latent(&mut self, attention: Resource<Attention>, value_width: u32) -> Result<()> {
        self.set_attention(&attention, |attention| attention.latent = Some(value_width))
    }

    fn drop(&mut self, attention: Resource<Attention>) -> Result<()> {
        self.table.delete(attention)?;
        Ok(())
    }
}

impl graph::HostMixture for State {
    fn new(&mut self, chosen: u32, name: String) -> Result<Resource<Mixture>> {
        let data = MixtureData::new(chosen, activation("mixture", &name)?);
        data.check().or_else(|why| refuse("mixture", why))?;
        Ok(self.table.push(Mixture { data, prefer: None, biases: None })?)
    }

    fn sigmoid(&mut self, mixture: Resource<Mixture>) -> Result<()> {
        self.set_mixture(&mixture, |mixture| mixture.sigmoid = true)
    }

    fn renormalize(&mut self, mixture: Resource<Mixture>) -> Result<()> {
        self.set_mixture(&mixture, |mixture| mixture.renormalize = true)
    }

    fn scale(&mut self, mixture: Resource<Mixture>, factor: f64) -> Result<()> {
        self.set_mixture(&mixture, |mixture| mixture.scale = Some(factor))
    }

    fn prefer(&mut self, mixture: Resource<Mixture>, bias: Weight) -> Result<()> {
        self.table.get_mut(&mixture)?.prefer = Some(bias.index);
        Ok(())
    }

    fn groups(
        &mut self,
        mixture: Resource<Mixture>,
        groups: u32,
        chosen: u32,
        best: u32,
    ) -> Result<()> {
        let groups = Some(Groups { groups, chosen, best });
        self.set_mixture(&mixture, |mixture| mixture.groups = groups)
    }

    fn biases(&mut self, mixture: Resource<Mixture>, up: Weight, down: Weight) -> Result<()> {
        self.table.get_mut(&mixture)?.biases = Some([up.index, down.index]);
        Ok(())
    }

    fn bounded(&mut self, mixture: Resource<Mixture>, bound: f64, slope: f64) -> Result<()> {
        let bounded = Some(Bounded { bound, slope });
        self.set_mixture(&mixture, |mixture| mixture.bounded = bounded)
    }

    fn drop(&mut self, mixture: Resource<Mixture>) -> Result<()> {
        self.table.delete(mixture)?;
        Ok(())
    }
}

impl graph::HostBuilder for State {
    fn parameter(&mut self, builder: Resource<Recorder>, name: String) -> Result<Weight> {
        let weight = self.table.get_mut(&builder)?.parameter(&name)?;
        Ok(Weight { index: weight.as_u32() })
    }

    fn label(&mut self, builder: Resource<Recorder>, value: Value, name: String) -> Result<()> {
        Ok(self.table.get_mut(&builder)?.label(value.index, &name)?)
    }

    fn embedding(&mut self, b: Resource<Recorder>, tokens: Value, table: Weight) -> Result<Value> {
        self.one(&b, |r| {
            Ok(Op::Embedding {
                tokens: r.value(tokens.index)?,
                table: r.weight(table.index)?,
                stretch: None,
            })
        })
    }

    fn positions(&mut self, b: Resource<Recorder>, table: Weight) -> Result<Value> {
        self.one(&b, |r| Ok(Op::Positions { table: r.weight(table.index)?, stretch: None }))
    }

    fn linear(
        &mut self,
        b: Resource<Recorder>,
        input: Value,
        weight: Weight,
        bias: Option<Weight>,
    ) -> Result<Value> {
        self.one(&b, |r| {
            let bias = maybe(r, bias)?;
            Ok(Op::Linear { input: r.value(input.index)?, weight: r.weight(weight.index)?, bias })
        })
    }

    fn linear_heads(
        &mut self,
        b: Resource<Recorder>,
        input: Value,
        weight: Weight,
        bias: Option<Weight>,
        heads: u32,
    ) -> Result<Value> {
        self.one(&b, |r| {
            let bias = maybe(r, bias)?;
            let (input, weight) = (r.value(input.index)?, r.weight(weight.index)?);
            Ok(Op::LinearHeads { input, weight, bias, heads })
        })
    }

    fn concat(&mut self, b: Resource<Recorder>, inputs: Vec<Value>, heads: u32) -> Result<Value> {
        let recorder = self.table.get_mut(&b)?;
        recorder.check_count("inputs of a concat", inputs.len(), &self.limits)?;
        recorder.keep(inputs.len().saturating_mul(size_of::<u32>()))?;
        self.one(&b, |r| {
            let inputs: Result<_, _> = inputs.iter().map(|input| r.value(input.index)).collect();
            Ok(Op::Concat { inputs: inputs?, heads })
        })
    }

    fn split(
        &mut self,
        b: Resource<Recorder>,
        input: Value,
        sizes: Vec<u64>,
    ) -> Result<Vec<Value>> {
        let recorder = self.table.get_mut(&b)?;
        recorder.check_count("parts of a split", sizes.len(), &self.limits)?;
        let input = recorder.value(input.index)?;
        let results = recorder.append(Op::Split { input, sizes })?;
        Ok(results.iter().map(|value| Value { index: value.as_u32() }).collect())
    }

    fn rms_norm(
        &mut self,
        b: Resource<Recorder>,
        input: Value,
        weight: Weight,
        epsilon: f64,
    ) -> Result<Value> {
        self.one(&b, |r| {
            let (input, weight) = (r.value(input.index)?, r.weight(weight.index)?);
            Ok(Op::RmsNorm { input, weight, epsilon })
        })
    }

    fn layer_norm(
        &mut self,
        b: Resource<Recorder>,
        input: Value,
        weight: Option<Weight>,
        bias: Option<Weight>,
        epsilon: f64,
    ) -> Result<Value> {
        self.one(&b, |r| {
            let input = r.value(input.index)?;
            let (weight, bias) = (maybe(r, weight)?, maybe(r, bias)?);
            Ok(Op::LayerNorm { input, weight, bias, epsilon })
        })
    }

    fn rms_norm_heads(
        &mut self,
        b: Resource<Recorder>,
        input: Value,
        weight: Weight,
        head_width: u32,
        epsilon: f64,
    ) -> Result<Value> {
        self.one(&b, |r| {
            let (input, weight) = (r.value(input.index)?, r.weight(weight.index)?);
            Ok(Op::RmsNormHeads { input, weight, head_width, epsilon })
        })
    }

    fn layer_norm_heads(
        &mut self,
        b: Resource<Recorder>,
        input: Value,
        weight: Weight,
        head_width: u32,
        epsilon: f64,
    ) -> Result<Value> {
        self.one(&b, |r| {
            let (input, weight) = (r.value(input.index)?, r.weight(weight.index)?);
            Ok(Op::LayerNormHeads { input, weight, head_width, epsilon })
        })
    }

    fn rotate(
        &mut self,
        b: Resource<Recorder>,
        input: Value,
        options: Resource<RotaryData>,
    ) -> Result<Value> {
        let options = self.table.get(&options)?.clone();
        let limits = self.limits.clone();
        self.one(&b, |r| {
            Ok(Op::Rotate { input: r.value(input.index)?, rotary: r.rotary(options, &limits)? })
        })
    }

    fn attend(
        &mut self,
        b: Resource<Recorder>,
        query: Value,
        key: Value,
        value: Value,
        options: Resource<Attention>,
    ) -> Result<Value> {
        let Attention { data: mut options, sinks } = self.table.get(&options)?.clone();
        let recorder = self.table.get_mut(&b)?;
        options.sinks = sinks.map(|weight| recorder.weight(weight)).transpose()?;
        let operands = [
            recorder.value(query.index)?,
            recorder.value(key.index)?,
            recorder.value(value.index)?,
        ];
        let results = recorder.attend(operands, options)?;
        Ok(Value { index: results[0].as_u32() })
    }

    fn mix(
        &mut self,
        b: Resource<Recorder>,
        input: Value,
        scores: Value,
        up: Weight,
        down: Weight,
        options: Resource<Mixture>,
    ) -> Result<Value> {
        let Mixture { data: mut options, prefer, biases } = self.table.get(&options)?.clone();
        self.one(&b, |r| {
            options.prefer = prefer.map(|weight| r.weight(weight)).transpose()?;
            options.biases = match biases {
                Some([up, down]) => Some([r.weight(up)?, r.weight(down)?]),
                None => None,
            };
            let (input, scores) = (r.value(input.index)?, r.value(scores.index)?);
            let (up, down) = (r.weight(up.index)?, r.weight(down.index)?);
            Ok(Op::Mix { input, scores, up, down, options })
        })
    }

    fn convolve(
        &mut self,
        b: Resource<Recorder>,
        input: Value,
        weight: Weight,
        bias: Option<Weight>,
    ) -> Result<Value> {
        let recorder = self.table.get_mut(&b)?;
        let (input, bias) = (recorder.value(input.index)?, maybe(recorder, bias)?);
        let weight = recorder.weight(weight.index)?;
        let results = recorder.convolve(input, weight, bias)?;
        Ok(Value { index: results[0].as_u32() })
    }

    fn recur(
        &mut self,
        b: Resource<Recorder>,
        input: Value,
        input_gate: Value,
        recurrent_gate: Value,
        decay: Weight,
    ) -> Result<Value> {
        let recorder = self.table.get_mut(&b)?;
        let operands = [
            recorder.value(input.index)?,
            recorder.value(input_gate.index)?,
            recorder.value(recurrent_gate.index)?,
        ];
        let decay = recorder.weight(decay.index)?;
        let results = recorder.recur(operands, decay)?;
        Ok(Value { index: results[0].as_u32() })
    }

    fn activate(&mut self, b: Resource<Recorder>, input: Value, name: String) -> Result<Value> {
        self.one(&b, |r| {
            let activation = activation("activate", &name)?;
            Ok(Op::Activate { input: r.value(input.index)?, activation })
        })
    }

    fn add(&mut self, b: Resource<Recorder>, left: Value, right: Value) -> Result<Value> {
        self.one(&b, |r| Ok(Op::Add { left: r.value(left.index)?, right: r.value(right.index)? }))
    }

    fn multiply(&mut self, b: Resource<Recorder>, left: Value, right: Value) -> Result<Value> {
        self.one(&b, |r| {
            Ok(Op::Multiply { left: r.value(left.index)?, right: r.value(right.index)? })
        })
    }

    fn scale(&mut self, b: Resource<Recorder>, input: Value, factor: f64) -> Result<Value> {
        self.one(&b, |r| Ok(Op::Scale { input: r.value(input.index)?, factor }))
    }

    fn softcap(&mut self, b: Resource<Recorder>, input: Value, bound: f64) -> Result<Value> {
        self.one(&b, |r| Ok(Op::Softcap { input: r.value(input.index)?, bound }))
    }

    fn clamp(&mut self, b: Resource<Recorder>, input: Value, low: f64, high: f64) -> Result<Value> {
        self.one(&b, |r| Ok(Op::Clamp { input: r.value(input.index)?, low, high }))
    }

    fn drop(&mut self, builder: Resource<Recorder>) -> Result<()> {
        self.table.delete(builder)?;
        Ok(())
    }
}
