//! Mixtures of experts, as checkpoints say them: an object `moe` in the config, a router, and two
//! stacked tensors.

use crate::{
    ABSENT, Axis, Field, Joint, Meaning, Mixture, Net, Origin, Part, Pile, Refusal, Setting,
    SettingValue, Settings, Value, default, feed_forward, integer, join, number, plain, refuse,
    set, show, text,
};

/// The experts of a model, and how a token's are chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Experts {
    /// How many there are.
    pub count: u32,
    /// How many a token takes.
    pub chosen: u32,
    /// Inner width of one.
    pub inner: u32,
    /// Inner width of the one that every token takes beside; 0 where there is none.
    pub shared: u32,
    /// Whether the weights of those that were chosen are made to sum to one.
    pub renormalize: bool,
    /// What weights are multiplied by.
    pub scale: f64,
    /// Groups of experts, and how many of them a token takes experts from.
    pub groups: Option<[u32; 2]>,
    /// Whether scores are sigmoids, and a bias that balances takes part in the choice, as in
    /// DeepSeek V3.
    pub balanced: bool,
}

const COUNT: &str = "moe.num_experts";
const CHOSEN: &str = "moe.top_k";
const SHARED: &str = "moe.shared_expert_intermediate_size";
const MODE: &str = "moe.normalization_mode";
const GROUPS: &str = "moe.device_limited_n_group";
const GROUPS_CHOSEN: &str = "moe.device_limited_topk_group";
const SCORING: &str = "scoring_func";
const SCALE: &str = "moe.device_limited_routed_scaling_factor";

impl Experts {
    /// What a checkpoint's config says.
    pub fn fields() -> Vec<Field> {
        let mode = "How weights are normalised: 0 or 3 not at all, 1 or 4 to a sum of one.";
        vec![
            integer(COUNT, default(0), "Experts of each mixture."),
            integer(CHOSEN, default(0), "Experts that a token takes."),
            integer(SHARED, default(0), "Inner width of the expert that every token takes."),
            integer(MODE, default(1), mode),
            integer(GROUPS, default(0), "Groups of experts."),
            integer(GROUPS_CHOSEN, default(0), "Groups that a token takes experts from."),
            number(SCALE, default(1.0), "What weights are multiplied by."),
            integer("moe_intermediate_size", ABSENT, "Inner width of an expert."),
            text(SCORING, default("softmax"), "What makes scores of logits: softmax or sigmoid."),
        ]
    }

    /// From a source's settings: how many there are and how many a token takes, by the source's
    /// names; weights are made to sum to one, no expert is shared.
    pub fn from_source(
        source: &Settings,
        [count, chosen]: [&str; 2],
        inner: u32,
    ) -> Result<Experts, Refusal> {
        let experts = Experts {
            count: source.get(count)?,
            chosen: source.get(chosen)?,
            inner,
            shared: 0,
            renormalize: true,
            scale: 1.0,
            groups: None,
            balanced: false,
        };
        experts.check([chosen, "", "", ""])?;
        Ok(experts)
    }

    /// As a checkpoint's settings.
    pub fn settings(&self) -> Vec<Setting> {
        let [groups, of] = self.groups.unwrap_or_default();
        let limited = if self.groups.is_some() || self.scale != 1.0 { 3 } else { 0 };
        let mode = limited + i64::from(self.renormalize);
        [
            (COUNT, self.count.into()),
            (CHOSEN, self.chosen.into()),
            (SHARED, self.shared.into()),
            (MODE, mode.into()),
            (GROUPS, groups.into()),
            (GROUPS_CHOSEN, of.into()),
            (SCALE, self.scale.into()),
            ("moe_intermediate_size", self.inner.into()),
            (SCORING, if self.balanced { "sigmoid" } else { "softmax" }.into()),
        ]
        .map(|(path, value): (&str, SettingValue)| set(path, value))
        .to_vec()
    }

    /// From a checkpoint's settings: none where it has no experts. `inner` is the width of a
    /// checkpoint that does not say an expert's.
    pub fn open(config: &Settings, inner: u32) -> Result<Option<Experts>, Refusal> {
        let size = |path| {
            let size: i64 = config.get(path)?;
            u32::try_from(size).or_else(|_| refuse(path, format!("{size} is no number of these")))
        };
        let (groups, of) = (size(GROUPS)?, size(GROUPS_CHOSEN)?);
        let mode: i64 = config.get(MODE)?;
        if size(COUNT)? == 0 {
            return Ok(None);
        }
        if ![0, 1, 3, 4].contains(&mode) {
            return refuse(MODE, format!("{mode} is not supported"));
        }
        let scoring: String = config.get(SCORING)?;
        if !["softmax", "sigmoid"].contains(&&*scoring) {
            return refuse(SCORING, format!("`{scoring}` is not supported"));
        }
        let experts = Experts {
            count: size(COUNT)?,
            chosen: size(CHOSEN)?,
            inner: config.find("moe_intermediate_size")?.unwrap_or(inner),
            shared: size(SHARED)?,
            renormalize: mode == 1 || mode == 4,
            scale: config.get(SCALE)?,
            groups: (groups > 1).then_some([groups, of]),
            balanced: scoring == "sigmoid",
        };
        experts.check([CHOSEN, GROUPS, GROUPS_CHOSEN, SCALE])?;
        Ok(Some(experts))
    }

