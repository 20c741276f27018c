//! Rotary embeddings as configs spell them, for every architecture that has one.
//!
//! transformers 4 says `rope_theta` and `rope_scaling.*`, transformers 5 says `rope_parameters.*`;
//! the checkpoint says `rotary_base` and `rotary_scaling.*`, with the same keys. What is read here
//! and not understood is turned down, never dropped: a scaling changes every logit.

use crate::{
    ABSENT, Field, FieldExt, Kind, Refusal, Rotary, Setting, SettingValue, Settings, default,
    dotted, field, integer, join, number, numbers, refuse, set, show,
};

/// What a scaling consists of: its key in HuggingFace's configs and in a checkpoint's.
const PARTS: [(&str, Kind); 12] = [
    ("rope_type", Kind::Text),
    ("type", Kind::Text),
    ("factor", Kind::Number),
    ("low_freq_factor", Kind::Number),
    ("high_freq_factor", Kind::Number),
    ("original_max_position_embeddings", Kind::Integer),
    ("beta_fast", Kind::Number),
    ("beta_slow", Kind::Number),
    ("attention_factor", Kind::Number),
    ("mscale", Kind::Number),
    ("mscale_all_dim", Kind::Number),
    ("truncate", Kind::Flag),
];

/// What LongRoPE consists of: its key in HuggingFace's configs and in a checkpoint's.
const LONG: [(&str, &str); 2] = [
    ("short_factor", "longrope_scaling_short_factors"),
    ("long_factor", "longrope_scaling_long_factors"),
];

/// Divisors that a GGUF file stores, for any context or for a short and a long one.
const STORED: [&str; 3] =
    ["rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"];

/// The context that was trained, where configs say it beside a scaling.
const CONTEXT: &str = "original_max_position_embeddings";
const LONG_ATTENTION: &str = "longrope_attention_factor";

/// Parts that no graph here has, with the values that change nothing.
const UNSUPPORTED: [(&str, SettingValue); 2] =
    [("attn_factor", SettingValue::Number(1.0)), ("ext_factor", SettingValue::Number(1.0))];

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
#[inline(never)]
fn find<'a>(source: &'a Settings, part: &str) -> Option<(String, &'a SettingValue)> {
    let paths = OBJECTS.into_iter().map(|object| dotted(object, part));
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
    Yarn(Yarn),
    Long { short: Vec<f64>, long: Vec<f64>, attention: f64, context: u32 },
}

#[derive(Clone, Debug, PartialEq)]
struct Yarn {
    factor: f64,
    fast: f64,
    slow: f64,
    attention: Option<f64>,
    /// DeepSeek's: what scores are multiplied by, twice.
    all_dim: f64,
    truncate: bool,
    context: u32,
}

/// How much YaRN's attention is sharpened, by a factor of DeepSeek's configs.
fn mscale(factor: f64, by: f64) -> f64 {
    if factor > 1.0 { 0.1 * by * factor.ln() + 1.0 } else { 1.0 }
}

impl Rope {
    /// What is read of a source's config, in HuggingFace's words.
    #[inline(never)]
    pub fn source_fields() -> Vec<Field> {
        let divisors = STORED.map(|path| numbers(path, ABSENT, "A divisor for each turning pair."));
        let mut fields = divisors.to_vec();
        fields.extend(BASES.map(|path| number(path, ABSENT, "Rotary base.")));
        let unsupported = UNSUPPORTED.iter().map(|(part, value)| (*part, value.kind()));
        for (part, kind) in PARTS.into_iter().chain(unsupported) {
            fields.extend(OBJECTS.map(|object| {
                field(&dotted(object, part), kind, ABSENT, "Part of a rotary scaling.")
            }));
        }
        fields.push(integer(CONTEXT, ABSENT, "The context that was trained, of a scaling."));
        for (part, _) in LONG {
            fields.extend(OBJECTS.map(|object| {
                numbers(&dotted(object, part), ABSENT, "A divisor for each turning pair.")
            }));
        }
        fields
    }

    /// The same in a checkpoint's config.
    #[inline(never)]
    pub fn fields() -> Vec<Field> {
        let base = number("rotary_base", default(10000.0), "Rotary base.");
        let parts = PARTS.iter().map(|&(part, kind)| {
            field(&dotted("rotary_scaling", part), kind, ABSENT, "Part of a rotary scaling.")
        });
        let long = LONG.map(|(_, path)| numbers(path, ABSENT, "A divisor for each turning pair."));
        let attention = number(LONG_ATTENTION, ABSENT, "What LongRoPE's turning is multiplied by.");
        let context = integer(CONTEXT, ABSENT, "The context that LongRoPE was trained on.");
        [base, attention, context].into_iter().chain(parts).chain(long).collect()
    }

