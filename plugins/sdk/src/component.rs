//! The two traits that a plugin implements, and what makes a component of them.

use crate::bindings::exports::engraft::plugin::architecture as wit;
use crate::gguf::{self, GGUF};
use crate::net::Dialect;
use crate::settings::respell;
use crate::spelling::filled;
use crate::{
    Base, Builder, Decoder, Fallback, Field, Identity, Names, Net, Outline, Parameter, Place,
    Refusal, Rope, Scores, Setting, SettingValue, Settings, Spelling, Value, fixed, respelled, set,
    usual,
};
use std::marker::PhantomData;
use std::sync::Once;

/// An architecture: who the plugin is, and how a config becomes a model.
pub trait Architecture: Sized + 'static {
    /// What a config becomes.
    type Model: Model;

    /// A short name.
    const NAME: &str;
    /// `env!("CARGO_PKG_VERSION")`, as a rule.
    const VERSION: &str;
    /// The `architectures` of a HuggingFace config that are its own.
    const ACCEPTS: &[&str];
    /// One sentence for a listing.
    const DOC: &str;

    /// GGUF's architectures that are its own, as `gguf:llama`, each with the one of
    /// [`Self::ACCEPTS`] that it is.
    const GGUF: &[(&str, &str)] = &[];
    /// What GGUF calls the fields that are not of every decoder: their names in
    /// [`Self::source_fields`], and keys without the architecture before them, or `tensor:NAME`.
    /// Fields that GGUF has no name for are what they default to, or absent.
    const GGUF_NAMES: &[(&str, &str)] = &[];

    /// The dialects that it knows beside these.
    const SPELLINGS: &[Spelling] = &[];

    /// What is read of a source's config in one of [`Self::SPELLINGS`], in the dialect's words:
    /// HuggingFace's, if not said.
    fn spelled_fields(_dialect: &str) -> Vec<Field> {
        Self::source_fields()
    }

    /// The same, in HuggingFace's words; what is left out is as these default to.
    fn spelled_settings(_dialect: &str, source: &Settings) -> Result<Vec<Setting>, Refusal> {
        Ok(source.carry(&Self::source_fields()))
    }

    /// What its HuggingFace config calls a field, where that is not the plugin's name for it.
    const NAMES: &[(&str, &str)] = &[];
    /// A checkpoint's `position_embedding_type`. Only `rope_…` reads rotary fields.
    const POSITIONS: &str = "rope_gpt_neox";
    /// The rotary base of a config that says none.
    const ROPE_BASE: f64 = 1e4;
    /// Whether a checkpoint says how much of a head turns, as `rotary_pct`.
    const ROTARY_PART: bool = false;
    /// What a checkpoint calls a field, where that is not the plugin's name for it.
    const CHECKPOINT_NAMES: &[(&str, &str)] = &[];

    /// Fields of its own that a source and a checkpoint both have.
    fn own() -> Vec<Field> {
        Vec::new()
    }

    /// Fields of its own that only a source has: [`Self::settle`] makes something of them.
    fn source_own() -> Vec<Field> {
        Vec::new()
    }

    /// Fields of its own that only a checkpoint has.
    fn checkpoint_own() -> Vec<Field> {
        Vec::new()
    }

    /// What the fields of every decoder are, where a source's config lacks them.
    fn defaults() -> Vec<(&'static str, Fallback)> {
        Vec::new()
    }

    /// What a source may ask for and the graph does not have, with the value that it has.
    fn only() -> Vec<(&'static str, SettingValue)> {
        Vec::new()
    }

    /// What every checkpoint of the architecture says, and must say.
    fn says() -> Vec<(&'static str, SettingValue)> {
        Vec::new()
    }

    /// Its own fields of a checkpoint, and base fields that it says otherwise; may correct what
    /// the source said of sizes.
    fn settle(source: &Settings, _base: &mut Base) -> Result<Vec<Setting>, Refusal> {
        Ok(source.carry(&Self::own()))
    }

    /// What is read of a source's config, in HuggingFace's words.
    fn source_fields() -> Vec<Field> {
        let mut all = Self::own();
        all.append(&mut Self::source_own());
        usual_fields(&mut all, turns::<Self>(), &Self::only(), Self::defaults());
        all
    }

    /// The architecture's own fields of a checkpoint's config, beside the host's base fields.
    fn fields() -> Vec<Field> {
        let mut all = Self::own();
        all.append(&mut Self::checkpoint_own());
        all.append(&mut usual(&Self::says()));
        all.append(&mut Base::fields());
        if turns::<Self>() {
            all.append(&mut Rope::fields());
        }
        if Self::ROTARY_PART {
            all.push(Base::turning_field());
        }
        all
    }

    /// A source's settings as a checkpoint's: base fields and own fields.
    fn configure(source: &Settings) -> Result<Vec<Setting>, Refusal> {
        source.check_fixed(&Self::only())?;
        let mut base = Base::from_source(source)?;
        let wide = base.head_width;
        let own = Self::settle(source, &mut base)?;
        let value: u32 = source.find("v_head_dim")?.unwrap_or(wide);
        if value != wide && own.iter().all(|setting| setting.path != "v_head_dim") {
            return source.refuse("v_head_dim", format!("must be the key's width, {wide}"));
        }
        let mut all = base.settings(source.architecture(Self::ACCEPTS)?, Self::POSITIONS);
        if turns::<Self>() {
            overlay(&mut all, Rope::configure(source, Self::ROPE_BASE, base.context)?);
        }
        if Self::ROTARY_PART {
            all.push(base.turning());
        }
        overlay(&mut all, own);
        overlay(&mut all, Self::says().into_iter().map(|(path, value)| set(path, value)).collect());
        Ok(all)
    }

    /// A model, from a checkpoint's settings, whoever wrote them.
    fn open(config: &Settings) -> Result<Self::Model, Refusal>;
}

