//! What the build script embeds: the SDK, the contract, the template of a new plugin.

include!(concat!(env!("OUT_DIR"), "/embedded.rs"));
