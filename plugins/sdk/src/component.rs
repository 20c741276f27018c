//! The two traits that a plugin implements, and what makes a component of them.

use crate::bindings::exports::engraft::plugin::architecture as wit;
use crate::{
    Base, Builder, Field, Identity, Outline, Parameter, Place, Refusal, Setting, Settings, Value,
    gguf_names, renamed,
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

    /// What is read of a source's config, in HuggingFace's words.
    fn source_fields() -> Vec<Field>;

    /// The architecture's own fields of a checkpoint's config, beside the host's base fields.
    fn fields() -> Vec<Field> {
        Vec::new()
    }

    /// A source's settings as a checkpoint's: base fields and own fields.
    fn configure(source: &Settings) -> Result<Vec<Setting>, Refusal>;

    /// A model, from a checkpoint's settings, whoever wrote them.
    fn open(config: &Settings) -> Result<Self::Model, Refusal>;
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
            false => A::source_fields(),
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
            false => A::configure(&source),
        }
    }
}

impl<A: Architecture> wit::GuestModel for Opened<A> {
    fn open(settings: Vec<Setting>) -> Result<wit::Model, Refusal> {
        report_panics();
        Ok(wit::Model::new(Opened::<A>(A::open(&Settings::new(settings))?)))
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