    /// Whether the numbers fit together, in the words of whoever said them.
    pub fn check(&self, [chosen, groups, of, scale]: [&str; 4]) -> Result<(), Refusal> {
        // Each is a tensor or more in every block's parameters.
        const MOST: u32 = 1 << 12;
        if self.count > MOST {
            return refuse(COUNT, format!("{} experts are more than {MOST}", self.count));
        }
        if self.chosen == 0 || self.chosen > self.count {
            return refuse(chosen, format!("{} of {} experts", self.chosen, self.count));
        }
        if !self.scale.is_finite() {
            return refuse(scale, join(&[&show(self.scale), " is no factor"]));
        }
        let Some([all, taken]) = self.groups else { return Ok(()) };
        if all == 0 || !self.count.is_multiple_of(all) {
            return refuse(groups, format!("{all} groups of {} experts", self.count));
        }
        if taken == 0 || taken > all || taken * (self.count / all) < self.chosen {
            return refuse(of, format!("{taken} of {all} groups for {} experts", self.chosen));
        }
        Ok(())
    }

    /// Options of the mixture but those that take weights.
    pub fn mixture(&self) -> Mixture {
        let mixture = Mixture::new(self.chosen, "silu");
        if self.renormalize {
            mixture.renormalize();
        }
        if self.scale != 1.0 {
            mixture.scale(self.scale);
        }
        if let Some([groups, chosen]) = self.groups {
            mixture.groups(groups, chosen, if self.balanced { 2 } else { 1 });
        }
        mixture
    }

    /// Those of the mixture, along which tensors are stacked.
    pub fn axis(&self) -> Axis {
        Axis { size: self.count.into(), meaning: Meaning::Experts }
    }

    /// Inside one.
    pub fn inside(&self) -> Axis {
        feed_forward(self.inner)
    }
}

impl Net<'_> {
    /// The router's logits. Its parameter is of 32 bits whatever the others are.
    pub fn route(&self, x: Value, experts: &Experts, bias: bool) -> Value {
        let name = "mlp.router";
        let axes = |kind| match kind {
            "bias" => vec![plain(experts.count)],
            _ => vec![plain(experts.count), self.decoder.base.width()],
        };
        let part = |kind| self.single(name, kind, &axes(kind));
        let (weight, bias) = (part("weight"), bias.then(|| part("bias")));
        self.write(|g| g.linear(x, weight, bias))
    }

    /// The mixture over experts that the source keeps one by one: `SOURCE.3.NAME.weight`, by the
    /// names of the layer with the activation, the one beside it, and the one behind. All are
    /// gated by `silu`.
    pub fn experts(
        &self,
        x: Value,
        experts: &Experts,
        source: &str,
        [gate, up, down]: [&str; 3],
    ) -> Value {
        let (hidden, inner) = (self.decoder.base.width(), experts.inside());
        let part = |e: u32, name: &str, axes: [Axis; 2]| {
            self.part(&join(&[source, ".", &e.to_string(), ".", name]), "weight", &axes)
        };
        let pile = |joint: &dyn Fn(u32) -> Vec<Part>| {
            let parts = (0..experts.count).map(|e| Joint { axis: 0, parts: joint(e) }).collect();
            Origin::Stack(Pile { meaning: Meaning::Experts, parts })
        };
        let scores = self.route(x, experts, false);
        let fc = self.any("mlp.fc.weight", || {
            pile(&|e| vec![part(e, up, [inner, hidden]), part(e, gate, [inner, hidden])])
        });
        let proj = self.any("mlp.proj.weight", || pile(&|e| vec![part(e, down, [hidden, inner])]));
        let bias = experts
            .balanced
            .then(|| self.single("mlp.router", "e_score_correction_bias", &[plain(experts.count)]));
        self.write(|g| {
            let mixture = experts.mixture();
            if let Some(bias) = bias {
                mixture.sigmoid();
                mixture.prefer(bias);
            }
            g.mix(x, scores, fc, proj, &mixture)
        })
    }
}
