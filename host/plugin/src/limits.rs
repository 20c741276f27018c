//! What a plugin may use up. Every number is a field, so that a test can make it small, and a
//! setting, so that who trusts a large plugin can make it large.
//!
//! A plugin's work is milliseconds of arithmetic on a config: the defaults leave a hundred times
//! of what a large model needs, and stop anything hostile within a second.

use engraft_diagnostic::{Code, Diagnostic, Fault, escape};
use std::time::Duration;

/// The environment variable that [`Limits::standard`] reads.
pub const VARIABLE: &str = "ENGRAFT_PLUGIN_LIMITS";

/// Declares the limits once: as fields, as defaults and as settings.
macro_rules! limits {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $default:expr,)*) => {
        /// Bounds on one plugin: its file, its compilation, and one session with it.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Limits {
            $($(#[$doc])* pub $name: $type,)*
        }

        impl Default for Limits {
            fn default() -> Limits {
                Limits { $($name: $default,)* }
            }
        }

        impl Limits {
            /// Their names, as settings.
            pub const NAMES: &[&str] = &[$(stringify!($name),)*];

            /// Sets one by its name. False where the value is none for it.
            fn set(&mut self, name: &str, value: u64) -> bool {
                match name {
                    $(stringify!($name) => Amount::of(value).map(|v| self.$name = v).is_some(),)*
                    _ => false,
                }
            }
        }
    };
}

limits! {
    /// Bytes of the component's file.
    component_bytes: u64 = 8 << 20,
    /// Units of work that compiling the whole component may be, counted before it begins.
    compile_work: u64 = 20_000_000,
    /// The same of any one function.
    function_work: u64 = 2_000_000,
    /// Instances, if all of its components are expanded.
    expanded_instances: u64 = 256,
    /// How long its compilation may take; in seconds, as a setting.
    compile_time: Duration = Duration::from_secs(60),
    /// Bytes of memory that this process may grow by while it is compiled.
    compile_memory: u64 = 1 << 30,
    /// Instructions of one session. Counted and not timed, so a stop is reproducible.
    fuel: u64 = 1_000_000_000,
    /// Bytes of linear memory.
    memory: usize = 64 << 20,
    /// Elements of one table.
    table_elements: usize = 20_000,
    /// Instances in a store.
    instances: usize = 16,
    /// Linear memories in a store.
    memories: usize = 1,
    /// Tables in a store.
    tables: usize = 8,
    /// Bytes that one call may carry from the guest to us.
    call_bytes: usize = 16 << 20,
    /// Handles that a guest may hold.
    handles: usize = 1_024,
    /// Our own objects that a guest may hold: options of rotations, attentions and mixtures.
    resources: usize = 16,
    /// Bytes of the guest's own stack.
    guest_stack: usize = 256 << 10,
    /// Bytes of the stack of the thread that runs the guest.
    host_stack: usize = 8 << 20,

    /// Blocks of a model.
    blocks: u32 = 65_536,
    /// Calls on the builder in one place.
    operations: u32 = 10_000,
    /// Calls on the builder in all places together.
    total_operations: u32 = 1_000_000,
    /// Rotary embeddings of a model that differ.
    rotaries: usize = 1_024,
    /// Parameters of one place.
    parameters: usize = 100_000,
    /// Parts, steps and axes of one parameter, together.
    pieces: usize = 10_000,
    /// Values that one place hands to the next.
    carry: usize = 16,
    /// Bytes of a parameter's, tensor's or field's name.
    name: usize = 512,
    /// Bytes of a value's label.
    label: usize = 256,
    /// Fields, settings, accepted names or left-out tensors in one answer.
    entries: usize = 10_000,
    /// Bytes of a sentence for people.
    sentence: usize = 4_096,
    /// Bytes of all parameters' descriptions that one graph makes us keep.
    kept_bytes: usize = 256 << 20,
}

/// What a limit is counted in.
trait Amount: Sized {
    fn of(value: u64) -> Option<Self>;
}

impl Amount for u64 {
    fn of(value: u64) -> Option<u64> {
        Some(value)
    }
}

