//! The layers of decoders, as a [`Decoder`](crate::Decoder)'s choices say them.

use crate::net::linear_axes;
use crate::{
    Attention, Axis, Base, Mlp, Net, Order, Origin, PartExt, Qkv, Rope, Scores, Value, concat,
    dotted, plain,
};

impl Net<'_> {
    /// From token ids to what the first block takes.
    pub fn embed(&self, tokens: Value) -> Value {
        let x = self.scale(self.embedding(tokens), self.decoder.embedding);
        self.decoder.learned.map_or(x, |skipped| self.add(x, self.positions(skipped)))
    }

    /// Rows of the embedding's table.
    pub fn embedding(&self, tokens: Value) -> Value {
        let name = "vocab_embedding";
        let table = self.any(&dotted(name, "weight"), || {
            self.part(name, "weight", &self.decoder.base.table()).into()
        });
        self.write(|g| g.embedding(tokens, table))
    }

    /// Rows of a table of learned positions, whose first `skipped` are for something else.
    pub fn positions(&self, skipped: u64) -> Value {
        let (name, base) = ("position_embedding", &self.decoder.base);
        let (hidden, places) = (base.width(), plain(base.context));
        let table = self.any(&dotted(name, "weight"), || match skipped {
            0 => self.part(name, "weight", &[places, hidden]).into(),
            _ => self.rows(name, "weight", &[(skipped, places)], hidden),
        });
        self.write(|g| g.positions(table))
    }

    /// The head: the embedding's table, or one of its own.
    pub fn logits(&self, x: Value) -> Value {
        let (name, base) = ("lm_head", &self.decoder.base);
        let logits = match base.tied {
            true => {
                let table = self.tied(name, "vocab_embedding");
                self.write(|g| g.linear(x, table, None))
            }
            false => self.dense(x, name, base.table(), self.decoder.bias.head),
        };
        self.scale(logits, self.decoder.logits)
    }

    /// A block's two layers and what stands around them. `A` is attention, `F` feed-forward.
    pub fn residual(
        &self,
        x: Value,
        attention: impl Fn(Value) -> Value,
        feed_forward: impl Fn(Value) -> Value,
    ) -> Value {
        self.residual_of(x, &attention, &feed_forward)
    }

    #[inline(never)]
    fn residual_of(
        &self,
        x: Value,
        attention: &dyn Fn(Value) -> Value,
        feed_forward: &dyn Fn(Value) -> Value,
    ) -> Value {
        let norm = |x, name| self.norm(x, name);
        let add = |x, h| self.add(x, self.scale(h, self.decoder.residual));
        let (first, second) = ("input_layernorm", "post_layernorm");
        let (before, behind) = ("pre_feedforward_layernorm", "post_feedforward_layernorm");
        match self.decoder.order {
            Order::Before => {
                let x = add(x, attention(norm(x, first)));
                add(x, feed_forward(norm(x, second)))
            }
            Order::After => {
                let x = norm(add(x, attention(x)), first);
                norm(add(x, feed_forward(x)), second)
            }
            Order::Normed => {
                let h = norm(x, first);
                let h = norm(add(h, attention(h)), second);
                add(h, feed_forward(h))
            }
            Order::Behind => {
                let x = add(x, norm(attention(x), second));
                add(x, norm(feed_forward(x), behind))
            }
            Order::Around => {
                let x = add(x, norm(attention(norm(x, first)), second));
                add(x, norm(feed_forward(norm(x, before)), behind))
            }
            Order::Beside => {
                let h = norm(x, first);
                add(add(x, attention(h)), feed_forward(h))
            }
            Order::BesideTwo(second) => {
                let attended = add(x, attention(norm(x, first)));
                add(attended, feed_forward(norm(x, second)))
            }
        }
    }

    /// Queries, keys and values, clamped where they are.
    pub fn qkv(&self, x: Value) -> [Value; 3] {
        let (d, base, name) = (self.decoder, &self.decoder.base, "attention.qkv");
        let outs = [base.queries(), base.keys(), base.keys()];
        let kept = match self.spelling() {
            Some(spelling) if spelling.grouped => Qkv::Together { groups: base.key_heads },
            _ => d.qkv,
        };
        let joined = self.dense_of(x, name, d.bias.qkv, |kind| match kept {
            Qkv::Apart => {
                let layers = ["attention.q", "attention.k", "attention.v"].into_iter();
                concat(
                    0,
                    layers.zip(outs).map(|(layer, out)| {
                        self.part(layer, kind, &linear_axes(kind, out, base.width()))
                    }),
                )
            }
            Qkv::Together { groups } => self.grouped(name, kind, groups),
        });
        self.split(joined, outs.map(|axis| axis.size)).map(|x| self.clip(x, d.clip))
    }

    /// Queries, keys and values of one tensor, out of their groups.
    fn grouped(&self, layer: &str, kind: &str, groups: u32) -> Origin {
        let base = &self.decoder.base;
        let groups = if self.is_gguf() { 1 } else { groups };
        let (queries, keys) = (u64::from(base.heads / groups), u64::from(base.key_heads / groups));
        let stretches = [
            (0, queries, base.queries()),
            (queries, keys, base.keys()),
            (queries + keys, keys, base.keys()),
        ];
        let per_group = [groups.into(), queries + 2 * keys, base.head_width.into()];
        concat(
            0,
            stretches.into_iter().map(|(start, heads, out)| {
                let axes = linear_axes(kind, out, base.width());
                let rest = axes[1..].iter().map(|axis| axis.size);
                let all = per_group.iter().product();
                self.part(layer, kind, &axes)
                    .shaped([all].into_iter().chain(rest.clone()))
                    .reshape(per_group.into_iter().chain(rest.clone()))
                    .slice(1, start, start + heads)
                    .reshape([out.size].into_iter().chain(rest))
            }),
        )
    }

    /// Norms of queries and keys, where they are normed: each head by itself, one gain for all.
    pub fn head_norms(&self, [q, k]: [Value; 2]) -> [Value; 2] {
        let (base, width) = (&self.decoder.base, self.decoder.base.head_width);
        if !base.qk_norm {
            return [q, k];
        }
        [(q, "attention.q_layernorm"), (k, "attention.k_layernorm")].map(|(x, name)| {
            let gain = self.gain(name, plain(width));
            self.write(|g| g.rms_norm_heads(x, gain, width, base.epsilon))
        })
    }

    /// A layer norm of each head by itself, with a gain of its own.
    pub fn norm_each_head(&self, x: Value, name: &str, gain: impl FnOnce() -> Origin) -> Value {
        let (gain, base) = (self.kept(&dotted(name, "weight"), gain), &self.decoder.base);
        self.write(|g| g.layer_norm_heads(x, gain, base.head_width, base.epsilon))
    }

    /// Turns queries and keys.
    pub fn turn(&self, [q, k]: [Value; 2], rope: Option<&Rope>) -> [Value; 2] {
        let Some(rope) = rope else { return [q, k] };
        let Base { head_width, rotated, .. } = self.decoder.base;
        [q, k].map(|x| self.write(|g| g.rotate(x, &rope.rotary(head_width, rotated))))
    }

    /// Attention over the cache, and the linear layer behind it.
    pub fn attend(&self, qkv: [Value; 3], scores: &Scores) -> Value {
        self.attend_with(qkv, scores, |_| ())
    }

    /// The same with options that few decoders have.
    pub fn attend_with(
        &self,
        [q, k, v]: [Value; 3],
        scores: &Scores,
        more: impl FnOnce(&Attention),
    ) -> Value {
        let (d, base) = (self.decoder, &self.decoder.base);
        let [q, k] = self.turn([q, k], scores.rope);
        let attended = self.write(|g| {
            let options = Attention::new(base.heads, base.key_heads, base.head_width);
            scores.set(&options);
            more(&options);
            g.attend(q, k, v, &options)
        });
        self.dense(attended, "attention.dense", [base.width(), base.queries()], d.bias.dense)
    }

    /// Attention as most decoders have it.
    pub fn attention(&self, x: Value, scores: &Scores) -> Value {
        let [q, k, v] = self.qkv(x);
        let [q, k] = self.head_norms([q, k]);
        self.attend([q, k, v], scores)
    }

    /// The decoder's feed-forward layer.
    pub fn feed_forward(&self, x: Value) -> Value {
        self.feed_forward_of(x, "mlp", self.decoder.base.inside())
    }

    /// One of the same kind by another name and of another width.
    pub fn feed_forward_of(&self, x: Value, name: &str, inner: Axis) -> Value {
        let (d, hidden) = (self.decoder, self.decoder.base.width());
        let layer = |part: &str| dotted(name, part);
        let dense = |x, part: &str, axes| self.dense(x, &layer(part), axes, d.bias.mlp);
        let h = match d.mlp {
            Mlp::Plain => self.activate(dense(x, "fc", [inner, hidden])),
            Mlp::Gated => {
                let gate = self.activate(dense(x, "fc", [inner, hidden]));
                self.multiply(gate, dense(x, "gate", [inner, hidden]))
            }
            Mlp::GatedTogether | Mlp::GatedJoined => {
                let fc = layer("fc");
                let both = self.dense_of(x, &fc, d.bias.mlp, |kind| match d.mlp {
                    Mlp::GatedJoined => {
                        let axes = linear_axes(kind, inner, hidden);
                        concat(0, [layer("gate"), layer("fc")].map(|l| self.part(&l, kind, &axes)))
                    }
                    _ => self.rows(&fc, kind, &[(inner.size, inner), (0, inner)], hidden),
                });
                let [up, gate] = self.split(both, [inner.size, inner.size]);
                self.multiply(self.write(|g| g.activate(gate, "silu")), up)
            }
        };
        dense(h, "proj", [hidden, inner])
    }
}

impl Scores<'_> {
    /// Sets an attention's options.
    pub fn set(&self, options: &Attention) {
        self.scale.into_iter().for_each(|factor| options.scale(factor));
        self.window.into_iter().for_each(|tokens| options.window(tokens));
        self.softcap.into_iter().for_each(|bound| options.softcap(bound));
        if !self.slopes.is_empty() {
            options.alibi(self.slopes);
        }
    }
}
