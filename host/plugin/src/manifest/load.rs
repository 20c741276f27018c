//! From a manifest's file to a plugin: everything that can be wrong with it before there is a
//! model is found here.

use super::{Manifest, ManifestError, ModelField, Rename, Renames};
use crate::Limits;
use crate::error::{PluginError, Problem};
use crate::find::{Shelf, shown};
use crate::load::{Identity, Plugin, check_identity};
use crate::recorder::nearest;
use crate::settings::{Fallback, Field, Value};
use engraft_diagnostic::escape;
use engraft_files::digest::sha256_hex;
use serde::Deserialize;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// Bytes that a manifest may have.
const MAX_BYTES: u64 = 1 << 20;

/// The version of manifests that is read.
const VERSION: i64 = 1;

/// The field by which a source says which architecture it is.
pub(super) const ARCHITECTURES: &str = "architectures";

/// What a manifest's file holds.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    manifest: i64,
    plugin: String,
    accepts: Vec<String>,
    #[serde(rename = "as")]
    architecture: Option<String>,
    dialect: Option<String>,
    name: Option<String>,
    version: Option<String>,
    doc: Option<String>,
    #[serde(default)]
    fields: BTreeMap<String, String>,
    #[serde(default)]
    defaults: BTreeMap<String, Json>,
    #[serde(default)]
    constants: BTreeMap<String, Json>,
    #[serde(default)]
    tensors: BTreeMap<String, String>,
    #[serde(default)]
    unused: BTreeMap<String, String>,
}

/// Whether a file is a manifest, by its name and its key `manifest`: in a folder of plugins there
/// may be other TOML files.
pub fn is_manifest(path: &Path) -> bool {
    let says = |line: &str| {
        let rest = line.trim_start().strip_prefix("manifest");
        rest.is_some_and(|rest| rest.trim_start().starts_with('='))
    };
    is_toml(path) && read(path).is_ok_and(|text| text.lines().any(says))
}

/// Whether a path is to be read as a manifest.
pub(crate) fn is_toml(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "toml")
}

fn read(path: &Path) -> Result<String, Problem> {
    let unreadable = |e: std::io::Error| Problem::Unreadable(e.to_string());
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_BYTES + 1).read_to_end(&mut text).map_err(unreadable)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(syntax(format!("it has more than {MAX_BYTES} bytes"), None).into());
    }
    String::from_utf8(text).map_err(|_| syntax("it is no text in UTF-8".into(), None).into())
}

fn syntax(what: String, at: Option<(usize, usize)>) -> ManifestError {
    ManifestError::Syntax { what, at }
}

/// Loads a manifest and the plugin that it stands on.
pub(crate) fn load(path: &Path, limits: &Limits) -> Result<(Plugin, Manifest), PluginError> {
    let name = path.display().to_string();
    let error = |problem: Problem| PluginError::new(&name, "", "", problem);
    let text = read(path).map_err(error)?;
    let file = parse(&text).map_err(|e| error(e.into()))?;
    let component = component(path, &file.plugin).map_err(|e| error(e.into()))?;
    let plugin = Plugin::load(&component, limits)?;
    let dialect = choose_dialect(&file, &plugin).map_err(|e| error(e.into()))?;
    let fields = plugin.session()?.source_fields(&dialect)?;
    let manifest = fit(file, &plugin, dialect, fields, path).map_err(|e| error(e.into()))?;
    let (sha256, bytes) = (sha256_hex(text.as_bytes()), text.len() as u64);
    Ok((plugin, Manifest { sha256, bytes, ..manifest }))
}

fn parse(text: &str) -> Result<File, ManifestError> {
    toml::from_str(text).map_err(|error| {
        let at = error.span().map(|span| {
            let before = text.get(..span.start).unwrap_or(text);
            let line = before.rsplit('\n').next().unwrap_or("");
            (before.matches('\n').count() + 1, line.chars().count() + 1)
        });
        syntax(escape(error.message()), at)
    })
}

