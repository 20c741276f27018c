//! GPT-BigCode, which is StarCoder 1 and SantaCoder: GPT-2's block with one key head. SantaCoder's
//! first release keeps queries apart and weights as `[in, out]`.

use engraft_plugin_sdk::*;

struct BigCode {
    decoder: Decoder,
    /// Whether it is that release.
    apart: bool,
}

impl Architecture for BigCode {
    type Model = BigCode;
    const NAME: &str = "gpt-bigcode";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["GPTBigCodeForCausalLM", "GPT2LMHeadCustomModel"];
    const DOC: &str = "StarCoder 1 and SantaCoder.";
    const NAMES: &[(&str, &str)] = GPT_NAMES;
    const POSITIONS: &str = "learned_absolute";

    fn source_own() -> Vec<Field> {
        const HOW: [&str; 6] = [
            "attention_softmax_in_fp32",
            "scale_attention_softmax_in_fp32",
            "reorder_and_upcast_attn",
            "pad_key_length",
            "pre_allocate_kv_cache",
            "validate_runner_input",
        ];
        let mut all = HOW.map(|path| flag(path, ABSENT, "How training ran it.")).to_vec();
        all.push(integer("inference_runner", ABSENT, "How training ran it."));
        all.push(flag("multi_query", default(true), "Whether there is one key head."));
        all
    }

    fn checkpoint_own() -> Vec<Field> {
        vec![text("gpt_variant", default("starcoder"), "Which source it is from.")]
    }

    fn defaults() -> Vec<(&'static str, Fallback)> {
        gpt_defaults("gelu_pytorch_tanh", true)
    }

    fn only() -> Vec<(&'static str, SettingValue)> {
        vec![
            ("scale_attn_weights", true.into()),
            ("scale_attn_by_inverse_layer_idx", false.into()),
            ("attention_head_type", "multiquery".into()),
        ]
    }

    fn says() -> Vec<(&'static str, SettingValue)> {
        vec![("bias", true.into())]
    }

    fn settle(source: &Settings, base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        base.key_heads = if source.get("multi_query")? { 1 } else { base.heads };
        let apart = source.architecture(Self::ACCEPTS)? == Self::ACCEPTS[1];
        let variant = if apart { "santacoder" } else { "starcoder" };
        Ok(vec![set("gpt_variant", SettingValue::from(variant))])
    }

    fn open(config: &Settings) -> Result<BigCode, Refusal> {
        let base = Base::open(config)?;
        let apart = match config.get::<String>("gpt_variant")?.as_str() {
            "santacoder" => true,
            "starcoder" => false,
            other => return refuse("gpt_variant", format!("`{other}` is not supported")),
        };
        let decoder = Decoder {
            names: &[("attention.q", "attn.q_attn"), ("attention.kv", "attn.kv_attn")],
            transposed: apart,
            qkv: Qkv::Together { groups: base.key_heads },
            bias: Biases::BLOCK,
            learned: Some(0),
            masks: &["*h.*.attn.bias", "*.attn.masked_bias"],
            ..Decoder::gpt(base)
        };
        Ok(BigCode { decoder, apart })
    }
}

impl Model for BigCode {
    fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    fn attention(&self, n: &Net, i: u32, x: Value) -> Value {
        let scores = self.scores(i);
        if !self.apart {
            return n.attention(x, &scores);
        }
        let base = &self.decoder.base;
        let (queries, keys, input) = (base.queries(), base.keys(), base.width());
        let joined = n.dense_of(x, "attention.qkv", true, |kind| {
            let part = |layer, out| match kind {
                "bias" => n.part(layer, kind, &[out]),
                _ => n.part(layer, kind, &[out, input]),
            };
            let both = [0, keys.size]
                .map(|start| part("attention.kv", keys).slice(0, start, start + keys.size));
            concat(0, [part("attention.q", queries)].into_iter().chain(both))
        });
        n.attend(n.split(joined, [queries, keys, keys].map(|axis| axis.size)), &scores)
    }
}

export!(BigCode);
