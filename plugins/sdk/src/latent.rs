//! Latent attention: keys and values of all heads are made of one compressed vector a token, and
//! only that and the part of a key that turns are cached.
//!
//! It is written in its absorbed form: all heads share one key, the compressed vector and the part
//! that turns, and a head's values are its own matrix of the compressed vector. The matrix that
//! would make keys of it is put before the query instead.

use crate::{
    ABSENT, Attention, Axis, Base, Field, Meaning, Net, PartExt, REQUIRED, Refusal, Rope, Settings,
    Value, concat, integer, join, plain, query_heads, tensor,
};

/// Widths of latent attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latent {
    /// Of compressed queries, where they are compressed.
    pub query: Option<u32>,
    /// Of compressed keys and values.
    pub latent: u32,
    /// Of a head's part that does not turn.
    pub still: u32,
    /// Of a head's part that turns.
    pub turned: u32,
    /// Of a head's values.
    pub value: u32,
}

/// A compressed width.
fn narrow(size: u32) -> Axis {
    Axis { size: size.into(), meaning: Meaning::Latent }
}

impl Latent {
    /// What a source and a checkpoint say.
    pub fn fields() -> Vec<Field> {
        vec![
            integer("q_lora_rank", ABSENT, "Width of compressed queries."),
            integer("kv_lora_rank", REQUIRED, "Width of compressed keys and values."),
            integer("qk_nope_head_dim", REQUIRED, "Width of a head's part that does not turn."),
            integer("qk_rope_head_dim", REQUIRED, "Width of a head's part that turns."),
            integer("v_head_dim", REQUIRED, "Width of a head's values."),
        ]
    }

    /// From either's settings.
    pub fn read(said: &Settings) -> Result<Latent, Refusal> {
        let sizes = Latent {
            query: said.find("q_lora_rank")?,
            latent: said.get("kv_lora_rank")?,
            still: said.get("qk_nope_head_dim")?,
            turned: said.get("qk_rope_head_dim")?,
            value: said.get("v_head_dim")?,
        };
        let Latent { latent, still, turned, value, .. } = sizes;
        if [latent, still, turned, value].iter().any(|&size| size > 1 << 20) {
            return said.refuse("kv_lora_rank", "a head's width is beyond all reason");
        }
        match turned.is_multiple_of(2) {
            true => Ok(sizes),
            false => said.refuse("qk_rope_head_dim", format!("{turned} is odd")),
        }
    }

    /// Attention, with the norms that are within it.
    pub fn attention(&self, n: &Net, x: Value) -> Value {
        // The inner norms' own, whatever the others' is.
        const EPSILON: f64 = 1e-6;
        let Latent { query, latent, still, turned, value } = *self;
        let Base { heads, .. } = n.decoder.base;
        let (hidden, rope) = (n.decoder.base.width(), n.decoder.rope.as_ref());
        let all = query_heads(heads, 1);
        // Rows `start..end` of each head's of a matrix, as `[heads, rows, in]`.
        let of_heads =
            |name: &str, width: u32, [start, end]: [u32; 2], axes: &[Axis], input: u32| {
                tensor(n.source_of(&join(&["self_attn.", name, ".weight"])), axes)
                    .shaped([u64::from(heads) * u64::from(width), input.into()])
                    .reshape([heads, width, input].map(u64::from))
                    .slice(1, start.into(), end.into())
            };

        let down = [(query, "q_a_proj"), (Some(latent + turned), "kv_a_proj_with_mqa")];
        let down = down.into_iter().filter_map(|(size, name)| Some((size?, name)));
        let parts = down.clone().map(|(size, name)| {
            let name = n.source_of(&join(&["self_attn.", name, ".weight"]));
            tensor(name, &[narrow(size), hidden])
        });
        let down_width: u32 = down.map(|(size, _)| size).sum();
        let both = n.dense_of(x, "attention.fused_a", false, |_| concat(0, parts.clone()));
        let keys = u64::from(latent + turned);
        let [compressed, keys_and_values] = if query.is_some() {
            n.split(both, [u64::from(down_width) - keys, keys])
        } else {
            [x, both]
        };
        let [c, k] = n.split(keys_and_values, [latent, turned].map(u64::from));
        let c = n.rms_norm(c, "attention.kv_a_layernorm", narrow(latent), EPSILON);
        let (up, input, queries) = match query {
            Some(size) => {
                let name = "attention.q_a_layernorm";
                ("q_b_proj", narrow(size), n.rms_norm(compressed, name, narrow(size), EPSILON))
            }
            None => ("q_proj", hidden, compressed),
        };

        let q = n.dense_of(queries, "attention.q_b_proj", false, |_| {
            concat(
                0,
                [[0, still], [still, still + turned]].map(|rows| {
                    let out = query_heads(heads, rows[1] - rows[0]);
                    of_heads(up, still + turned, rows, &[out, input], input.size as u32)
                        .reshape([out.size, input.size])
                }),
            )
        });
        let [q, q_turned] = n.split(q, [still, turned].map(|w| query_heads(heads, w).size));
        let absorbed = n.any("attention.k_b_proj_trans.weight", || {
            let axes = [all, narrow(latent), plain(still)];
            of_heads("kv_b_proj", still + value, [0, still], &axes, latent)
                .permute([0, 2, 1])
                .into()
        });
        let values = n.any("attention.v_b_proj.weight", || {
            let axes = [all, plain(value), narrow(latent)];
            of_heads("kv_b_proj", still + value, [still, still + value], &axes, latent).into()
        });
        let attended = n.write(|g| {
            let q = g.linear_heads(q, absorbed, None, heads);
            let turn = |x| rope.map_or(x, |rope| g.rotate(x, &rope.rotary(turned, turned)));
            let query = g.concat(&[q, turn(q_turned)], heads);
            let key = g.concat(&[c, turn(k)], 1);
            let sharpening = rope.map_or(1.0, Rope::sharpening);
            let options = Attention::new(heads, 1, latent + turned);
            options.scale(sharpening / f64::from(still + turned).sqrt());
            options.latent(latent);
            g.linear_heads(g.attend(query, key, key, &options), values, None, heads)
        });
        let dense =
            tensor(n.source_of("self_attn.o_proj.weight"), &[hidden, query_heads(heads, value)]);
        n.dense_of(attended, "attention.dense", false, |_| dense.clone().into())
    }
}
