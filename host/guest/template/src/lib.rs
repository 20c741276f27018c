//! MyModel: say here what the architecture is, and in what it differs from others.
//!
//! It is a whole decoder of Llama's kind. Change what differs, in the order of the numbers, and ask
//! `engraft plugin check` after each change.

use engraft_plugin_sdk::*;

/// A model, its config settled: the sizes of every decoder, how queries and keys turn by their
/// positions, and a field of its own.
struct MyModel {
    base: Base,
    rope: Rope,
    bias: bool,
}

impl Architecture for MyModel {
    type Model = MyModel;
    const NAME: &str = "my-model";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    // 1. What `architectures` says in the config.json of its models.
    const ACCEPTS: &[&str] = &["MyModelForCausalLM"];
    const DIALECTS: &[&str] = &["hugging-face"];
    const DOC: &str = "What `engraft plugin list` says of it.";

    // 2. What it reads of a config beside the fields of every decoder (`Base`, `Rope`).
    fn own() -> Vec<Field> {
        vec![flag("attention_bias", default(false), "Whether attention's layers have biases.")]
    }

    // 3. What a config may ask for and is not written below: another value turns the model down.
    fn only() -> Vec<(&'static str, SettingValue)> {
        vec![("mlp_bias", false.into()), ("use_sliding_window", false.into())]
    }

    fn open(config: &Settings) -> Result<MyModel, Refusal> {
        let (base, rope) = (Base::open(config)?, Rope::open(config)?);
        Ok(MyModel { base, rope, bias: config.get("attention_bias")? })
    }
}

impl Model for MyModel {
    fn base(&self) -> &Base {
        &self.base
    }

    // 4. Its parameters: each name in the checkpoint, and the tensors that it is made of.
    fn parameters(&self, at: Place, dialect: &str) -> Vec<Parameter> {
        let (base, hidden) = (&self.base, self.base.width());
        let mut all = Parameters::new(at, dialect);
        match at {
            Place::Embed => {
                all.linear("vocab_embedding", "model.embed_tokens", base.table(), false)
            }
            Place::Block(_) => all
                .norm("input_layernorm", "input_layernorm", hidden)
                .qkv(QKV, base, self.bias)
                .linear("attention.dense", "self_attn.o_proj", [hidden, base.queries()], self.bias)
                .norm("post_layernorm", "post_attention_layernorm", hidden)
                .gated(base, false),
            Place::Head => all.head("lm_head", base, false).norm("ln_f", "model.norm", hidden),
        };
        all.done()
    }

    // 5. Its operations, from token ids to logits. `carry` is what the place before returned.
    fn write(&self, g: &Builder, at: Place, carry: Vec<Value>) -> Vec<Value> {
        let Base { head_width, rotated, epsilon, .. } = self.base;
        let x = carry[0];
        vec![match at {
            Place::Embed => g.embedding(x, g.parameter("vocab_embedding.weight")),
            Place::Block(_) => {
                let h = g.norm(x, "input_layernorm", epsilon);
                let [q, k, v] = g.qkv(h, &self.base, self.bias);
                let turn = self.rope.rotary(head_width, rotated);
                let a = g.attend(g.rotate(q, &turn), g.rotate(k, &turn), v, &self.base.attention());
                let x = g.add(x, g.dense(a, "attention.dense", self.bias));
                let h = g.norm(x, "post_layernorm", epsilon);
                g.add(x, g.gated(h, "mlp", &self.base.activation, false))
            }
            Place::Head => g.dense(g.norm(x, "ln_f", epsilon), "lm_head", false),
        }]
    }
}

export!(MyModel);