    /// The base that a source says.
    pub fn base(source: &Settings) -> Result<Option<f64>, Refusal> {
        source.first(&BASES)
    }

    /// From a source's settings to a checkpoint's. `base` is the architecture's default, `context`
    /// the model's positions.
    pub fn configure(source: &Settings, base: f64, context: u32) -> Result<Vec<Setting>, Refusal> {
        let base = Rope::base(source)?.unwrap_or(base);
        let mut settings = vec![set("rotary_base", SettingValue::Number(base))];
        if let Some(stored) = Rope::configure_stored(source, context)? {
            settings.extend(stored);
            return Ok(settings);
        }
        for (part, value) in UNSUPPORTED {
            for object in OBJECTS {
                source.check_fixed(&[(&dotted(object, part), value.clone())])?;
            }
        }
        let said = find(source, "rope_type").or_else(|| find(source, "type"));
        let kind = match &said {
            Some((path, SettingValue::Text(kind))) => match kind.as_str() {
                "none" | "default" => "",
                "linear" | "llama3" | "yarn" => kind,
                "longrope" | "su" => return Rope::configure_long(source, settings, context),
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
            if part == CONTEXT && kind == "yarn" {
                value = value.or(Some(context.into()));
            }
            let value = value.filter(|_| !kind.is_empty());
            settings.push(set(&dotted("rotary_scaling", part), value));
        }
        Ok(settings)
    }

    /// LongRoPE of divisors that a GGUF file stores; without a long context those of Llama 3, whose
    /// formula it does not say.
    fn configure_stored(source: &Settings, context: u32) -> Result<Option<Vec<Setting>>, Refusal> {
        let [any, short, long] = STORED.map(|path| source.value(path));
        let attention = source.value("rope_scaling.attn_factor").cloned();
        let (short, long, attention) = match (any, short, long) {
            (Some(any), None, None) => (any, any, attention.or(Some(1.0.into()))),
            (None, Some(short), Some(long)) => (short, long, attention),
            (None, None, None) => return Ok(None),
            _ => return source.refuse(STORED[1], "and the others do not go together"),
        };
        if let Some((path, _)) = find(source, "type") {
            return source.refuse(&path, "is given beside divisors of frequencies");
        }
        let trained = find(source, CONTEXT).map_or(context.into(), |(_, value)| value.clone());
        Ok(Some(vec![
            set(LONG[0].1, short.clone()),
            set(LONG[1].1, long.clone()),
            set(CONTEXT, trained),
            set(LONG_ATTENTION, attention),
            set("position_embedding_type", SettingValue::from("long_rope")),
        ]))
    }

    /// Those of LongRoPE, which a checkpoint does not say in its `rotary_scaling`.
    fn configure_long(
        source: &Settings,
        mut settings: Vec<Setting>,
        context: u32,
    ) -> Result<Vec<Setting>, Refusal> {
        for (part, path) in LONG {
            let Some((_, factors)) = find(source, part) else {
                return source.refuse(&format!("{}.{part}", OBJECTS[0]), "is missing");
            };
            settings.push(set(path, factors.clone()));
        }
        let part = find(source, CONTEXT).map(|(_, value)| value.clone());
        let trained = source.value(CONTEXT).cloned().or(part).unwrap_or(context.into());
        let attention = find(source, "attention_factor").map(|(_, value)| value.clone());
        settings.push(set(CONTEXT, trained));
        settings.push(set(LONG_ATTENTION, attention));
        settings.push(set("position_embedding_type", SettingValue::from("long_rope")));
        Ok(settings)
    }

    /// LongRoPE from a checkpoint's settings, where they say it.
    #[inline(never)]
    fn open_long(config: &Settings) -> Result<Option<Scaling>, Refusal> {
        let [short, long] = LONG.map(|(_, path)| config.find::<Vec<f64>>(path));
        let (Some(short), Some(long)) = (short?, long?) else { return Ok(None) };
        let (context, whole): (u32, u32) =
            (config.get(CONTEXT)?, config.get("max_position_embeddings")?);
        let (trained, stretch) = (f64::from(context), f64::from(whole) / f64::from(context));
        let usual = if stretch > 1.0 { (1.0 + stretch.ln() / trained.ln()).sqrt() } else { 1.0 };
        let attention = config.find(LONG_ATTENTION)?.unwrap_or(usual);
        let positive = |factors: &[f64]| factors.iter().all(|f| *f > 0.0 && f.is_finite());
        if !positive(&short) || !positive(&long) || short.len() != long.len() {
            return refuse(LONG[0].1, "must be as many numbers above zero as there are long ones");
        }
        if !(attention > 0.0 && attention.is_finite()) {
            return refuse(LONG_ATTENTION, join(&[&show(attention), " is no factor"]));
        }
        Ok(Some(Scaling::Long { short, long, attention, context }))
    }

    /// YaRN from a checkpoint's settings.
    #[inline(never)]
    fn open_yarn(config: &Settings) -> Result<Yarn, Refusal> {
        let part = |part: &str| config.find::<f64>(&dotted("rotary_scaling", part));
        let factor = config.get("rotary_scaling.factor")?;
        let all_dim = part("mscale_all_dim")?.filter(|&by| by != 0.0);
        let sharpened = match (part("mscale")?.filter(|&by| by != 0.0), all_dim) {
            (Some(by), Some(all_dim)) => Some(mscale(factor, by) / mscale(factor, all_dim)),
            _ => None,
        };
        Ok(Yarn {
            factor,
            fast: part("beta_fast")?.unwrap_or(32.0),
            slow: part("beta_slow")?.unwrap_or(1.0),
            attention: part("attention_factor")?.or(sharpened),
            all_dim: all_dim.map_or(1.0, |by| mscale(factor, by)),
            truncate: config.find("rotary_scaling.truncate")?.unwrap_or(true),
            context: config.get("rotary_scaling.original_max_position_embeddings")?,
        })
    }

    /// From a checkpoint's settings.
    #[inline(never)]
    pub fn open(config: &Settings) -> Result<Rope, Refusal> {
        let number = |part: &str| config.get(&dotted("rotary_scaling", part));
        let kind = config.first::<String>(&["rotary_scaling.type", "rotary_scaling.rope_type"])?;
        let scaling = match kind.as_deref() {
            None | Some("none" | "default") => Rope::open_long(config)?,
            Some("linear") => Some(Scaling::Linear { factor: number("factor")? }),
            Some("llama3") => Some(Scaling::Llama3 {
                factor: number("factor")?,
                low: number("low_freq_factor")?,
                high: number("high_freq_factor")?,
                context: config.get("rotary_scaling.original_max_position_embeddings")?,
            }),
            Some("yarn") => Some(Scaling::Yarn(Rope::open_yarn(config)?)),
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

    /// What DeepSeek's attention multiplies scores by, for a context that YaRN stretches.
    pub fn sharpening(&self) -> f64 {
        match &self.scaling {
            Some(Scaling::Yarn(yarn)) => yarn.all_dim * yarn.all_dim,
            _ => 1.0,
        }
    }

    /// Whether as many pairs turn as LongRoPE has factors for.
    pub fn check(&self, rotated: u32) -> Result<(), Refusal> {
        match &self.scaling {
            Some(Scaling::Long { short, .. }) if short.len() != rotated as usize / 2 => {
                refuse(LONG[0].1, format!("{} factors for {} pairs", short.len(), rotated / 2))
            }
            _ => Ok(()),
        }
    }

    /// The options for one `rotate`. `rotated`: how many leading elements of a head turn.
    #[inline(never)]
    pub fn rotary(&self, head_width: u32, rotated: u32) -> Rotary {
        let rotary = Rotary::new(head_width, rotated, self.base);
        if self.interleaved {
            rotary.interleaved();
        }
        match &self.scaling {
            None => {}
            Some(Scaling::Linear { factor }) => rotary.scale_linear(*factor),
            Some(Scaling::Llama3 { factor, low, high, context }) => {
                rotary.scale_llama3(*factor, *low, *high, *context);
            }
            Some(Scaling::Yarn(yarn)) => {
                let Yarn { factor, fast, slow, attention, context, .. } = *yarn;
                rotary.scale_yarn(factor, fast, slow, attention, context);
                if !yarn.truncate {
                    rotary.untruncated();
                }
            }
            Some(Scaling::Long { short, long, attention, context }) => {
                rotary.scale_long(short, long, *attention, *context);
            }
        }
        rotary
    }
}
