//! CodeGen: GPT-J's block with queries, values and keys (in that order) in one tensor, which was
//! cut in four for training.

use engraft_plugin_sdk::*;

struct CodeGen(Decoder);

/// Pieces of the source's tensor of queries, values and keys.
const PIECES: u32 = 4;

impl Architecture for CodeGen {
    type Model = CodeGen;
    const NAME: &str = "codegen";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["CodeGenForCausalLM"];
    const DOC: &str = "CodeGen.";
    const NAMES: &[(&str, &str)] = GPT_NAMES;
    const POSITIONS: &str = "rope_gptj";

    fn defaults() -> Vec<(&'static str, Fallback)> {
        [gpt_defaults("gelu_new", false), vec![("rotary_dim", default(64))]].concat()
    }

    fn only() -> Vec<(&'static str, SettingValue)> {
        vec![("scale_attn_weights", true.into())]
    }

    fn open(config: &Settings) -> Result<CodeGen, Refusal> {
        let base = Base::open(config)?;
        if base.key_heads != base.heads || !base.heads.is_multiple_of(PIECES) {
            let why = format!("{} heads, {} of keys, not in fours", base.heads, base.key_heads);
            return refuse("num_attention_heads", why);
        }
        Ok(CodeGen(Decoder {
            names: &[
                ("attention.qkv", "attn.qkv_proj"),
                ("attention.dense", "attn.out_proj"),
                ("mlp.fc", "mlp.fc_in"),
                ("mlp.proj", "mlp.fc_out"),
            ],
            order: Order::Beside,
            bias: Biases { mlp: true, head: true, ..Biases::default() },
            masks: &["*.attn.causal_mask", "*.attn.masked_bias"],
            rope: Some(Rope::open(config)?.interleaved()),
            ..Decoder::gpt(base)
        }))
    }
}

impl Model for CodeGen {
    fn decoder(&self) -> &Decoder {
        &self.0
    }

    fn attention(&self, n: &Net, i: u32, x: Value) -> Value {
        let (name, base) = ("attention.qkv", &self.0.base);
        let [queries, input] = [base.queries(), base.width()];
        let pieces = u64::from(PIECES);
        let joined = n.dense_of(x, name, false, |kind| {
            let thirds = [(0, queries), (2, base.keys()), (1, base.keys())];
            concat(
                0,
                thirds.map(|(third, out)| {
                    n.part(name, kind, &[out, input])
                        .shaped([3 * out.size, input.size])
                        .reshape([pieces, 3, out.size / pieces, input.size])
                        .slice(1, third, third + 1)
                        .reshape([out.size, input.size])
                }),
            )
        });
        n.attend(n.split(joined, [queries.size; 3]), &self.scores(i))
    }
}

export!(CodeGen);
