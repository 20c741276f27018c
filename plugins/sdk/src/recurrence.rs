//! Griffin's recurrent layer: two branches, of which one goes through a short convolution over time
//! and a gated linear recurrence, and is multiplied by the other.

use crate::{
    Axis, Field, Meaning, Net, PartExt, Refusal, Settings, Value, default, dotted, integer, join,
    plain, refuse, same_as, tensor,
};

/// Sizes of recurrent layers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recurrence {
    /// Width of the recurrence.
    pub channels: u32,
    /// How many tokens its convolution spans.
    pub taps: u32,
    /// Gates mix the channels of a head, and no others.
    pub heads: u32,
}

/// Channels, or heads of them.
fn recurrent(size: u32) -> Axis {
    Axis { size: size.into(), meaning: Meaning::Recurrent }
}

impl Recurrence {
    /// What a source and a checkpoint say.
    pub fn fields() -> Vec<Field> {
        vec![
            integer("rnn_hidden_size", same_as("hidden_size"), "Channels of the recurrence."),
            integer("conv_kernel", default(4), "How many tokens its convolution spans."),
        ]
    }

    /// From a checkpoint's settings.
    pub fn open(config: &Settings, heads: u32) -> Result<Recurrence, Refusal> {
        let channels: u32 = config.get("rnn_hidden_size")?;
        if !channels.is_multiple_of(heads) {
            let why = format!("{heads} heads do not divide {channels} channels");
            return refuse("rnn_hidden_size", why);
        }
        Ok(Recurrence { channels, taps: config.get("conv_kernel")?, heads })
    }

    /// The layer: what stands before its names in the checkpoint, and in the source.
    pub fn layer(&self, n: &Net, own: &str, source: &str, x: Value) -> Value {
        let Recurrence { channels, taps, heads } = *self;
        let (hidden, width) = (n.decoder.base.width(), channels / heads);
        let channels = recurrent(channels);
        let part = |name: &str, axes: &[Axis]| tensor(n.source_of(&dotted(source, name)), axes);
        let dense = |x, name: &str, bias: &str, [out, input]: [Axis; 2]| {
            let weight = n.any(&join(&[own, ".", name, ".weight"]), || {
                part(&dotted(name, "weight"), &[out, input]).into()
            });
            let bias = n.any(&dotted(own, bias), || part(&dotted(name, "bias"), &[out]).into());
            n.write(|g| g.linear(x, weight, Some(bias)))
        };
        let y = n.activate(dense(x, "linear_y", "y_bias", [channels, hidden]));
        let x = dense(x, "linear_x", "linear_x.bias", [channels, hidden]);

        let kernel = n.kept(&dotted(own, "conv1d.weight"), || {
            let axes = [channels, plain(taps)];
            part("conv_1d.weight", &axes).reshape(axes.map(|axis| axis.size)).into()
        });
        let bias = n.kept(&dotted(own, "conv1d.bias"), || part("conv_1d.bias", &[channels]).into());
        let x = n.write(|g| g.convolve(x, kernel, Some(bias)));

        // Matrices are `[in, out]` in the source.
        let gate = |name: &str| {
            let weight = n.kept(&join(&[own, ".rg_lru.", name, "_trans.weight"]), || {
                let axes = [recurrent(heads), plain(width), plain(width)];
                part(&join(&["rg_lru.", name, "_weight"]), &axes).permute([0, 2, 1]).into()
            });
            let bias = n.kept(&join(&[own, ".rg_lru.", name, "_trans.bias"]), || {
                part(&join(&["rg_lru.", name, "_bias"]), &[channels])
                    .shaped([heads.into(), width.into()])
                    .reshape([channels.size])
                    .into()
            });
            n.write(|g| g.linear_heads(x, weight, Some(bias), heads))
        };
        let (input, again) = (gate("input_gate"), gate("recurrent_gate"));
        let decay = n.kept(&dotted(own, "rg_lru.recurrent_param"), || {
            part("rg_lru.recurrent_param", &[channels]).into()
        });
        let x = n.write(|g| g.recur(x, input, again, decay));
        dense(n.multiply(x, y), "linear_out", "linear_out.bias", [hidden, channels])
    }
}