/// Adds what a source says of every decoder, and what it may say in one way only.
#[inline(never)]
fn usual_fields(
    all: &mut Vec<Field>,
    turns: bool,
    only: &[(&'static str, SettingValue)],
    defaults: Vec<(&'static str, Fallback)>,
) {
    let mut usual = Base::source_fields();
    if turns {
        usual.append(&mut Rope::source_fields());
    }
    usual.append(&mut fixed(only));
    // A plugin's own word on a field of every decoder counts.
    let own = all.len();
    for field in usual {
        if all.iter().take(own).all(|other| other.path != field.path) {
            all.push(field);
        }
    }
    for (path, fallback) in defaults {
        all.iter_mut().filter(|f| f.path == path).for_each(|f| f.fallback = fallback.clone());
    }
}

/// Lets settings stand in for those of the same fields.
#[inline(never)]
fn overlay(all: &mut Vec<Setting>, more: Vec<Setting>) {
    all.retain(|setting| more.iter().all(|m| m.path != setting.path));
    all.extend(more);
}

/// Whether queries and keys turn by their positions.
fn turns<A: Architecture>() -> bool {
    A::POSITIONS.starts_with("rope")
}

/// A model with its config settled. Most models are a [`Decoder`] and nothing else; one that is
/// not says here what is otherwise.
pub trait Model: 'static {
    /// Its sizes and choices.
    fn decoder(&self) -> &Decoder;

    /// From token ids to what the first block takes.
    fn embed(&self, n: &Net, tokens: Value) -> Value {
        n.embed(tokens)
    }

    /// A block: its two layers, with norms as the decoder has them.
    fn block(&self, n: &Net, i: u32, x: Value) -> Value {
        n.residual(x, |h| self.attention(n, i, h), |h| self.feed_forward(n, i, h))
    }

    /// A block's attention, without norms.
    fn attention(&self, n: &Net, i: u32, x: Value) -> Value {
        n.attention(x, &self.scores(i))
    }

    /// What a block's attention does with scores.
    fn scores(&self, i: u32) -> Scores<'_> {
        self.decoder().scores(i)
    }

    /// A block's feed-forward layer, without norms.
    fn feed_forward(&self, n: &Net, _i: u32, x: Value) -> Value {
        n.feed_forward(x)
    }

    /// From what the last block gives to logits.
    fn head(&self, n: &Net, x: Value) -> Value {
        n.logits(n.norm(x, "ln_f"))
    }

    /// Source tensors that are left out on purpose (`*` stands for anything), with the reasons.
    fn unused(&self, dialect: &str) -> Vec<(String, String)> {
        self.decoder().unused(dialect)
    }
}

impl Model for Decoder {
    fn decoder(&self) -> &Decoder {
        self
    }
}

/// Walks through one place.
fn walk(model: &impl Model, n: &Net, at: Place, x: Value) -> Value {
    match at {
        Place::Embed => model.embed(n, x),
        Place::Block(i) => model.block(n, i, x),
        Place::Head => model.head(n, x),
    }
}

/// Stands between an [`Architecture`] and the generated entry points.
#[doc(hidden)]
pub struct Component<A>(PhantomData<A>);

/// The same for its [`Model`].
#[doc(hidden)]
pub struct Opened<A: Architecture>(A::Model);

/// The dialect of a name.
fn dialect_of<A: Architecture>(name: &str) -> Dialect {
    let spelled = A::SPELLINGS.iter().find(|spelling| spelling.dialect == name);
    match (name == GGUF, spelled) {
        (true, _) => Dialect::Gguf,
        (false, Some(spelling)) => Dialect::Spelled(spelling),
        (false, None) => Dialect::HuggingFace,
    }
}

fn own_names(names: &[(&'static str, &str)]) -> Names {
    names.iter().map(|&(ours, own)| (ours, own.into())).collect()
}

/// A panic becomes the host's error, with its message.
fn report_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|panic| {
            crate::bindings::engraft::plugin::report::fail(&panic.to_string());
        }));
    });
}

