//! Version 0.1 of the contract: the only module that names what is generated from `wit/v0.1`.

mod convert;
mod limiter;
mod link;

use crate::Limits;
use crate::error::{Exhausted, Problem, Rejection};
use crate::load::Identity;
use crate::recorder::Recorder;
use crate::session::Outline;
use crate::settings::{Field, Setting};
use bindings::exports::engraft::plugin::architecture::Guest;
use engraft_diagnostic::escape;
use engraft_ir::{AttentionData, MixtureData, PlaceKind};
use engraft_weights::Parameter;
use limiter::Limiter;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, HasSelf, Linker, Resource, ResourceAny, ResourceTable};
use wasmtime::{Engine, Store, StoreContextMut, Trap, WasmBacktrace};

mod bindings {
    #![allow(missing_docs, reason = "generated; the contract's text documents it")]
    wasmtime::component::bindgen!({
        world: "plugin",
        path: "../../wit/v0.1",
        imports: { default: trappable },
        with: {
            "engraft:plugin/graph.builder": crate::recorder::Recorder,
            "engraft:plugin/graph.rotary": engraft_ir::RotaryData,
            "engraft:plugin/graph.attention": super::Attention,
            "engraft:plugin/graph.mixture": super::Mixture,
        },
    });
}

/// The contract that this module serves, by its package's name.
pub(crate) const CONTRACT: &str = "engraft:plugin@0.1.0";

/// Its version.
pub(crate) const VERSION: &str = CONTRACT.split_at("engraft:plugin@".len()).1;

/// Whether a component that speaks a version fits this module: another patch does.
pub(crate) fn serves(version: &str) -> bool {
    version.strip_prefix("0.1.").is_some_and(|patch| patch.parse::<u32>().is_ok())
}

/// A component with all of its imports found, ready to be instantiated.
pub(crate) type Linked = bindings::PluginPre<State>;

/// An attention's options while a guest sets them. A weight is an index that nobody has looked
/// at: which place it must be of is known when the options are used.
#[derive(Clone, Debug)]
pub struct Attention {
    data: AttentionData,
    sinks: Option<u32>,
}

/// A mixture's options while a guest sets them; weights as in [`Attention`].
#[derive(Clone, Debug)]
pub struct Mixture {
    data: MixtureData,
    prefer: Option<u32>,
    biases: Option<[u32; 2]>,
}

/// What a store holds of ours.
pub(crate) struct State {
    table: ResourceTable,
    limiter: Limiter,
    limits: Limits,
}

/// Links a component. Its imports and exports have been looked at already.
pub(crate) fn link(engine: &Engine, component: &Component) -> wasmtime::Result<Linked> {
    let mut linker: Linker<State> = Linker::new(engine);
    bindings::Plugin::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
    let linked = linker.instantiate_pre(component).and_then(bindings::PluginPre::new);
    linked.map_err(|error| match missing(engine, component, &mut linker) {
        missing if missing.is_empty() => wasmtime::Error::msg(format!("{error:#}")),
        missing => wasmtime::Error::msg(format!(
            "it imports what version {VERSION} does not have: {}",
            missing.join(", ")
        )),
    })
}

/// The functions that a component imports and the linker does not have: those that can be defined.
fn missing(engine: &Engine, component: &Component, linker: &mut Linker<State>) -> Vec<String> {
    let ty = component.component_type();
    let mut missing = Vec::new();
    for (name, item) in ty.imports(engine) {
        let ComponentItem::ComponentInstance(instance) = item.ty else { continue };
        let interface = name.split('@').next().unwrap_or(name);
        for (function, item) in instance.exports(engine) {
            let Ok(mut ours) = linker.instance(&format!("{interface}@{VERSION}")) else { continue };
            let define = |_: StoreContextMut<'_, State>, (): ()| Ok(());
            let is_function = matches!(item.ty, ComponentItem::ComponentFunc(_));
            if is_function && ours.func_wrap(function, define).is_ok() {
                missing.push(format!("`{}` of `{interface}`", escape(function)));
            }
        }
    }
    missing
}