impl Amount for u32 {
    fn of(value: u64) -> Option<u32> {
        value.try_into().ok()
    }
}

impl Amount for usize {
    fn of(value: u64) -> Option<usize> {
        value.try_into().ok()
    }
}

impl Amount for Duration {
    fn of(value: u64) -> Option<Duration> {
        Some(Duration::from_secs(value))
    }
}

/// A setting of a limit that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{setting}` sets no limit: {problem}")]
pub struct LimitsError {
    /// As it is written.
    pub setting: String,
    /// What is wrong with it.
    pub problem: String,
}

impl Diagnostic for LimitsError {
    fn code(&self) -> Code {
        Code(230)
    }
    fn fault(&self) -> Fault {
        Fault::Usage
    }
    fn location(&self) -> Option<String> {
        Some(format!("environment variable {VARIABLE}"))
    }
    fn help(&self) -> Option<String> {
        Some(format!(
            "write it as in `component_bytes=32MiB,compile_time=300`; the limits are {}",
            Limits::NAMES.join(", ")
        ))
    }
}

impl Limits {
    /// The defaults, changed as the environment variable [`VARIABLE`] says.
    ///
    /// # Errors
    /// [`LimitsError`]: its first setting that is none.
    pub fn standard() -> Result<Limits, LimitsError> {
        let settings = std::env::var_os(VARIABLE).unwrap_or_default();
        Limits::default().with(&settings.to_string_lossy())
    }

    /// These limits, changed by settings: `NAME=NUMBER,…`, a number with `KiB`, `MiB` or `GiB`
    /// where that is meant.
    ///
    /// # Errors
    /// [`LimitsError`]: the first setting that is none.
    pub fn with(mut self, settings: &str) -> Result<Limits, LimitsError> {
        for setting in settings.split(',').map(str::trim).filter(|one| !one.is_empty()) {
            let wrong =
                |problem: &str| LimitsError { setting: escape(setting), problem: problem.into() };
            let Some((name, text)) = setting.split_once('=') else {
                return Err(wrong("it has no `=`"));
            };
            let name = name.trim();
            if !Limits::NAMES.contains(&name) {
                return Err(wrong("no limit has this name"));
            }
            let number = number(text.trim()).ok_or_else(|| wrong("this is no number"))?;
            if !self.set(name, number) {
                return Err(wrong("the number is too large"));
            }
            // A guest runs on our thread, and the host's own calls need some of its stack.
            if self.host_stack < self.guest_stack.saturating_add(1 << 20) {
                return Err(wrong("host_stack must exceed guest_stack by 1MiB or more"));
            }
        }
        Ok(self)
    }
}

/// A whole number, perhaps of binary units.
fn number(text: &str) -> Option<u64> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30)];
    let (digits, shift) = units
        .iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?.trim_end(), *shift)))
        .unwrap_or((text, 0));
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_is_a_setting() {
        for name in Limits::NAMES {
            let value = if *name == "host_stack" { "16MiB" } else { "7" };
            let changed = Limits::default().with(&format!("{name}={value}")).expect("a setting");
            assert_ne!(changed, Limits::default(), "{name}");
        }
        let changed = Limits::default().with(" fuel = 5 , component_bytes=32 MiB,").expect("two");
        assert_eq!((changed.fuel, changed.component_bytes), (5, 32 << 20));
    }

    #[test]
    fn a_setting_that_is_none_is_told() {
        let why = |settings: &str| Limits::default().with(settings).expect_err("none").to_string();
        assert_eq!(why("fule=3"), "`fule=3` sets no limit: no limit has this name");
        assert_eq!(why("fuel"), "`fuel` sets no limit: it has no `=`");
        for bad in ["fuel=", "fuel=-1", "fuel=1.5", "fuel=+1", "fuel=99999999999GiB"] {
            assert!(why(bad).ends_with("this is no number"), "{bad}");
        }
        assert!(why("blocks=4294967296").ends_with("the number is too large"));
        assert!(why("guest_stack=8MiB").contains("host_stack must exceed"));
        let error = Limits::default().with("x=1").expect_err("none");
        assert!(error.help().is_some_and(|help| help.contains("compile_work")), "{error}");
    }
}
