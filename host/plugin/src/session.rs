//! One conversation with a plugin: one store, in which a model is configured, opened and written.
//!
//! Calls run on the session's own thread ([`crate::thread`]).

use crate::budget::{Used, check_name, check_parameters, within};
use crate::error::{PluginError, Problem, Refusal};
use crate::load::Plugin;
use crate::manifest::{Manifest, ManifestError, Met};
use crate::recorder::Recorder;
use crate::settings::{Field, Setting, check_fields};
use crate::thread::Thread;
use crate::v0_1::Live;
use engraft_diagnostic::escape;
use engraft_ir::{DType, Graph, PlaceKind};
use engraft_weights::{Parameter, Precision};
use std::collections::BTreeSet;

/// What a plugin says of a model before anything else is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outline {
    /// Blocks.
    pub blocks: u32,
    /// Entries of the vocabulary: columns of the logits.
    pub vocabulary: u32,
    /// Positions that the model was made for.
    pub context: u32,
}

impl Outline {
    /// All places, in the order in which they run.
    pub fn places(&self) -> impl Iterator<Item = PlaceKind> + use<> {
        let blocks = (0..self.blocks).map(PlaceKind::Block);
        std::iter::once(PlaceKind::Embed).chain(blocks).chain([PlaceKind::Head])
    }
}

/// A plugin at work on one model.
#[derive(Debug)]
pub struct Session {
    plugin: Plugin,
    thread: Thread,
    /// None once it has trapped: a store is never entered again after that.
    live: Option<Live>,
    outline: Option<Outline>,
    /// What a manifest's renames were for.
    met: Met,
    fuel_used: u64,
    memory_peak: usize,
    used: Used,
}

impl Session {
    pub(crate) fn new(plugin: Plugin) -> Result<Session, PluginError> {
        let none = |problem| plugin.error("", problem);
        let thread = Thread::start(plugin.limits()).map_err(none)?;
        let started = plugin.clone();
        let live = thread
            .run(move || Live::new(started.linked(), started.limits()))
            .map_err(none)?
            .map_err(|error| plugin.trapped("instantiate", &error))?;
        let (outline, met) = (None, Met::default());
        Ok(Session {
            plugin,
            thread,
            live: Some(live),
            outline,
            met,
            fuel_used: 0,
            memory_peak: 0,
            used: Used::default(),
        })
    }

    /// What the plugin reads of a source's config in a dialect.
    ///
    /// # Errors
    /// [`PluginError`], as all of a session's methods.
    pub fn source_fields(&mut self, dialect: &str) -> Result<Vec<Field>, PluginError> {
        let dialect = dialect.to_owned();
        let fields = self.call("source-fields", move |live| live.source_fields(&dialect))?;
        self.checked("source-fields", check_fields(&fields, self.plugin.limits()))?;
        // Those that the manifest was fitted to when it was loaded.
        Ok(self.plugin.manifest().map_or(fields, Manifest::model_fields))
    }

    /// The architecture's own fields of a checkpoint's config, beside the base fields.
    pub fn fields(&mut self) -> Result<Vec<Field>, PluginError> {
        let fields = self.call("fields", Live::fields)?;
        self.checked("fields", check_fields(&fields, self.plugin.limits()))?;
        Ok(fields)
    }

    /// A source's settings as a checkpoint's, or why the plugin turns the model down.
    pub fn configure(
        &mut self,
        dialect: &str,
        settings: &[Setting],
    ) -> Result<Result<Vec<Setting>, Refusal>, PluginError> {
        let named = self.plugin.manifest().map(|manifest| manifest.plugin_settings(settings));
        let named = named.transpose().map_err(|error| self.mistaken(error))?;
        let settings = named.unwrap_or_else(|| settings.to_vec());
        let (dialect, given) = (dialect.to_owned(), settings.clone());
        let answer = self.call("configure", move |live| live.configure(&dialect, &given))?;
        match answer {
            Ok(settings) => {
                self.checked("configure", self.check_settings(&settings))?;
                Ok(Ok(settings))
            }
            Err((mut subject, reason)) => {
                let handed = is_set(&settings, &subject);
                if let Some(manifest) = self.plugin.manifest() {
                    subject = manifest.called_field(&subject).to_owned();
                }
                Ok(Err(self.refusal((subject, reason), handed)))
            }
        }
    }