/// The component that a manifest stands on: from its folder on where it is a path, else by name,
/// in its folder first.
fn component(manifest: &Path, plugin: &str) -> Result<std::path::PathBuf, ManifestError> {
    let folder = manifest.parent().unwrap_or(Path::new(""));
    let on_manifest = || ManifestError::OnManifest { name: escape(plugin) };
    let no_plugin = |near, looked| {
        let name = escape(plugin);
        ManifestError::NoPlugin { name, near, looked }
    };
    if is_toml(Path::new(plugin)) {
        return Err(on_manifest());
    }
    if plugin.contains('/') || plugin.ends_with(".wasm") {
        let path = folder.join(plugin);
        let looked = || vec![path.display().to_string()];
        return if path.is_file() { Ok(path) } else { Err(no_plugin(None, looked())) };
    }
    let shelf = Shelf::standard().with_first(folder);
    let all = shelf.all();
    let named = || all.iter().filter(|found| found.name == plugin);
    if let Some(found) = named().find(|found| !is_toml(&found.path)) {
        return Ok(found.path.clone());
    }
    if named().next().is_some() {
        return Err(on_manifest());
    }
    let components = all.iter().filter(|found| !is_toml(&found.path)).map(|found| &found.name);
    let looked = shelf.folders().iter().map(|folder| shown(folder));
    Err(no_plugin(nearest(plugin, components).cloned(), looked.collect()))
}

/// The dialect of the model's names: that which the manifest says, or the plugin's first.
fn choose_dialect(file: &File, plugin: &Plugin) -> Result<String, ManifestError> {
    let known = &plugin.identity().dialects;
    let first = known.first().cloned().unwrap_or_default();
    let dialect = file.dialect.clone().unwrap_or(first);
    if known.contains(&dialect) {
        return Ok(dialect);
    }
    Err(unknown("dialect", &dialect, plugin, known))
}

fn unknown(key: &'static str, value: &str, plugin: &Plugin, known: &[String]) -> ManifestError {
    ManifestError::Unknown {
        key,
        value: escape(value),
        plugin: escape(&plugin.identity().name),
        known: escape(&known.join(", ")),
    }
}

/// Compares what the file says with what the plugin declares.
fn fit(
    file: File,
    plugin: &Plugin,
    dialect: String,
    declared: Vec<Field>,
    path: &Path,
) -> Result<Manifest, ManifestError> {
    if file.manifest != VERSION {
        return Err(ManifestError::Version { found: file.manifest });
    }
    let own = plugin.identity();
    let is_gguf = |name: &str| name.starts_with("gguf:");
    let fitting = own.accepts.iter().find(|name| is_gguf(name) == (dialect == "gguf"));
    let architecture = match file.architecture {
        Some(named) if own.accepts.contains(&named) => named,
        Some(named) => return Err(unknown("as", &named, plugin, &own.accepts)),
        None => fitting.or(own.accepts.first()).cloned().unwrap_or_default(),
    };
    let stem = || path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let identity = Identity {
        name: file.name.unwrap_or_else(stem),
        version: file.version.unwrap_or_else(|| own.version.clone()),
        accepts: file.accepts,
        dialects: vec![dialect],
        doc: file.doc.unwrap_or_else(|| format!("{} by other names.", own.name)),
    };
    check_identity(&identity, plugin.limits()).map_err(ManifestError::Identity)?;
    let tensors = renames(&file.tensors)?;
    let given = Given {
        plugin,
        renames: renames(&file.fields)?,
        defaults: file.defaults,
        constants: file.constants,
    };
    let fields = given.fields(declared, &tensors, &architecture)?;
    let unused = file.unused.into_iter().collect();
    let (sha256, bytes) = (String::new(), 0);
    Ok(Manifest { identity, sha256, bytes, architecture, fields, tensors, unused })
}

fn renames(table: &BTreeMap<String, String>) -> Result<Renames, ManifestError> {
    let all = table.iter().map(|(known, called)| Rename::new(known, called));
    all.collect::<Result<_, _>>().map(Renames)
}

/// What a manifest says of fields.
struct Given<'a> {
    plugin: &'a Plugin,
    renames: Renames,
    defaults: BTreeMap<String, Json>,
    constants: BTreeMap<String, Json>,
}

