//! From a crate to a component.

use crate::{GuestError, Toolchain, component};
use serde_json::Value;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a crate was compiled to.
pub struct Compiled {
    /// The crate's name, as its component's file is called.
    pub name: String,
    /// The component.
    pub component: Vec<u8>,
}

/// Compiles the crate in a folder. Cargo says what it does, and what is wrong, on standard error;
/// it keeps what it makes where it always does.
///
/// # Errors
/// [`GuestError`]
pub fn compile(toolchain: Toolchain, directory: &Path) -> Result<Compiled, GuestError> {
    const NO_CRATE: &str = "give the folder of a plugin's crate; `engraft plugin new` writes one";
    let no_plugin = |reason: String, help| {
        let directory = directory.to_owned();
        GuestError::NoPlugin { directory, reason, help }
    };
    if !directory.join("Cargo.toml").is_file() {
        let at = directory.display();
        return Err(no_plugin(format!("there is no Cargo.toml in {at}"), NO_CRATE));
    }
    let root = directory.canonicalize().map_err(GuestError::io("find", directory))?;
    // Cargo, when it runs us, and its own name for itself else.
    let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut cargo = Command::new(program);
    cargo.current_dir(&root);
    toolchain.build_with(&mut cargo);
    toolchain.hide_paths(&mut cargo, &root, "plugin")?;
    cargo.arg("--message-format=json-render-diagnostics");
    let cannot = |source| GuestError::CannotStart { program: "cargo".into(), source };
    let mut child = cargo.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(cannot)?;
    let mut modules: Vec<(String, PathBuf)> = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line.map_err(cannot)?;
            modules.extend(serde_json::from_str(&line).ok().and_then(|message| module(&message)));
        }
    }
    if !child.wait().map_err(cannot)?.success() {
        return Err(GuestError::Cargo { directory: directory.to_owned() });
    }
    match modules.as_slice() {
        [(name, path)] => {
            let module = fs::read(path).map_err(GuestError::io("read", path))?;
            Ok(Compiled { name: name.clone(), component: component(&module)? })
        }
        [] => Err(no_plugin(
            "the crate makes no WebAssembly module".into(),
            "say `[lib]` and `crate-type = [\"cdylib\"]` in its Cargo.toml",
        )),
        several => {
            let names: Vec<&str> = several.iter().map(|(name, _)| name.as_str()).collect();
            let reason = format!("there are several plugins in it: {}", names.join(", "));
            Err(no_plugin(reason, "give the folder of one of them"))
        }
    }
}

/// The crate's name and the module, where a message of cargo's says that one is finished.
fn module(message: &Value) -> Option<(String, PathBuf)> {
    let kinds = message["target"]["kind"].as_array()?;
    if message["reason"] != "compiler-artifact" || !kinds.iter().any(|kind| kind == "cdylib") {
        return None;
    }
    let files = message["filenames"].as_array()?.iter().filter_map(Value::as_str);
    let path =
        files.map(PathBuf::from).find(|path| path.extension().is_some_and(|e| e == "wasm"))?;
    Some((message["target"]["name"].as_str()?.replace('_', "-"), path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_module_is_found_in_what_cargo_says() {
        let said = json!({
            "reason": "compiler-artifact",
            "target": { "kind": ["cdylib"], "name": "my_model" },
            "filenames": ["/tmp/t/my_model.wasm"],
        });
        assert_eq!(module(&said), Some(("my-model".into(), "/tmp/t/my_model.wasm".into())));
        let mut library = said.clone();
        library["target"]["kind"] = json!(["lib"]);
        assert_eq!(module(&library), None);
        assert_eq!(module(&json!({ "reason": "build-finished", "success": true })), None);
    }

    #[test]
    fn a_folder_without_a_crate_is_refused_before_cargo_runs() {
        let folder = tempfile::tempdir().unwrap();
        let refused = compile(Toolchain::Rustup, folder.path());
        assert!(matches!(refused, Err(GuestError::NoPlugin { .. })));
    }
}
