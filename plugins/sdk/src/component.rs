//! The two traits that a plugin implements, and what makes a component of them.

use crate::bindings::exports::engraft::plugin::architecture as wit;
use crate::{
    Base, Builder, Fallback, Field, Identity, Names, Outline, Parameter, Place, Refusal, Rope,
    Setting, SettingValue, Settings, Value, fixed, gguf_names, renamed, respelled, set, usual,
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
    /// The `architectures` of a source's config that are its own; `gguf:NAME` for GGUF's.
    const ACCEPTS: &[&str];
    /// The dialects of names that it knows: `hugging-face`, `gguf`, `meta`.
    const DIALECTS: &[&str];
    /// One sentence for a listing.
    const DOC: &str;

    /// What the keys of a GGUF file begin with, as in `llama.block_count`.
    const GGUF_PREFIX: &str = "";
    /// What GGUF calls the fields that are not of every decoder, by their names in
    /// [`Self::source_fields`]. Fields that GGUF has no name for are left out there.
    const GGUF: &[(&str, &str)] = &[];

    /// What its HuggingFace config calls a field, where that is not the plugin's name for it.
    const NAMES: &[(&str, &str)] = &[];
    /// A checkpoint's `position_embedding_type`. Only `rope_…` reads rotary fields.
    const POSITIONS: &str = "rope_gpt_neox";
    /// The rotary base of a config that says none.
    const ROPE_BASE: f64 = 1e4;

    /// Fields of its own that a source and a checkpoint both have.
    fn own() -> Vec<Field> {
        Vec::new()
    }

    /// Fields of its own that only a source has: [`Self::settle`] makes something of them.
    fn source_own() -> Vec<Field> {
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
        let rope = if turns::<Self>() { Rope::source_fields() } else { Vec::new() };
        let (own, source_own) = (Self::own(), Self::source_own());
        let mut all = [own, source_own, Base::source_fields(), rope, fixed(&Self::only())].concat();
        for (path, fallback) in Self::defaults() {
            all.iter_mut().filter(|f| f.path == path).for_each(|f| f.fallback = fallback.clone());
        }
        all
    }

    /// The architecture's own fields of a checkpoint's config, beside the host's base fields.
    fn fields() -> Vec<Field> {
        let rope = if turns::<Self>() { Rope::fields() } else { Vec::new() };
        [Self::own(), Base::fields(), rope, usual(&Self::says())].concat()
    }

    /// A source's settings as a checkpoint's: base fields and own fields.
    fn configure(source: &Settings) -> Result<Vec<Setting>, Refusal> {
        source.check_fixed(&Self::only())?;
        let mut base = Base::from_source(source)?;
        let own = Self::settle(source, &mut base)?;
        let mut all = base.settings(source.architecture(Self::ACCEPTS)?, Self::POSITIONS);
        if turns::<Self>() {
            all.extend(Rope::configure(source, Self::ROPE_BASE, base.context)?);
        }
        all.retain(|setting| own.iter().all(|o| o.path != setting.path));
        all.extend(own);
        all.extend(Self::says().into_iter().map(|(path, value)| set(path, value)));
        Ok(all)
    }

    /// A model, from a checkpoint's settings, whoever wrote them.
    fn open(config: &Settings) -> Result<Self::Model, Refusal>;
}

/// Whether queries and keys turn by their positions.
fn turns<A: Architecture>() -> bool {
    A::POSITIONS.starts_with("rope")
}

/// A model with its config settled.
pub trait Model: 'static {
    /// Its sizes.
    fn base(&self) -> &Base;

    /// What the host must know before it asks for anything else.
    fn outline(&self) -> Outline {
        self.base().outline()
    }

    /// The parameters of a place, each with its origin in a dialect.
    fn parameters(&self, at: Place, dialect: &str) -> Vec<Parameter>;

    /// Source tensors that are left out on purpose (`*` stands for anything), with the reasons.
    fn unused(&self, dialect: &str) -> Vec<(&'static str, &'static str)> {
        self.base().unused(dialect)
    }

    /// Writes one place. `carry` is what the place before it returned: the token ids for the
    /// embedding. The head returns the logits.
    fn write(&self, into: &Builder, at: Place, carry: Vec<Value>) -> Vec<Value>;
}

/// Stands between an [`Architecture`] and the generated entry points.
#[doc(hidden)]
pub struct Component<A>(PhantomData<A>);

/// The same for its [`Model`].
#[doc(hidden)]
pub struct Opened<A: Architecture>(A::Model);

const GGUF: &str = "gguf";

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
        let list = |names: &[&str]| names.iter().map(|&name| name.into()).collect();
        Identity {
            name: A::NAME.into(),
            version: A::VERSION.into(),
            accepts: list(A::ACCEPTS),
            dialects: list(A::DIALECTS),
            doc: A::DOC.into(),
        }
    }

    fn source_fields(dialect: String) -> Vec<Field> {
        report_panics();
        match dialect == GGUF {
            true => renamed(A::source_fields(), &gguf_names(A::GGUF_PREFIX, A::GGUF)),
            false => respelled(A::source_fields(), A::NAMES),
        }
    }

    fn fields() -> Vec<Field> {
        report_panics();
        A::fields()
    }

    fn configure(dialect: String, settings: Vec<Setting>) -> Result<Vec<Setting>, Refusal> {
        report_panics();
        let source = Settings::new(settings);
        match dialect == GGUF {
            true => A::configure(&source.renamed(gguf_names(A::GGUF_PREFIX, A::GGUF))),
            false => A::configure(&source.renamed(own_names(A::NAMES))),
        }
    }
}

impl<A: Architecture> wit::GuestModel for Opened<A> {
    fn open(settings: Vec<Setting>) -> Result<wit::Model, Refusal> {
        report_panics();
        let config = Settings::new(settings);
        config.check_fixed(&A::says())?;
        Ok(wit::Model::new(Opened::<A>(A::open(&config)?)))
    }

    fn outline(&self) -> Outline {
        self.0.outline()
    }

    fn parameters(&self, at: Place, dialect: String) -> Vec<Parameter> {
        self.0.parameters(at, &dialect)
    }

    fn unused(&self, dialect: String) -> Vec<(String, String)> {
        let all = self.0.unused(&dialect).into_iter();
        all.map(|(tensors, reason)| (tensors.into(), reason.into())).collect()
    }

    fn write(&self, into: &Builder, at: Place, carry: Vec<Value>) -> Vec<Value> {
        self.0.write(into, at, carry)
    }
}