/// An instance and its store.
pub(crate) struct Live {
    store: Store<State>,
    plugin: bindings::Plugin,
    model: Option<ResourceAny>,
    builder: Option<Resource<Recorder>>,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live").field("open", &self.is_open()).finish_non_exhaustive()
    }
}

/// What a guest says when it turns a model down: subject and reason.
pub(crate) type Refused = (String, String);

impl Live {
    /// Instantiates a component in a store of its own.
    pub(crate) fn new(linked: &Linked, limits: &Limits) -> wasmtime::Result<Live> {
        let mut table = ResourceTable::new();
        // One for the builder.
        table.set_max_capacity(limits.resources + 1);
        let state = State { table, limiter: Limiter::new(limits), limits: limits.clone() };
        let mut store = Store::new(linked.engine(), state);
        store.limiter(|state| &mut state.limiter);
        store.set_fuel(limits.fuel)?;
        store.set_hostcall_fuel(limits.call_bytes);
        store.set_max_component_handles(limits.handles);
        let instance = linked.instance_pre().instantiate(&mut store).map_err(not_started)?;
        let plugin = bindings::Plugin::new(&mut store, &instance)
            .map_err(|e| Rejection::Unfit(e.root_cause().to_string()))?;
        Ok(Live { store, plugin, model: None, builder: None })
    }

    /// The exported interface and the store to call it in.
    fn guest(&mut self) -> (&Guest, &mut Store<State>) {
        (self.plugin.engraft_plugin_architecture(), &mut self.store)
    }

    /// The same with the open model.
    fn open_model(&mut self) -> wasmtime::Result<(&Guest, &mut Store<State>, ResourceAny)> {
        let model = self.model.ok_or_else(|| {
            wasmtime::Error::from(Rejection::Call("no model is open in this session".into()))
        })?;
        Ok((self.plugin.engraft_plugin_architecture(), &mut self.store, model))
    }

    /// Who it is.
    pub(crate) fn identify(&mut self) -> wasmtime::Result<Identity> {
        let (guest, store) = self.guest();
        guest.call_identify(store).map(convert::identity)
    }

    /// What it reads of a source's config.
    pub(crate) fn source_fields(&mut self, dialect: &str) -> wasmtime::Result<Vec<Field>> {
        let (guest, store) = self.guest();
        Ok(guest.call_source_fields(store, dialect)?.into_iter().map(convert::field).collect())
    }

    /// Its own fields of a checkpoint's config.
    pub(crate) fn fields(&mut self) -> wasmtime::Result<Vec<Field>> {
        let (guest, store) = self.guest();
        Ok(guest.call_fields(store)?.into_iter().map(convert::field).collect())
    }

    /// A source's settings as a checkpoint's.
    pub(crate) fn configure(
        &mut self,
        dialect: &str,
        settings: &[Setting],
    ) -> wasmtime::Result<Result<Vec<Setting>, Refused>> {
        let settings: Vec<_> = settings.iter().map(convert::to_setting).collect();
        let (guest, store) = self.guest();
        Ok(match guest.call_configure(store, dialect, &settings)? {
            Ok(settings) => Ok(settings.into_iter().map(convert::setting).collect()),
            Err(refusal) => Err((refusal.subject, refusal.reason)),
        })
    }

    /// Whether a model is open.
    pub(crate) fn is_open(&self) -> bool {
        self.model.is_some()
    }

    /// Opens a model.
    pub(crate) fn open(&mut self, settings: &[Setting]) -> wasmtime::Result<Result<(), Refused>> {
        let settings: Vec<_> = settings.iter().map(convert::to_setting).collect();
        let (guest, store) = self.guest();
        Ok(match guest.model().call_open(store, &settings)? {
            Ok(model) => {
                self.model = Some(model);
                Ok(())
            }
            Err(refusal) => Err((refusal.subject, refusal.reason)),
        })
    }

    /// What the open model is.
    pub(crate) fn outline(&mut self) -> wasmtime::Result<Outline> {
        let (guest, store, model) = self.open_model()?;
        guest.model().call_outline(store, model).map(convert::outline)
    }

