//! Rotary embeddings as configs spell them, for every architecture that has one.
//!
//! transformers 4 says `rope_theta` and `rope_scaling.*`, transformers 5 says `rope_parameters.*`;
//! the checkpoint says `rotary_base` and `rotary_scaling.*`, with the same keys. What is read here
//! and not understood is turned down, never dropped: a scaling changes every logit.

use crate::{
    ABSENT, Field, FieldExt, Kind, Refusal, Rotary, Setting, SettingValue, Settings, default,
    field, flag, number, refuse, set,
};

/// What a scaling consists of: its key in HuggingFace's configs and in a checkpoint's.
const PARTS: [(&str, Kind); 9] = [
    ("rope_type", Kind::Text),
    ("type", Kind::Text),
    ("factor", Kind::Number),
    ("low_freq_factor", Kind::Number),
    ("high_freq_factor", Kind::Number),
    ("original_max_position_embeddings", Kind::Integer),
    ("beta_fast", Kind::Number),
    ("beta_slow", Kind::Number),
    ("attention_factor", Kind::Number),
];

/// Parts that no graph here has, with the values that change nothing.
const UNSUPPORTED: [(&str, SettingValue); 5] = [
    ("mscale", SettingValue::Number(1.0)),
    ("mscale_all_dim", SettingValue::Number(0.0)),
    ("truncate", SettingValue::Flag(true)),
    ("attn_factor", SettingValue::Number(1.0)),
    ("ext_factor", SettingValue::Number(1.0)),
];

/// The objects of a source's config that say a scaling: transformers 4, and transformers 5
/// (of full attention, where blocks differ).
const OBJECTS: [&str; 3] = ["rope_scaling", "rope_parameters", "rope_parameters.full_attention"];

/// Where a source's config says the rotary base.
const BASES: [&str; 4] = [
    "rope_theta",
    "rope_parameters.rope_theta",
    "rope_parameters.full_attention.rope_theta",
    "rotary_emb_base",
];

/// The value of a part and where it was said.
fn find<'a>(source: &'a Settings, part: &str) -> Option<(String, &'a SettingValue)> {
    let paths = OBJECTS.into_iter().map(|object| format!("{object}.{part}"));
    paths.filter_map(|path| source.value(&path).map(|value| (path, value))).next()
}

/// A rotary embedding's options.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    base: f64,
    scaling: Option<Scaling>,
    /// Whether neighbours turn together, and not halves.
    interleaved: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Scaling {
    Linear { factor: f64 },
    Llama3 { factor: f64, low: f64, high: f64, context: u32 },
    Yarn { factor: f64, fast: f64, slow: f64, attention: Option<f64>, context: u32 },
}

impl Rope {
    /// What is read of a source's config, in HuggingFace's words.
    pub fn source_fields() -> Vec<Field> {
        let stored = "Whether frequencies are stored.";
        let mut fields = vec![flag("tensor:rope_freqs.weight", ABSENT, stored)];
        fields.extend(BASES.map(|path| number(path, ABSENT, "Rotary base.")));
        let unsupported = UNSUPPORTED.iter().map(|(part, value)| (*part, value.kind()));
        for (part, kind) in PARTS.into_iter().chain(unsupported) {
            fields.extend(OBJECTS.map(|object| {
                field(&format!("{object}.{part}"), kind, ABSENT, "Part of a rotary scaling.")
            }));
        }
        fields
    }

    /// The same in a checkpoint's config.
    pub fn fields() -> Vec<Field> {
        let base = number("rotary_base", default(10000.0), "Rotary base.");
        let parts = PARTS.iter().map(|&(part, kind)| {
            field(&format!("rotary_scaling.{part}"), kind, ABSENT, "Part of a rotary scaling.")
        });
        std::iter::once(base).chain(parts).collect()
    }

    /// The base that a source says.
    pub fn base(source: &Settings) -> Result<Option<f64>, Refusal> {
        source.first(&BASES)
    }

