//! From a file to a plugin: what is refused before any of its code runs.
//!
//! Compilation is not metered by fuel, so what it will cost is counted before it begins. Nothing
//! that is compiled already is taken: such a file is machine code, and nobody can say what it does.

use crate::Limits;
use crate::budget::{check_name, within};
use crate::bulk::{self, Bulk};
use crate::compile::{compile, engine};
use crate::error::{PluginError, Problem};
use crate::manifest::{self, Manifest};
use crate::session::Session;
use crate::thread::Thread;
use crate::v0_1::{self, Linked, Live};
use engraft_diagnostic::escape;
use engraft_files::digest::sha256_hex;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use wasmtime::Engine;
use wasmtime::component::Component;
use wasmtime::component::types::ComponentItem;

/// Who a plugin is and which models are its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// A short name.
    pub name: String,
    /// Its own version.
    pub version: String,
    /// The architectures that it accepts; the first is what a checkpoint says by default.
    pub accepts: Vec<String>,
    /// The dialects of tensor and config names that it knows.
    pub dialects: Vec<String>,
    /// One sentence.
    pub doc: String,
}

/// A plugin: compiled, linked, and asked who it is. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Plugin {
    inner: Arc<Inner>,
    /// Where this is what a manifest makes of it.
    manifest: Option<Arc<Manifest>>,
}

struct Inner {
    linked: Linked,
    identity: Identity,
    sha256: String,
    bytes: u64,
    bulk: Bulk,
    limits: Limits,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Plugin {
    /// The contract that every plugin speaks which loads.
    pub const CONTRACT: &str = v0_1::CONTRACT;

    /// Loads a plugin from a file: a component, or a manifest (`.toml`) with the component that it
    /// stands on.
    ///
    /// # Errors
    /// [`PluginError`] where the file cannot be read, [`Plugin::from_bytes`] refuses it, or a
    /// manifest does not fit its component.
    pub fn load(path: &Path, limits: &Limits) -> Result<Plugin, PluginError> {
        if manifest::is_toml(path) {
            let (plugin, manifest) = manifest::load(path, limits)?;
            return Ok(Plugin { manifest: Some(Arc::new(manifest)), ..plugin });
        }
        let name = path.display().to_string();
        let error = |problem| PluginError::new(&name, "", "", problem);
        let unreadable = |e: std::io::Error| error(Problem::Unreadable(e.to_string()));
        let file = File::open(path).map_err(unreadable)?;
        let size = file.metadata().map_err(unreadable)?.len();
        let limit = limits.component_bytes;
        let mut bytes = Vec::new();
        // One byte more than allowed, so that a file that grows, or a pipe, is found out.
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(unreadable)?;
        if size > limit || bytes.len() as u64 > limit {
            return Err(error(Problem::TooLarge { size: size.max(bytes.len() as u64), limit }));
        }
        Plugin::from_bytes(&name, &bytes, limits)
    }

    /// Loads a plugin from its component's bytes. `name` stands in until it says its own.
    ///
    /// # Errors
    /// [`PluginError`] where it is no component, wants more than the contract, speaks another
    /// version of it, or cannot say who it is.
    pub fn from_bytes(name: &str, bytes: &[u8], limits: &Limits) -> Result<Plugin, PluginError> {
        let error = |problem| PluginError::new(name, "", "", problem);
        let size = bytes.len() as u64;
        if size > limits.component_bytes {
            return Err(error(Problem::TooLarge { size, limit: limits.component_bytes }));
        }
        check_header(bytes).map_err(error)?;
        let bulk = bulk::check(bytes, limits).map_err(error)?;
        let invalid = |e: wasmtime::Error| Problem::Invalid(escape(&e.root_cause().to_string()));
        let engine = engine(limits).map_err(|e| error(invalid(e)))?;
        let component =
            compile(&engine, bytes, limits).map_err(error)?.map_err(|e| error(invalid(e)))?;
        check_interfaces(&engine, &component).map_err(error)?;
        let linked = v0_1::link(&engine, &component)
            .map_err(|e| error(Problem::Unlinkable(escape(&e.to_string()))))?;
        let sha256 = sha256_hex(bytes);
        let identity = Identity {
            name: name.to_owned(),
            version: String::new(),
            accepts: Vec::new(),
            dialects: Vec::new(),
            doc: String::new(),
        };
        let limits = limits.clone();
        let mut inner = Inner { linked, identity, sha256, bytes: size, bulk, limits };
        inner.identity = Plugin::identify(&inner)?;
        Ok(Plugin { inner: Arc::new(inner), manifest: None })
    }

    fn identify(inner: &Inner) -> Result<Identity, PluginError> {
        let Inner { linked, limits, .. } = inner;
        let thread = Thread::start(limits).map_err(|problem| inner.error("", problem))?;
        let (pre, bounds) = (linked.clone(), limits.clone());
        let answer = thread
            .run(move || Live::new(&pre, &bounds)?.identify())
            .map_err(|problem| inner.error("", problem))?;
        let identity = answer.map_err(|error| inner.trapped("identify", &error))?;
        check_identity(&identity, limits)
            .map_err(|why| inner.error("identify", Problem::Answer(why)))?;
        Ok(identity)
    }

    /// Who it is; of a manifest, who that says it is.
    pub fn identity(&self) -> &Identity {
        self.manifest.as_ref().map_or(&self.inner.identity, |manifest| manifest.identity())
    }

    /// The manifest that stands on its component, where it was loaded from one.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_deref()
    }

