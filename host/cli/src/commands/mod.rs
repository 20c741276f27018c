//! The commands, a file each.

pub mod build;
pub mod compile;
pub mod convert;
pub mod diff;
pub mod evaluate;
pub mod inspect;
pub mod plugin;
pub mod run;
pub mod verify;