    /// The parameters of a place.
    pub(crate) fn parameters(
        &mut self,
        place: PlaceKind,
        dialect: &str,
    ) -> wasmtime::Result<Vec<Parameter>> {
        let (guest, store, model) = self.open_model()?;
        let all = guest.model().call_parameters(store, model, convert::to_place(place), dialect)?;
        Ok(all.into_iter().map(convert::parameter).collect())
    }

    /// Source tensors that are left out.
    pub(crate) fn unused(&mut self, dialect: &str) -> wasmtime::Result<Vec<(String, String)>> {
        let (guest, store, model) = self.open_model()?;
        guest.model().call_unused(store, model, dialect)
    }

    /// Takes an empty graph, to be lent to the guest place by place.
    pub(crate) fn lend(&mut self, recorder: Recorder) -> wasmtime::Result<()> {
        if let Some(earlier) = self.builder.take() {
            self.store.data_mut().table.delete(earlier)?;
        }
        self.builder = Some(self.store.data_mut().table.push(recorder)?);
        Ok(())
    }

    /// The graph, between calls.
    pub(crate) fn recorder(&mut self) -> Option<&mut Recorder> {
        self.store.data_mut().table.get_mut(self.builder.as_ref()?).ok()
    }

    /// Has the guest write a place.
    pub(crate) fn write(&mut self, place: PlaceKind, carry: &[u32]) -> wasmtime::Result<Vec<u32>> {
        let Some(rep) = self.builder.as_ref().map(Resource::rep) else {
            return Err(Rejection::Call("no graph is being written".into()).into());
        };
        let carry: Vec<_> = carry.iter().map(|&index| link::Value { index }).collect();
        let (guest, store, model) = self.open_model()?;
        let lent = Resource::new_borrow(rep);
        let at = convert::to_place(place);
        let returned = guest.model().call_write(store, model, lent, at, &carry)?;
        Ok(returned.into_iter().map(|value| value.index).collect())
    }

    /// The graph, after the last call.
    pub(crate) fn take_back(&mut self) -> wasmtime::Result<Recorder> {
        match self.builder.take() {
            Some(builder) => Ok(self.store.data_mut().table.delete(builder)?),
            None => Err(Rejection::Call("no graph is being written".into()).into()),
        }
    }

    /// Instructions used, and the most bytes of linear memory.
    pub(crate) fn used(&self, limits: &Limits) -> (u64, usize) {
        let left = self.store.get_fuel().unwrap_or(0);
        (limits.fuel.saturating_sub(left), self.store.data().limiter.peak())
    }
}

/// What is left of a failure to start that is neither a trap nor ours: the store's own counts.
fn not_started(error: wasmtime::Error) -> wasmtime::Error {
    if error.is::<Trap>() || error.is::<Rejection>() {
        return error;
    }
    Rejection::Exhausted(Exhausted::Store(escape(&error.root_cause().to_string()))).into()
}

/// What an error of a call means, with the guest's functions, innermost first.
pub(crate) fn problem(error: &wasmtime::Error, limits: &Limits) -> (Problem, Vec<String>) {
    const SHOWN_FRAMES: usize = 16;
    let problem = if let Some(rejection) = error.downcast_ref::<Rejection>() {
        rejection.problem()
    } else {
        match error.downcast_ref::<Trap>() {
            Some(Trap::OutOfFuel) => Problem::Limit(Exhausted::Fuel(limits.fuel)),
            Some(Trap::StackOverflow) => Problem::Limit(Exhausted::Stack),
            Some(trap) => Problem::Trapped(trap.to_string()),
            None => Problem::Answer(escape(&error.root_cause().to_string())),
        }
    };
    let frames = error.downcast_ref::<WasmBacktrace>().map(WasmBacktrace::frames).unwrap_or(&[]);
    let names = frames.iter().filter_map(|frame| frame.func_name()).take(SHOWN_FRAMES);
    (problem, names.map(readable).collect())
}

/// A function's name without what the compiler adds.
fn readable(name: &str) -> String {
    escape(&format!("{:#}", rustc_demangle::demangle(name)))
}
