//! Sliding windows: how far back the tokens of each block see.

use crate::{
    ABSENT, Base, Field, Refusal, Setting, SettingValue, Settings, integer, refuse, set, texts,
};

const SLIDING: &str = "sliding_attention";
const FULL: &str = "full_attention";

/// The windows of all blocks.
#[derive(Clone, Debug, PartialEq)]
pub struct Windows {
    tokens: Option<u32>,
    /// Of each block; empty where all slide.
    slides: Vec<bool>,
}

impl Windows {
    /// No block's attention slides.
    pub fn none() -> Windows {
        Windows { tokens: None, slides: Vec::new() }
    }

    /// Every block's attention slides.
    pub fn all(tokens: u32) -> Windows {
        Windows { tokens: Some(tokens), slides: Vec::new() }
    }

    /// What a source and a checkpoint say.
    pub fn fields() -> Vec<Field> {
        vec![
            integer("sliding_window", ABSENT, "How many tokens back a token sees, with itself."),
            texts("layer_types", ABSENT, "Blocks whose attention slides, and those where not."),
        ]
    }

    /// From a source's settings to a checkpoint's. `slides` says which blocks slide where the
    /// source does not.
    pub fn configure(
        source: &Settings,
        base: &Base,
        slides: impl Fn(u32) -> bool,
    ) -> Result<Vec<Setting>, Refusal> {
        // GGUF says zero where there is none.
        let none = |said: &SettingValue| matches!(said, SettingValue::Integer(0));
        let tokens = source.value("sliding_window").filter(|said| !none(said)).cloned();
        let rule = |i| String::from(if slides(i) { SLIDING } else { FULL });
        let said: Option<Vec<String>> = source.find("layer_types")?;
        let kinds = said.unwrap_or_else(|| (0..base.blocks).map(rule).collect());
        let kinds = tokens.is_some().then_some(SettingValue::Texts(kinds));
        Ok(vec![set("sliding_window", tokens), set("layer_types", kinds)])
    }

    /// From a checkpoint's settings.
    pub fn open(config: &Settings, base: &Base) -> Result<Windows, Refusal> {
        let kinds: Vec<String> = config.find("layer_types")?.unwrap_or_default();
        if !kinds.is_empty() && kinds.len() != base.blocks as usize {
            return refuse("layer_types", format!("{} of {}", kinds.len(), base.blocks));
        }
        if let Some(other) = kinds.iter().find(|kind| ![SLIDING, FULL].contains(&kind.as_str())) {
            return refuse("layer_types", format!("`{other}` is not supported"));
        }
        let slides = kinds.iter().map(|kind| kind == SLIDING).collect();
        Ok(Windows { tokens: config.find("sliding_window")?, slides })
    }

    /// Whether a block's attention slides.
    pub fn slides(&self, block: u32) -> bool {
        self.tokens.is_some() && *self.slides.get(block as usize).unwrap_or(&true)
    }

    /// How many tokens back a block's tokens see, with themselves, where its attention slides.
    pub fn of(&self, block: u32) -> Option<u32> {
        self.tokens.filter(|_| self.slides(block))
    }
}
