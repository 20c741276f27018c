//! The flags of the tables on a command line: taken by clap, then settled.

use super::{Does, Flag, Form, Script};
use crate::error::{Usage, to_stderr};
use clap::builder::{PossibleValuesParser, ValueParser};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether notes and warnings stay unsaid.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Silences notes and warnings.
pub fn quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

/// Says a note or a warning, unless they are silenced.
pub fn say(text: &str) {
    if !QUIET.load(Ordering::Relaxed) {
        to_stderr(text);
    }
}

/// The flags of a script that the command does not declare itself, as far as they were given.
#[derive(Debug)]
pub struct Legacy<S> {
    /// In the order of the command line, each with its values.
    given: Vec<(&'static Flag, Vec<String>)>,
    script: PhantomData<S>,
}

impl<S: Script> Legacy<S> {
    /// Says which of them have no meaning here.
    ///
    /// # Errors
    /// Those that we would have to disobey, all in one.
    pub fn settle(&self) -> Result<(), Usage> {
        let given = self.given.iter().map(|(flag, values)| (*flag, values.join(" ")));
        let given: Vec<_> = given.collect();
        check("", &given)?;
        for (flag, _) in &given {
            if let Does::Idle(why) = flag.does {
                say(&format!("note: --{} has no meaning here: {why}", flag.name));
            }
        }
        Ok(())
    }

    /// The first of these that was given.
    pub fn first_of(&self, names: &[&str]) -> Option<&'static str> {
        let mut given = self.given.iter().map(|(flag, _)| flag.name);
        given.find(|name| names.contains(name))
    }
}

/// Turns down what we would have to disobey. `from` is where it was found: `--build_config: `, or
/// nothing for the command line.
///
/// # Errors
/// All of it, in one.
pub fn check(from: &str, given: &[(&'static Flag, String)]) -> Result<(), Usage> {
    let mut what = Vec::new();
    let mut helps: Vec<(&str, &str)> = Vec::new();
    for (flag, value) in given {
        let Does::Refused { but, why, help } = flag.does else { continue };
        if but.iter().any(|fine| same(flag.form, fine, value)) {
            continue;
        }
        let gap = if value.is_empty() { "" } else { " " };
        what.push(format!(
            "{from}--{}{gap}{}: {why}",
            flag.name,
            engraft_diagnostic::escape(value)
        ));
        helps.push((flag.name, help));
    }
    let alike = helps.windows(2).all(|pair| pair[0].1 == pair[1].1);
    let help = match helps.as_slice() {
        [(_, help), ..] if alike => (*help).to_owned(),
        helps => {
            let each = helps.iter().map(|(name, help)| format!("--{name}: {help}"));
            each.collect::<Vec<_>>().join("; ")
        }
    };
    match what.is_empty() {
        true => Ok(()),
        false => Err(Usage::new(what.join("; ")).help(help)),
    }
}

/// Whether two spellings of a value are one.
fn same(form: Form, one: &str, other: &str) -> bool {
    match form {
        Form::Integer => one.parse::<i64>().ok() == other.parse::<i64>().ok(),
        _ => one == other,
    }
}

/// As clap takes it.
fn arg(flag: &'static Flag) -> Arg {
    let arg = Arg::new(flag.name)
        .long(flag.name)
        .aliases(flag.aliases)
        .overrides_with(flag.name)
        .hide(true)
        .action(ArgAction::Set);
    let parsed =
        |parser: ValueParser| arg.clone().value_parser(parser).allow_negative_numbers(true);
    match flag.form {
        Form::Switch => {
            arg.num_args(0).default_missing_value("").value_parser(value_parser!(String))
        }
        Form::SwitchOrText => {
            parsed(value_parser!(String)).num_args(0..=1).default_missing_value("")
        }
        Form::Integer => parsed(value_parser!(i64).into()),
        Form::Number => parsed(value_parser!(f64).into()),
        Form::Text => parsed(value_parser!(String)),
        Form::Texts => parsed(value_parser!(String)).num_args(1..),
        Form::OneOf(names) => parsed(PossibleValuesParser::new(names).into()),
    }
}

impl<S: Script> clap::Args for Legacy<S> {
    fn augment_args(command: Command) -> Command {
        let others = S::flags().into_iter().filter(|flag| !matches!(flag.does, Does::Obeyed(_)));
        command.args(others.map(arg))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<S: Script> clap::FromArgMatches for Legacy<S> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Legacy<S>, clap::Error> {
        let mut given = Vec::new();
        for flag in S::flags() {
            if matches!(flag.does, Does::Obeyed(_))
                || matches.value_source(flag.name) != Some(ValueSource::CommandLine)
            {
                continue;
            }
            let values = matches.get_raw(flag.name).into_iter().flatten();
            let values = values.map(|value| value.to_string_lossy().into_owned()).collect();
            given.push((matches.index_of(flag.name), flag, values));
        }
        given.sort_by_key(|(index, ..)| *index);
        let given = given.into_iter().map(|(_, flag, values)| (flag, values)).collect();
        Ok(Legacy { given, script: PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Legacy::from_arg_matches(matches)?;
        Ok(())
    }
}