    /// Who its component is.
    pub fn component(&self) -> &Identity {
        &self.inner.identity
    }

    /// The SHA-256 of its component, in hexadecimal.
    pub fn sha256(&self) -> &str {
        &self.inner.sha256
    }

    /// The bytes of its component.
    pub fn size(&self) -> u64 {
        self.inner.bytes
    }

    /// What compiling it amounted to.
    pub fn bulk(&self) -> Bulk {
        self.inner.bulk
    }

    /// Whether it says that a model is its own.
    pub fn accepts(&self, architecture: &str) -> bool {
        self.identity().accepts.iter().any(|own| own == architecture)
    }

    /// Whether it says that a checkpoint is its own: of a manifest, what its component wrote.
    pub fn accepts_checkpoint(&self, architecture: &str) -> bool {
        self.accepts(architecture) || self.inner.identity.accepts.iter().any(|o| o == architecture)
    }

    /// What it may use up.
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// Starts a conversation, in a store of its own.
    ///
    /// # Errors
    /// [`PluginError`] where it cannot be instantiated within its limits.
    pub fn session(&self) -> Result<Session, PluginError> {
        Session::new(self.clone())
    }

    pub(crate) fn linked(&self) -> &Linked {
        &self.inner.linked
    }

    pub(crate) fn error(&self, function: &'static str, problem: Problem) -> PluginError {
        self.inner.error(function, problem)
    }

    pub(crate) fn trapped(&self, function: &'static str, error: &wasmtime::Error) -> PluginError {
        self.inner.trapped(function, error)
    }
}

impl Inner {
    fn error(&self, function: &'static str, problem: Problem) -> PluginError {
        PluginError::new(&self.identity.name, &self.identity.version, function, problem)
    }

    fn trapped(&self, function: &'static str, error: &wasmtime::Error) -> PluginError {
        let (problem, frames) = v0_1::problem(error, &self.limits);
        PluginError { frames, ..self.error(function, problem) }
    }
}

/// What a file is by its first bytes, if it is no component.
fn check_header(bytes: &[u8]) -> Result<(), Problem> {
    const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";
    const MODULE: &[u8] = b"\0asm\x01\0\0\0";
    if bytes.starts_with(COMPONENT) {
        return Ok(());
    }
    Err(Problem::NotAComponent(match () {
        () if bytes.starts_with(MODULE) => "a core WebAssembly module",
        () if Engine::detect_precompiled(bytes).is_some() => "compiled machine code",
        () if bytes.starts_with(b"\0asm") => "WebAssembly of an unknown version",
        () if bytes.is_empty() => "an empty file",
        () => "some other file",
    }))
}

const PACKAGE: &str = "engraft:plugin/";
const MUST_EXPORT: &str = "engraft:plugin/architecture";

/// Looks at what a component imports and exports, to say what is wrong in words of ours.
fn check_interfaces(engine: &Engine, component: &Component) -> Result<(), Problem> {
    const KNOWN: [&str; 5] = ["types", "config", "weights", "graph", "report"];
    let served = |version: Option<&str>| version.is_some_and(v0_1::serves);
    let unknown = |name: &str| Problem::UnknownVersion {
        found: escape(name),
        served: v0_1::VERSION.to_owned(),
    };
    let ty = component.component_type();
    for (name, item) in ty.imports(engine) {
        let (interface, version) = split_version(name);
        let ours = interface.strip_prefix(PACKAGE);
        let instance = matches!(item.ty, ComponentItem::ComponentInstance(_));
        if ours.is_some() && !served(version) {
            return Err(unknown(name));
        }
        if !instance || !ours.is_some_and(|ours| KNOWN.contains(&ours)) {
            let wasi = interface.starts_with("wasi:");
            return Err(Problem::ForbiddenImport { name: escape(name), wasi });
        }
    }
    let mut exports = ty.exports(engine).map(|(name, _)| name);
    match exports.find(|name| split_version(name).0 == MUST_EXPORT) {
        Some(name) if served(split_version(name).1) => Ok(()),
        Some(name) => Err(unknown(name)),
        None => Err(Problem::NoExport(format!("{MUST_EXPORT}@{}", v0_1::VERSION))),
    }
}

fn split_version(name: &str) -> (&str, Option<&str>) {
    match name.split_once('@') {
        Some((interface, version)) => (interface, Some(version)),
        None => (name, None),
    }
}

/// Whether a plugin's own words about itself can be used as a name in a listing and a file.
pub(crate) fn check_identity(identity: &Identity, limits: &Limits) -> Result<(), String> {
    let Identity { name, version, accepts, dialects, doc } = identity;
    let word = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
    for (what, text) in [("name", name), ("version", version)] {
        if text.is_empty() || text.len() > 64 || !text.chars().all(word) {
            return Err(format!(
                "its {what} is `{}`; it must be 1 to 64 letters, digits, `-`, `_`, `.` or `+`",
                escape(text)
            ));
        }
    }
    if accepts.is_empty() || dialects.is_empty() {
        return Err("it accepts no architecture or knows no dialect".into());
    }
    within("architectures", accepts.len(), limits.entries).map_err(|e| e.to_string())?;
    within("dialects", dialects.len(), limits.entries).map_err(|e| e.to_string())?;
    within("bytes of doc", doc.len(), limits.sentence).map_err(|e| e.to_string())?;
    accepts.iter().chain(dialects).try_for_each(|name| check_name(name, limits))
}
