//! Baichuan 1 and 2: Llama's block with queries, keys and values in one tensor; the larger models
//! have slopes and no rotary positions, the second version's head has rows of length one.

use engraft_plugin_sdk::*;

struct Baichuan {
    decoder: Decoder,
    second: bool,
}

/// Positions, which a config counts where they turn; others say a length only.
const TURNING: &str = "rotary_positions";
/// Of training; what a config of the second version has.
const SECOND: &str = "z_loss_weight";

impl Architecture for Baichuan {
    type Model = Baichuan;
    const NAME: &str = "baichuan";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const ACCEPTS: &[&str] = &["BaichuanForCausalLM", "BaiChuanForCausalLM"];
    const DOC: &str = "Baichuan 1 and 2.";
    const NAMES: &[(&str, &str)] =
        &[("max_position_embeddings", "model_max_length"), (TURNING, "max_position_embeddings")];

    fn source_own() -> Vec<Field> {
        vec![
            integer(TURNING, ABSENT, "Positions that it was trained for, where they turn."),
            number(SECOND, ABSENT, "Of training; the second version says it."),
        ]
    }

    fn checkpoint_own() -> Vec<Field> {
        vec![text("model_version", REQUIRED, "`v1_7b`, `v1_13b`, `v2_7b` or `v2_13b`.")]
    }

    fn defaults() -> Vec<(&'static str, Fallback)> {
        vec![("max_position_embeddings", same_as(TURNING)), ("tie_word_embeddings", default(false))]
    }

    fn settle(source: &Settings, base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        let turning: Option<u32> = source.find(TURNING)?;
        base.context = turning.unwrap_or(base.context);
        let version = match (source.value(SECOND), turning) {
            (None, Some(_)) => "v1_7b",
            (None, None) => "v1_13b",
            (Some(_), Some(_)) => "v2_7b",
            (Some(_), None) => "v2_13b",
        };
        let positions = if turning.is_some() { Self::POSITIONS } else { "alibi" };
        Ok(vec![
            set("model_version", SettingValue::from(version)),
            set("position_embedding_type", SettingValue::from(positions)),
        ])
    }

    fn open(config: &Settings) -> Result<Baichuan, Refusal> {
        config.check_fixed(&[("tie_word_embeddings", false.into())])?;
        let (second, turns) = match config.get::<String>("model_version")?.as_str() {
            "v1_7b" => (false, true),
            "v1_13b" => (false, false),
            "v2_7b" => (true, true),
            "v2_13b" => (true, false),
            other => return refuse("model_version", format!("`{other}` is not supported")),
        };
        let mut decoder = Decoder {
            names: &[("attention.qkv", "self_attn.W_pack")],
            qkv: Qkv::Together { groups: 1 },
            ..Decoder::new(Base::open(config)?)
        };
        match turns {
            true => decoder.rope = Some(Rope::open(config)?),
            false => decoder.slopes = alibi_slopes(decoder.base.heads, 8.0),
        }
        Ok(Baichuan { decoder, second })
    }
}

impl Model for Baichuan {
    fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    fn head(&self, n: &Net, x: Value) -> Value {
        let (name, x) = ("lm_head", n.norm(x, "ln_f"));
        n.dense_of(x, name, false, |kind| {
            let mut head = n.part(name, kind, &self.decoder.base.table());
            if self.second {
                head.steps.push(Step::UnitRows);
            }
            head.into()
        })
    }
}

export!(Baichuan);