    fn check_settings(&self, settings: &[Setting]) -> Result<(), String> {
        let limits = self.plugin.limits();
        within("settings", settings.len(), limits.entries).map_err(|e| e.to_string())?;
        let mut seen = BTreeSet::new();
        for Setting { path, .. } in settings {
            check_name(path, limits)?;
            if !seen.insert(path) {
                return Err(format!("`{}` is set twice", escape(path)));
            }
        }
        Ok(())
    }

    /// Opens a model with a checkpoint's settings; once a session.
    pub fn open(&mut self, settings: &[Setting]) -> Result<Result<(), Refusal>, PluginError> {
        if self.live.as_ref().is_some_and(Live::is_open) {
            return Err(self.plugin.error("open", Problem::Misused("a model is already open")));
        }
        let handed = settings.to_vec();
        let answer = self.call("open", move |live| live.open(&handed))?;
        Ok(answer.map_err(|refusal| {
            let handed = is_set(settings, &refusal.0);
            self.refusal(refusal, handed)
        }))
    }

    /// What the open model is.
    pub fn outline(&mut self) -> Result<Outline, PluginError> {
        if let Some(outline) = self.outline {
            return Ok(outline);
        }
        let outline = self.call("outline", Live::outline)?;
        let limit = self.plugin.limits().blocks;
        if outline.blocks > limit {
            let why = format!("{} blocks; at most {limit}", outline.blocks);
            return Err(self.plugin.error("outline", Problem::Answer(why)));
        }
        self.outline = Some(outline);
        Ok(outline)
    }

    /// The parameters of a place, named relative to it
    /// ([`engraft_weights::full_name`] makes them whole).
    pub fn parameters(
        &mut self,
        place: PlaceKind,
        dialect: &str,
    ) -> Result<Vec<Parameter>, PluginError> {
        Ok(self.measured_parameters(place, dialect)?.0)
    }

    /// The same with about how many bytes they cost to keep.
    fn measured_parameters(
        &mut self,
        place: PlaceKind,
        dialect: &str,
    ) -> Result<(Vec<Parameter>, usize), PluginError> {
        let dialect = dialect.to_owned();
        let answer = self.call("parameters", move |live| live.parameters(place, &dialect));
        let mut parameters = answer.map_err(|e| e.at(place))?;
        let checked = check_parameters(&parameters, self.plugin.limits());
        let kept = self.checked("parameters", checked).map_err(|e| e.at(place))?;
        if let Some(manifest) = self.plugin.manifest() {
            let limits = self.plugin.limits();
            let renamed = manifest.rename_parameters(&mut parameters, &mut self.met, limits);
            renamed.map_err(|error| self.mistaken(error).at(place))?;
        }
        Ok((parameters, kept))
    }

    /// Source tensors that are left out on purpose: globs, each with the reason.
    pub fn unused(&mut self, dialect: &str) -> Result<Vec<(String, String)>, PluginError> {
        let dialect = dialect.to_owned();
        let all = self.call("unused", move |live| live.unused(&dialect))?;
        let limits = self.plugin.limits();
        let check = within("left-out tensors", all.len(), limits.entries)
            .map_err(|e| e.to_string())
            .and_then(|()| all.iter().try_for_each(|(glob, _)| check_name(glob, limits)));
        self.checked("unused", check)?;
        let all = match self.plugin.manifest() {
            None => all,
            Some(manifest) => {
                let all = manifest.rename_unused(all, &mut self.met);
                all.map_err(|error| self.mistaken(error))?
            }
        };
        Ok(all.into_iter().map(|(glob, reason)| (glob, escape(&reason))).collect())
    }

