//! Where plugins are: beside the executable, in `$ENGRAFT_PLUGINS`, or at a path.

use crate::error::PluginError;
use crate::load::Plugin;
use crate::manifest::{is_manifest, is_toml};
use crate::recorder::nearest;
use crate::{Limits, LimitsError};
use engraft_diagnostic::{Code, Diagnostic, Fault, escape};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A plugin's file: a component or a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its file's name without `.wasm` or `.toml`.
    pub name: String,
    /// The file.
    pub path: PathBuf,
}

/// No plugin.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// Neither a file nor a bundled plugin.
    #[error("there is no plugin `{name}`")]
    NoSuch {
        /// What was asked for.
        name: String,
        /// A bundled one with a name like it.
        near: Option<String>,
        /// Where was looked.
        looked: Vec<PathBuf>,
    },
    /// No bundled plugin accepts a model.
    #[error("no plugin accepts the architecture `{architecture}`")]
    NoneFits {
        /// The model's.
        architecture: String,
        /// Plugins that accept something of a like name, as `llama (LlamaForCausalLM)`.
        near: Vec<String>,
        /// Where was looked.
        looked: Vec<PathBuf>,
        /// Plugins that could not be loaded, each with the reason.
        broken: Vec<String>,
    },
    /// More than one bundled plugin accepts a model.
    #[error("several plugins accept the architecture `{architecture}`: {}", plugins.join(", "))]
    Several {
        /// The model's.
        architecture: String,
        /// Their names.
        plugins: Vec<String>,
    },
    /// The limits that it should be loaded with are none.
    #[error(transparent)]
    Limits(#[from] LimitsError),
    /// It is there, and cannot be loaded.
    #[error(transparent)]
    Plugin(#[from] PluginError),
}

impl Diagnostic for FindError {
    fn code(&self) -> Code {
        match self {
            FindError::NoSuch { .. } => Code(201),
            FindError::NoneFits { .. } => Code(202),
            FindError::Several { .. } => Code(218),
            FindError::Limits(error) => error.code(),
            FindError::Plugin(error) => error.code(),
        }
    }

    fn fault(&self) -> Fault {
        match self {
            FindError::NoSuch { .. } | FindError::NoneFits { .. } | FindError::Several { .. } => {
                Fault::Usage
            }
            FindError::Limits(error) => error.fault(),
            FindError::Plugin(error) => error.fault(),
        }
    }

    fn location(&self) -> Option<String> {
        let looked = match self {
            FindError::NoSuch { looked, .. } | FindError::NoneFits { looked, .. } => looked,
            FindError::Several { .. } => return None,
            FindError::Limits(error) => return error.location(),
            FindError::Plugin(error) => return error.location(),
        };
        let looked: Vec<String> = looked.iter().map(|dir| shown(dir)).collect();
        Some(format!("looked in {}", looked.join(", ")))
    }

    fn help(&self) -> Option<String> {
        match self {
            FindError::NoSuch { near, .. } => {
                let near = near.as_ref().map(|near| format!("the nearest is `{near}`; "));
                Some(format!(
                    "{}give a component's path, or a name that `engraft plugin list` shows; `engraft \
                     plugin build` makes a component of a crate, `cargo xtask plugins` the bundled ones",
                    near.unwrap_or_default()
                ))
            }
            FindError::NoneFits { near, broken, .. } => {
                let mut help = String::new();
                if !near.is_empty() {
                    help = format!("the nearest are {}; ", near.join(", "));
                }
                help += "say `--plugin PATH` with one of your own; write a manifest where it is a \
                         known one by other names (docs/manifests.md); or write a plugin: `engraft \
                         plugin new NAME` (`cargo xtask plugins` builds the bundled ones)";
                for one in broken {
                    help += &format!("\nskipped {one}");
                }
                Some(help)
            }
            FindError::Several { plugins, .. } => {
                plugins.first().map(|first| format!("choose one, as in `--plugin {first}`"))
            }
            FindError::Limits(error) => error.help(),
            FindError::Plugin(error) => error.help(),
        }
    }
}

/// The folders in which plugins are looked for, in order; of two with one name the first counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shelf {
    folders: Vec<PathBuf>,
}

impl Shelf {
    /// `$ENGRAFT_PLUGINS` (a list like `$PATH`), then the executable's folder, `plugins` in it, and
    /// `plugins` beside it.
    pub fn standard() -> Shelf {
        let mut folders: Vec<PathBuf> = std::env::var_os("ENGRAFT_PLUGINS")
            .map(|list| std::env::split_paths(&list).collect())
            .unwrap_or_default();
        folders.retain(|folder| !folder.as_os_str().is_empty());
        let executable = std::env::current_exe();
        if let Some(beside) = executable.as_deref().ok().and_then(Path::parent) {
            folders.extend([beside.to_owned(), beside.join("plugins")]);
            folders.extend(beside.parent().map(|above| above.join("plugins")));
        }
        Shelf { folders }
    }

    /// These folders.
    pub fn new(folders: impl IntoIterator<Item = PathBuf>) -> Shelf {
        Shelf { folders: folders.into_iter().collect() }
    }

    /// The same with another folder before them.
    pub(crate) fn with_first(mut self, folder: &Path) -> Shelf {
        self.folders.insert(0, folder.to_owned());
        self
    }