    /// From a source's settings to a checkpoint's. `base` is the architecture's default, `context`
    /// the model's positions.
    pub fn configure(source: &Settings, base: f64, context: u32) -> Result<Vec<Setting>, Refusal> {
        if source.find("tensor:rope_freqs.weight")? == Some(true) {
            let why =
                "says frequencies without their formula: convert from the HuggingFace directory";
            return source.refuse("rope_freqs.weight", why);
        }
        for (part, value) in UNSUPPORTED {
            for object in OBJECTS {
                source.check_fixed(&[(&format!("{object}.{part}"), value.clone())])?;
            }
        }
        let base = Rope::base(source)?.unwrap_or(base);
        let mut settings = vec![set("rotary_base", SettingValue::Number(base))];
        let said = find(source, "rope_type").or_else(|| find(source, "type"));
        let kind = match &said {
            Some((path, SettingValue::Text(kind))) => match kind.as_str() {
                "none" | "default" => "",
                "linear" | "llama3" | "yarn" => kind,
                _ => return source.refuse(path, format!("`{kind}` is not supported")),
            },
            _ => match find(source, "factor") {
                Some((path, _)) => return source.refuse(&path, "is given without a type"),
                None => "",
            },
        };
        for (part, _) in PARTS {
            let mut value = find(source, part).map(|(_, value)| value.clone());
            // YaRN's ramp needs the context that was trained; it is the model's if nobody says.
            if part == "original_max_position_embeddings" && kind == "yarn" {
                value = value.or(Some(context.into()));
            }
            let value = value.filter(|_| !kind.is_empty());
            settings.push(set(&format!("rotary_scaling.{part}"), value));
        }
        Ok(settings)
    }

    /// From a checkpoint's settings.
    pub fn open(config: &Settings) -> Result<Rope, Refusal> {
        const CONTEXT: &str = "rotary_scaling.original_max_position_embeddings";
        let number = |part: &str| config.get(&format!("rotary_scaling.{part}"));
        let or = |part: &str, value| {
            Ok(config.find(&format!("rotary_scaling.{part}"))?.unwrap_or(value))
        };
        let kind = config.first::<String>(&["rotary_scaling.type", "rotary_scaling.rope_type"])?;
        let scaling = match kind.as_deref() {
            None | Some("none" | "default") => None,
            Some("linear") => Some(Scaling::Linear { factor: number("factor")? }),
            Some("llama3") => Some(Scaling::Llama3 {
                factor: number("factor")?,
                low: number("low_freq_factor")?,
                high: number("high_freq_factor")?,
                context: config.get(CONTEXT)?,
            }),
            Some("yarn") => Some(Scaling::Yarn {
                factor: number("factor")?,
                fast: or("beta_fast", 32.0)?,
                slow: or("beta_slow", 1.0)?,
                attention: config.find("rotary_scaling.attention_factor")?,
                context: config.get(CONTEXT)?,
            }),
            Some(kind) => {
                return refuse("rotary_scaling.type", format!("`{kind}` is not supported"));
            }
        };
        Ok(Rope { base: config.get("rotary_base")?, scaling, interleaved: false })
    }

    /// Another base, and no scaling.
    pub fn unscaled(base: f64) -> Rope {
        Rope { base, scaling: None, interleaved: false }
    }

    /// The same with neighbours that turn together, and not halves.
    pub fn interleaved(self) -> Rope {
        Rope { interleaved: true, ..self }
    }

    /// The options for one `rotate`. `rotated`: how many leading elements of a head turn.
    pub fn rotary(&self, head_width: u32, rotated: u32) -> Rotary {
        let rotary = Rotary::new(head_width, rotated, self.base);
        if self.interleaved {
            rotary.interleaved();
        }
        match self.scaling {
            None => {}
            Some(Scaling::Linear { factor }) => rotary.scale_linear(factor),
            Some(Scaling::Llama3 { factor, low, high, context }) => {
                rotary.scale_llama3(factor, low, high, context);
            }
            Some(Scaling::Yarn { factor, fast, slow, attention, context }) => {
                rotary.scale_yarn(factor, fast, slow, attention, context);
            }
        }
        rotary
    }
}