impl Given<'_> {
    /// Every declared field as the model has it.
    fn fields(
        &self,
        declared: Vec<Field>,
        tensors: &Renames,
        architecture: &str,
    ) -> Result<Vec<ModelField>, ManifestError> {
        self.check_tables(&declared)?;
        let mut used = vec![false; self.renames.0.len()];
        let mut owners: BTreeMap<String, String> = BTreeMap::new();
        let mut fields = Vec::with_capacity(declared.len());
        for field in &declared {
            let mut called = field.clone();
            let by = self.call(&mut called.path, tensors)?;
            if let Some(by) = by {
                used[by] = true;
            }
            if let Fallback::SameAs(other) = &mut called.fallback {
                self.call(other, tensors)?;
            }
            let known = field.path.clone();
            if let Some(first) = owners.insert(called.path.clone(), known.clone()) {
                return Err(ManifestError::Clash {
                    first: escape(&first),
                    second: escape(&known),
                    called: escape(&called.path),
                    table: "fields",
                });
            }
            if let Some(json) = self.defaults.get(&known) {
                called.fallback = Fallback::Value(value("defaults", field, json)?);
            }
            let mut constant = None;
            if let Some(json) = self.constants.get(&known) {
                let value = value("constants", field, json)?;
                called.fallback = Fallback::Value(value.clone());
                constant = Some(value);
            }
            if known == ARCHITECTURES {
                // The source says its own; the plugin is told one that it knows.
                called.fallback = Fallback::Absent;
                let said = [Json::from(vec![architecture]), Json::from(architecture)];
                constant = said.iter().find_map(|said| Value::from_json(field.kind, said));
            }
            fields.push(ModelField { known, field: called, constant });
        }
        let idle = self.renames.0.iter().zip(used).find(|(_, used)| !used);
        match idle {
            Some((rename, _)) => Err(self.no_field(rename.known(), "fields", &declared)),
            None => Ok(fields),
        }
    }

    /// Turns a field's path into the model's; says which rename did.
    fn call(&self, path: &mut String, tensors: &Renames) -> Result<Option<usize>, ManifestError> {
        const TENSOR: &str = "tensor:";
        if let Some(tensor) = path.strip_prefix(TENSOR) {
            *path = format!("{TENSOR}{}", tensors.apply(tensor)?.name);
            return Ok(None);
        }
        let renamed = self.renames.apply(path)?;
        *path = renamed.name;
        Ok(renamed.by)
    }

    /// Whether defaults and constants are of fields that there are, each said once.
    fn check_tables(&self, declared: &[Field]) -> Result<(), ManifestError> {
        let tables = [("defaults", &self.defaults), ("constants", &self.constants)];
        for (table, entries) in tables {
            for field in entries.keys() {
                let tensor = field.starts_with("tensor:") || field == ARCHITECTURES;
                if tensor || !declared.iter().any(|one| one.path == *field) {
                    return Err(self.no_field(field, table, declared));
                }
            }
        }
        for field in self.constants.keys() {
            let renamed = self.renames.0.iter().any(|rename| rename.known() == field);
            let (is_default, second) = (self.defaults.contains_key(field), "constants");
            if renamed || is_default {
                let first = if is_default { "defaults" } else { "fields" };
                return Err(ManifestError::Twice { field: escape(field), first, second });
            }
        }
        Ok(())
    }

    fn no_field(&self, field: &str, table: &'static str, declared: &[Field]) -> ManifestError {
        let near = nearest(field, declared.iter().map(|field| &field.path)).cloned();
        let plugin = escape(&self.plugin.identity().name);
        ManifestError::NoField { field: escape(field), plugin, near, table }
    }
}

/// A value of the manifest's as one of the field's kind.
fn value(table: &'static str, field: &Field, json: &Json) -> Result<Value, ManifestError> {
    Value::from_json(field.kind, json).ok_or_else(|| ManifestError::Kind {
        field: escape(&field.path),
        expected: field.kind.to_string(),
        found: escape(&json.to_string()),
        table,
    })
}