    /// The folders.
    pub(crate) fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// Every component and manifest on the shelf, by name; of one name, a component comes before a
    /// manifest. Nothing is loaded.
    pub fn all(&self) -> Vec<Found> {
        let mut all = BTreeMap::new();
        for entry in self.folders.iter().filter_map(|dir| dir.read_dir().ok()).flatten().flatten() {
            let path = entry.path();
            let component = path.extension().is_some_and(|ext| ext == "wasm") && path.is_file();
            if let Some(name) = path.file_stem().filter(|_| component || is_manifest(&path)) {
                let key = (name.to_string_lossy().into_owned(), !component);
                all.entry(key).or_insert(path);
            }
        }
        all.into_iter().map(|((name, _), path)| Found { name, path }).collect()
    }

    /// The file of a plugin that is given as a path or by its name, with or without `.wasm` or
    /// `.toml`.
    ///
    /// # Errors
    /// [`FindError::NoSuch`]
    pub fn find(&self, name_or_path: &str) -> Result<PathBuf, FindError> {
        let path = Path::new(name_or_path);
        if path.is_file() {
            return Ok(path.to_owned());
        }
        let mut all = self.all();
        let mut name = name_or_path;
        for (ending, manifest) in [(".wasm", false), (".toml", true)] {
            if let Some(stem) = name_or_path.strip_suffix(ending) {
                name = stem;
                all.retain(|found| is_toml(&found.path) == manifest);
            }
        }
        if let Some(found) = all.iter().find(|found| found.name == name) {
            return Ok(found.path.clone());
        }
        Err(FindError::NoSuch {
            name: escape(name_or_path),
            near: nearest(name, all.iter().map(|found| &found.name)).cloned(),
            looked: self.folders.clone(),
        })
    }

    /// The plugin whose own a model is, by its architecture.
    ///
    /// # Errors
    /// [`FindError::NoneFits`], [`FindError::Several`]
    pub fn for_architecture(
        &self,
        architecture: &str,
        limits: &Limits,
    ) -> Result<Plugin, FindError> {
        // A plugin spells what it accepts somewhere in its bytes, as a rule: those that do are
        // compiled first, and the others only where none of them fits.
        // GGUF's may be put together from a name and a prefix.
        let bare = architecture.rsplit(':').next().unwrap_or(architecture);
        let spells = |found: &Found, name| contains(&found.path, name);
        let (first, others): (Vec<_>, Vec<_>) =
            self.all().into_iter().partition(|found| spells(found, architecture));
        let (second, others): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|found| spells(found, bare));
        let mut likely: Vec<(f64, String)> = Vec::new();
        let mut broken = Vec::new();
        for candidates in [first, second, others] {
            let mut fitting = Vec::new();
            for found in candidates {
                match Plugin::load(&found.path, limits) {
                    Ok(plugin) if plugin.accepts(architecture) => {
                        fitting.push((found.name, plugin));
                    }
                    Ok(plugin) => likely.extend(best_match(&plugin, architecture)),
                    Err(error) => broken.push(error.to_string()),
                }
            }
            if fitting.len() > 1 {
                return Err(FindError::Several {
                    architecture: escape(architecture),
                    plugins: fitting.iter().map(|(name, _)| escape(name)).collect(),
                });
            }
            if let Some((_, plugin)) = fitting.pop() {
                return Ok(plugin);
            }
        }
        likely.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        Err(FindError::NoneFits {
            architecture: escape(architecture),
            near: likely.into_iter().take(3).map(|(_, text)| text).collect(),
            looked: self.folders.clone(),
            broken,
        })
    }
}

/// A folder, and whether it is one.
pub(crate) fn shown(folder: &Path) -> String {
    let missing =
        if folder.as_os_str().is_empty() || folder.is_dir() { "" } else { " (not there)" };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    format!("{}{missing}", folder.display())
}

/// Whether a file has a text in its bytes. One that cannot be read has none; loading it says why.
fn contains(path: &Path, text: &str) -> bool {
    let bytes = std::fs::read(path).unwrap_or_default();
    !text.is_empty() && bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// What a plugin accepts that is most like an architecture, and how much.
fn best_match(plugin: &Plugin, architecture: &str) -> Option<(f64, String)> {
    let identity = plugin.identity();
    identity
        .accepts
        .iter()
        .map(|own| (strsim::jaro_winkler(own, architecture), own))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(likeness, own)| (likeness, format!("{} ({})", identity.name, escape(own))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_nobody_has_says_where_was_looked() {
        let shelf = Shelf::new([PathBuf::from("/nowhere")]);
        let error = shelf.find("lama").unwrap_err();
        assert_eq!(error.to_string(), "there is no plugin `lama`");
        assert_eq!(error.location().as_deref(), Some("looked in /nowhere (not there)"));
        assert!(shelf.all().is_empty());
    }

    #[test]
    fn an_architecture_that_nobody_accepts_says_how_to_add_a_plugin() {
        let error = Shelf::new([]).for_architecture("Nothing", &Limits::default()).unwrap_err();
        assert_eq!(error.code(), Code(202));
        assert!(error.help().unwrap_or_default().contains("cargo xtask plugins"));
    }
}
