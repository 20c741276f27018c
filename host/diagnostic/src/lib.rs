//! Errors as a person reads them: a code, what, where, whose fault, and what to do next.
//!
//! Every room has its own `thiserror` enum and implements [`Diagnostic`] for it; only the
//! command line turns that into text and an exit code. Codes are stable: `docs/errors.md` is
//! their catalogue, and a test holds the two together. Each room has a hundred:
//!
//! | codes  | room                        | codes  | room                      |
//! |--------|-----------------------------|--------|---------------------------|
//! | EG00xx | command line, outputs, disk | EG05xx | engine                    |
//! | EG01xx | source                      | EG06xx | runtime                   |
//! | EG02xx | plugin                      | EG07xx | compile, convert          |
//! | EG03xx | weights                     | EG08xx | graph                     |
//! | EG04xx | checkpoint                  | EG09xx | guest: making plugins     |
//! |        |                             | EG095x | texts                     |

use std::fmt;

/// Whose fault an error is; this decides its wording and the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing broke, but a check that was asked for did not pass.
    Check,
    /// The command line asks for something that does not exist or does not fit together.
    Usage,
    /// A model, checkpoint, engine or text that was handed in.
    Input,
    /// The plugin.
    Plugin,
    /// Memory, disk, permissions, or a limit that a flag sets.
    Limit,
    /// The person: an interrupt.
    Interrupt,
    /// Us.
    Bug,
}

impl Fault {
    /// The exit code of the process.
    pub fn exit_code(self) -> u8 {
        match self {
            Fault::Check => 1,
            Fault::Usage => 2,
            Fault::Input => 3,
            Fault::Plugin => 4,
            Fault::Limit => 5,
            Fault::Interrupt => 130,
            Fault::Bug => 70,
        }
    }
}

/// The number of an error in the catalogue; prints as `EG0203`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Code(pub u16);

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EG{:04}", self.0)
    }
}

/// An error that can tell a person all of it. Its `Display` is the *what*, in one line.
pub trait Diagnostic: std::error::Error + Send + Sync + 'static {
    /// Its number in the catalogue.
    fn code(&self) -> Code;
    /// Whose fault it is.
    fn fault(&self) -> Fault;
    /// Where: a file, key, tensor or place.
    fn location(&self) -> Option<String> {
        None
    }
    /// What to do next, as an imperative sentence.
    fn help(&self) -> Option<String> {
        None
    }
}

/// How much of a text from outside is shown.
pub const SHOWN: usize = 1024;

/// A text from outside (a file, a plugin) as it may be printed: control characters escaped,
/// cut at [`SHOWN`] bytes, so that it cannot speak to the terminal.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(SHOWN));
    for c in text.chars() {
        if out.len() >= SHOWN {
            out.push('…');
            break;
        }
        match c {
            '\n' | '\t' => out.push(c),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(escape("a\u{1b}[2Jb"), "a\\u{1b}[2Jb");
        assert!(escape(&"x".repeat(5000)).len() <= SHOWN + '…'.len_utf8());
    }

    #[test]
    fn codes_print_with_four_digits() {
        assert_eq!(Code(203).to_string(), "EG0203");
    }
}