    /// Once everything was asked: which of a manifest's renames of tensors were about none, each by
    /// what the plugin would call it. `tensors` are all of the model's.
    ///
    /// # Errors
    /// [`PluginError`] at a rename that leads to a tensor which the model has, and the plugin has
    /// nothing of its name.
    pub fn idle_renames<'n>(
        &self,
        tensors: impl Iterator<Item = &'n str> + Clone,
    ) -> Result<Vec<String>, PluginError> {
        let Some(manifest) = self.plugin.manifest() else { return Ok(Vec::new()) };
        manifest.check_renames(&self.met, tensors).map_err(|error| self.mistaken(error))
    }

    /// Writes the whole graph. `dtype` says how a weight, by its whole name and the precision
    /// that its parameter asks for, is stored.
    pub fn write(
        &mut self,
        dtype: &dyn Fn(&str, Precision) -> DType,
    ) -> Result<Graph, PluginError> {
        let outline = self.outline()?;
        // A graph takes names and axes, which are the same in every dialect
        // ([`Plugin::check_dialects`]); a checkpoint has none to go by.
        let dialect = self.plugin.identity().dialects.first().cloned().unwrap_or_default();
        let recorder = Recorder::new(self.plugin.limits());
        self.call("write", move |live| live.lend(recorder))?;
        for place in outline.places() {
            let (parameters, kept) = self.measured_parameters(place, &dialect)?;
            let plugin = self.plugin.clone();
            let wrong = |problem| plugin.error("write", problem).at(place);
            let carry = self
                .recorder(|r| r.begin(place, &parameters, kept, dtype))
                .and_then(|carry| carry.map_err(wrong))?;
            let returned = self.call("write", move |live| live.write(place, &carry));
            let returned = returned.map_err(|e| e.at(place))?;
            self.recorder(|r| r.finish(&returned)).and_then(|done| done.map_err(wrong))?;
        }
        let recorder = self.call("write", Live::take_back)?;
        self.used = recorder.used();
        recorder
            .into_graph(outline.vocabulary)
            .map_err(|problem| self.plugin.error("write", problem).at(PlaceKind::Head))
    }

    /// Instructions that the guest has used so far.
    pub fn fuel_used(&self) -> u64 {
        self.fuel_used
    }

    /// The most bytes of linear memory that it has had.
    pub fn memory_peak(&self) -> usize {
        self.memory_peak
    }

    /// What the last graph that it wrote took of our own counts.
    pub fn used(&self) -> Used {
        self.used
    }

    /// Runs a call; a session whose call traps is over.
    fn call<T: Send + 'static>(
        &mut self,
        function: &'static str,
        call: impl FnOnce(&mut Live) -> wasmtime::Result<T> + Send + 'static,
    ) -> Result<T, PluginError> {
        let Some(mut live) = self.live.take() else {
            let problem = Problem::Misused("the plugin was called again after it had stopped");
            return Err(self.plugin.error(function, problem));
        };
        let done = self.thread.run(move || {
            let answer = call(&mut live);
            (live, answer)
        });
        let (live, answer) = done.map_err(|problem| self.plugin.error("", problem))?;
        (self.fuel_used, self.memory_peak) = live.used(self.plugin.limits());
        match answer {
            Ok(answer) => {
                self.live = Some(live);
                Ok(answer)
            }
            Err(error) => Err(self.plugin.trapped(function, &error)),
        }
    }

    /// Works on the graph that the guest is writing, between its calls.
    fn recorder<T>(&mut self, work: impl FnOnce(&mut Recorder) -> T) -> Result<T, PluginError> {
        match self.live.as_mut().and_then(Live::recorder) {
            Some(recorder) => Ok(work(recorder)),
            None => Err(self.plugin.error("write", Problem::Misused("no graph is being written"))),
        }
    }

    fn checked<T>(
        &self,
        function: &'static str,
        check: Result<T, String>,
    ) -> Result<T, PluginError> {
        check.map_err(|why| self.plugin.error(function, Problem::Answer(why)))
    }

    /// A manifest's mistake that showed only now; its author's, and not the component's.
    fn mistaken(&self, error: ManifestError) -> PluginError {
        let identity = self.plugin.identity();
        PluginError::new(&identity.name, &identity.version, "", error.into())
    }

    fn refusal(&self, (subject, reason): (String, String), handed: bool) -> Refusal {
        let plugin = self.plugin.identity().name.clone();
        Refusal { plugin, subject: escape(&subject), reason: escape(&reason), handed }
    }
}

/// Whether a field is among settings, or an object that has some of them.
fn is_set(settings: &[Setting], subject: &str) -> bool {
    settings.iter().any(|setting| {
        let rest = setting.path.strip_prefix(subject);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}
