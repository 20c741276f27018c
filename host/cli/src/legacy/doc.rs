//! Holds the tables, the commands and `docs/trtllm-flags.md` together.

use super::{Build, Compile, Convert, Does, Flag, Form, Script};
use crate::Cli;
use clap::CommandFactory;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

const INTRODUCTION: &str = "\
# Flags of TensorRT-LLM's scripts

`engraft convert` takes every flag of `convert_checkpoint.py` (Llama, OPT, Falcon and GPT-J), `engraft build`
every flag of `trtllm-build`, and `engraft compile` both, so that old command lines keep working. `-` and `_`
are the same in their names, and a flag that is given twice counts as it is given last. A flag is

- **obeyed**: it does what its name says;
- **noted**: its value is checked, and one line on stderr says that it has no meaning here, and why;
- **refused**: obeying is not possible, and going on would mislead. Values that ask for what happens anyway
  pass without a word.

This page is written from the tables in `host/cli/src/legacy` and held by a test; `ENGRAFT_BLESS=1` lets that
test write it anew.
";

fn form(form: Form) -> String {
    match form {
        Form::Switch => String::new(),
        Form::SwitchOrText => " [TEXT]".into(),
        Form::Integer => " N".into(),
        Form::Number => " X".into(),
        Form::Text => " TEXT".into(),
        Form::Texts => " TEXT…".into(),
        Form::OneOf(names) => format!(" {}", names.join("\\|")),
    }
}

fn section(text: &mut String, title: &str, flags: &[&Flag]) {
    write!(text, "\n## {title}\n\n| flag | what becomes of it |\n| --- | --- |\n").unwrap();
    for flag in flags {
        let names: Vec<String> =
            [flag.name].iter().chain(flag.aliases).map(|name| format!("`--{name}`")).collect();
        let does = match flag.does {
            Does::Obeyed(what) => format!("obeyed: {what}"),
            Does::Idle(why) => format!("noted: {why}"),
            Does::Refused { but: [], why, help } => format!("refused: {why}; {help}"),
            Does::Refused { but, why, help } => {
                let values: Vec<&str> = but.iter().copied().filter(|v| !v.is_empty()).collect();
                let alone = if values.len() < but.len() { " or alone" } else { "" };
                format!("refused, but for `{}`{alone}: {why}; {help}", values.join("`, `"))
            }
        };
        writeln!(text, "| {}{} | {does} |", names.join(", "), form(flag.form)).unwrap();
    }
}

#[test]
fn the_docs_say_what_the_tables_say() {
    let mut text = INTRODUCTION.to_owned();
    section(&mut text, "`engraft convert`: convert_checkpoint.py", &Convert::flags());
    text += "\n`-sq` is `--sq`.\n";
    section(&mut text, "`engraft build`: trtllm-build", &Build::flags());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/trtllm-flags.md");
    if std::env::var_os("ENGRAFT_BLESS").is_some_and(|value| value == "1") {
        std::fs::write(&path, &text).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap();
    assert!(found == text, "docs/trtllm-flags.md is stale: run this test with ENGRAFT_BLESS=1");
}

/// What a command takes, but for what the tables put in: names and aliases.
fn declared(command: &str) -> Vec<(String, bool)> {
    let cli = Cli::command();
    let command = cli.find_subcommand(command).unwrap();
    let arguments = command.get_arguments().filter(|arg| arg.get_long().is_some());
    arguments
        .flat_map(|arg| {
            let names = arg.get_long_and_visible_aliases().unwrap_or_default().into_iter();
            let hidden = arg.get_all_aliases().unwrap_or_default().into_iter();
            let names: BTreeSet<String> = names.chain(hidden).map(str::to_owned).collect();
            names.into_iter().map(|name| (name, arg.is_hide_set()))
        })
        .collect()
}

fn agree<S: Script>(command: &str, elsewhere: &[&str]) {
    let declared = declared(command);
    let mut seen = BTreeSet::new();
    for (name, _) in &declared {
        assert!(seen.insert(name), "{command} has --{name} twice");
    }
    for flag in S::flags() {
        for name in [flag.name].iter().chain(flag.aliases) {
            let known = seen.contains(&(*name).to_owned());
            assert!(known || elsewhere.contains(name), "{command} does not take --{name}");
        }
    }
    for (name, hidden) in &declared {
        assert!(!name.contains('-'), "{command}: --{name} would never be found");
        let flag = S::flags().into_iter().find(|flag| flag.name == name);
        let dead = flag.is_some_and(|flag| !matches!(flag.does, Does::Obeyed(_)));
        assert!(!dead || *hidden, "{command}: the help shows --{name}, which does nothing");
    }
}

#[test]
fn commands_take_every_flag_once() {
    agree::<Convert>("convert", &[]);
    agree::<Build>("build", &[]);
    agree::<Compile>("compile", &["checkpoint_dir", "save_config_only"]);
}
