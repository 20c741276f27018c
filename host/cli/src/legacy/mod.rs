//! Flags of TensorRT-LLM's scripts, so that old command lines keep working.
//!
//! Two tables, [`convert`] and [`build`], hold every flag of `convert_checkpoint.py` and of
//! `trtllm-build` with what becomes of it here:
//!
//! - [`Does::Obeyed`]: it is a flag of the command like any other, declared where the command is.
//!   It stands in the table for `docs/trtllm-flags.md` only.
//! - [`Does::Idle`]: it is taken, its value is checked, and one line on stderr says why nothing
//!   comes of it.
//! - [`Does::Refused`]: obeying is not possible and going on would mislead, so it is an error;
//!   but for values that ask for what happens anyway, which pass without a word.
//!
//! To make a flag real, declare it in the command's own struct and turn its entry to `Obeyed`;
//! tests hold that the two agree, and that the docs say what the table says.

pub mod build;
pub mod build_config;
pub mod convert;
#[cfg(test)]
mod doc;
mod given;

pub use given::{Legacy, quiet, say};

/// A flag, and what becomes of it.
#[derive(Debug)]
pub struct Flag {
    /// Without dashes; `_` between words.
    pub name: &'static str,
    /// Other names for it.
    pub aliases: &'static [&'static str],
    /// What follows it.
    pub form: Form,
    /// What becomes of it.
    pub does: Does,
}

/// What may follow a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Nothing.
    Switch,
    /// Nothing, or whatever one likes: versions differ.
    SwitchOrText,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// A path, a name.
    Text,
    /// One or more names.
    Texts,
    /// One of these.
    OneOf(&'static [&'static str]),
}

/// On or off, as trtllm-build spells it.
pub const TOGGLE: Form = Form::OneOf(&["enable", "disable"]);

/// A plugin of TensorRT-LLM: the type it computes in, or none.
pub const PLUGIN: Form =
    Form::OneOf(&["auto", "float16", "float32", "bfloat16", "int32", "disable"]);

/// What becomes of a flag.
#[derive(Clone, Copy, Debug)]
pub enum Does {
    /// What its name says, here too; the words are for the docs.
    Obeyed(
        #[cfg_attr(not(test), expect(dead_code, reason = "the docs are held by a test"))]
        &'static str,
    ),
    /// Nothing, because …
    Idle(&'static str),
    /// An error, but for these values.
    Refused {
        /// Values that ask for what happens anyway.
        but: &'static [&'static str],
        /// Why not.
        why: &'static str,
        /// What to do instead.
        help: &'static str,
    },
}

const fn flag(name: &'static str, form: Form, does: Does) -> Flag {
    Flag { name, aliases: &[], form, does }
}

const fn obeyed(name: &'static str, form: Form, what: &'static str) -> Flag {
    flag(name, form, Does::Obeyed(what))
}

const fn idle(name: &'static str, form: Form, why: &'static str) -> Flag {
    flag(name, form, Does::Idle(why))
}

const fn refused(
    name: &'static str,
    form: Form,
    but: &'static [&'static str],
    why: &'static str,
    help: &'static str,
) -> Flag {
    flag(name, form, Does::Refused { but, why, help })
}

impl Flag {
    const fn alias(mut self, aliases: &'static [&'static str]) -> Flag {
        self.aliases = aliases;
        self
    }
}

/// Whose flags a command takes.
pub trait Script {
    /// One table, or several; of a name that is in two the first counts.
    const TABLES: &'static [&'static [Flag]];

    /// Every flag once, in the order of the tables.
    fn flags() -> Vec<&'static Flag> {
        let mut all: Vec<&'static Flag> = Vec::new();
        for flag in Self::TABLES.iter().copied().flatten() {
            if !all.iter().any(|known| known.name == flag.name) {
                all.push(flag);
            }
        }
        all
    }
}

/// Flags of convert_checkpoint.py.
#[derive(Debug)]
pub struct Convert;

impl Script for Convert {
    const TABLES: &'static [&'static [Flag]] = &[convert::FLAGS];
}

/// Flags of trtllm-build.
#[derive(Debug)]
pub struct Build;

impl Script for Build {
    const TABLES: &'static [&'static [Flag]] = &[build::FLAGS];
}

/// Of both: `compile` does what the two do.
#[derive(Debug)]
pub struct Compile;

impl Script for Compile {
    const TABLES: &'static [&'static [Flag]] = &[convert::FLAGS, build::FLAGS];
}