impl<A: Architecture> wit::Guest for Component<A> {
    type Model = Opened<A>;

    fn identify() -> Identity {
        report_panics();
        let accepts = A::ACCEPTS.iter().map(|&name| name.into());
        let gguf = A::GGUF.iter().map(|(name, _)| String::from(*name));
        let spelled = A::SPELLINGS.iter().flat_map(|spelling| spelling.accepts);
        let spelled = spelled.map(|&name| String::from(name));
        let dialects = ["hugging-face", GGUF].into_iter().take(1 + A::GGUF.len().min(1));
        let dialects = dialects.chain(A::SPELLINGS.iter().map(|spelling| spelling.dialect));
        Identity {
            name: A::NAME.into(),
            version: A::VERSION.into(),
            accepts: accepts.chain(gguf).chain(spelled).collect(),
            dialects: dialects.map(String::from).collect(),
            doc: A::DOC.into(),
        }
    }

    fn source_fields(dialect: String) -> Vec<Field> {
        report_panics();
        match dialect_of::<A>(&dialect) {
            Dialect::Gguf => gguf::fields(A::source_fields(), A::GGUF, A::GGUF_NAMES),
            Dialect::HuggingFace => respelled(A::source_fields(), A::NAMES),
            Dialect::Spelled(_) => A::spelled_fields(&dialect),
        }
    }

    fn fields() -> Vec<Field> {
        report_panics();
        respelled(A::fields(), A::CHECKPOINT_NAMES)
    }

    fn configure(dialect: String, settings: Vec<Setting>) -> Result<Vec<Setting>, Refusal> {
        report_panics();
        let source = match dialect_of::<A>(&dialect) {
            Dialect::Gguf => gguf::settings(settings, A::GGUF, A::GGUF_NAMES)?,
            Dialect::HuggingFace => Settings::new(settings).renamed(own_names(A::NAMES)),
            Dialect::Spelled(_) => {
                let said = A::spelled_settings(&dialect, &Settings::new(settings))?;
                Settings::new(filled(said, A::source_fields()))
            }
        };
        let mut all = A::configure(&source)?;
        all.iter_mut().for_each(|setting| respell(&mut setting.path, A::CHECKPOINT_NAMES));
        Ok(all)
    }
}

impl<A: Architecture> wit::GuestModel for Opened<A> {
    fn open(settings: Vec<Setting>) -> Result<wit::Model, Refusal> {
        report_panics();
        let config = Settings::new(settings).renamed(own_names(A::CHECKPOINT_NAMES));
        config.check_fixed(&A::says())?;
        let model = A::open(&config)?;
        let Decoder { base, rope, .. } = model.decoder();
        rope.as_ref().map_or(Ok(()), |rope| rope.check(base.rotated))?;
        Ok(wit::Model::new(Opened::<A>(model)))
    }

    fn outline(&self) -> Outline {
        self.0.decoder().base.outline()
    }

    fn parameters(&self, at: Place, dialect: String) -> Vec<Parameter> {
        let n = Net::parameters(self.0.decoder(), at, dialect_of::<A>(&dialect));
        walk(&self.0, &n, at, Net::nothing());
        n.collected()
    }

    fn unused(&self, dialect: String) -> Vec<(String, String)> {
        match dialect_of::<A>(&dialect) {
            Dialect::Spelled(spelling) => spelling.unused(),
            _ => self.0.unused(&dialect),
        }
    }

    fn write(&self, into: &Builder, at: Place, carry: Vec<Value>) -> Vec<Value> {
        let n = Net::graph(self.0.decoder(), at, into);
        carry.into_iter().map(|x| walk(&self.0, &n, at, x)).collect()
    }
}
