//! MyModel: say here what the architecture is, and in what it differs from others.
//!
//! It is a whole decoder of Llama's kind. Change what differs, in the order of the numbers, and ask
//! `engraft plugin check` after each change.

use engraft_plugin_sdk::*;

struct MyModel {
    decoder: Decoder,
}

impl Architecture for MyModel {
    type Model = MyModel;
    const NAME: &str = "my-model";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    // 1. What `architectures` says in the config.json of its models.
    const ACCEPTS: &[&str] = &["MyModelForCausalLM"];
    const DOC: &str = "What `engraft plugin list` says of it.";
    // 2. What its config calls fields of every decoder, where not as Llama's:
    //    `&[("hidden_size", "n_embd")]`.
    const NAMES: &[(&str, &str)] = &[];

    // 3. What it reads of a config beside the fields of every decoder (`Base`, `Rope`).
    fn own() -> Vec<Field> {
        vec![flag("attention_bias", default(false), "Whether attention's layers have biases.")]
    }

    // 4. What a config may ask for and is not written below: another value turns the model down.
    fn only() -> Vec<(&'static str, SettingValue)> {
        vec![("mlp_bias", false.into()), ("use_sliding_window", false.into())]
    }

    // 5. The choices in which families differ: names of tensors, kinds of norms and feed-forward
    //    layers, where norms stand, biases, scales; `Decoder` lists them all.
    fn open(config: &Settings) -> Result<MyModel, Refusal> {
        let decoder = Decoder {
            bias: Biases::new(config.get("attention_bias")?, false),
            rope: Some(Rope::open(config)?),
            ..Decoder::new(Base::open(config)?)
        };
        Ok(MyModel { decoder })
    }
}

// 6. What no choice covers. Each function is as it would be if it were not here; leave out those
//    that stay so. What they ask for are the model's parameters, what they compute is its graph.
impl Model for MyModel {
    fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    fn block(&self, n: &Net, i: u32, x: Value) -> Value {
        let x = n.add(x, self.attention(n, i, n.norm(x, "input_layernorm")));
        n.add(x, self.feed_forward(n, i, n.norm(x, "post_layernorm")))
    }

    fn attention(&self, n: &Net, i: u32, x: Value) -> Value {
        let [q, k, v] = n.qkv(x);
        let [q, k] = n.head_norms([q, k]);
        n.attend([q, k, v], &self.scores(i))
    }

    fn feed_forward(&self, n: &Net, _i: u32, x: Value) -> Value {
        let (hidden, inner) = (self.decoder.base.width(), self.decoder.base.inside());
        let gate = n.activate(n.dense(x, "mlp.fc", [inner, hidden], false));
        let product = n.multiply(gate, n.dense(x, "mlp.gate", [inner, hidden], false));
        n.dense(product, "mlp.proj", [hidden, inner], false)
    }
}

export!(MyModel);
