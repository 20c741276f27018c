//! From a module to a component.

use crate::GuestError;
use wit_component::{ComponentEncoder, DecodedWasm};

/// All that a component may import.
const CONTRACT: &str = "engraft:plugin/";

/// What a component must export.
const EXPORT: &str = "engraft:plugin/architecture@";

/// A module as a component that imports the contract and nothing else.
///
/// # Errors
/// [`GuestError::NotTheContract`]
pub fn component(module: &[u8]) -> Result<Vec<u8>, GuestError> {
    let not = |reason: String| GuestError::NotTheContract { reason };
    // The innermost cause says it; what is around it is about how components are made.
    let encoded = ComponentEncoder::default()
        .module(module)
        .and_then(|encoder| encoder.validate(true).encode())
        .map_err(|e| not(e.root_cause().to_string()))?;
    let decoded = wit_component::decode(&encoded).map_err(|e| not(e.root_cause().to_string()))?;
    let DecodedWasm::Component(resolve, world) = decoded else {
        return Err(not("it is no component".into()));
    };
    let world = &resolve.worlds[world];
    for import in world.imports.keys() {
        let name = resolve.name_world_key(import);
        if !name.starts_with(CONTRACT) {
            return Err(not(format!("it imports `{name}`; a plugin gets `{CONTRACT}…` only")));
        }
    }
    let mut exports = world.exports.keys().map(|export| resolve.name_world_key(export));
    match exports.any(|name| name.starts_with(EXPORT)) {
        true => Ok(encoded),
        false => Err(not(format!("it does not export `{EXPORT}…`"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_module_is_no_plugin() {
        let error = component(b"\0asm\x01\0\0\0").unwrap_err();
        assert!(error.to_string().contains("does not export"), "{error}");
        assert!(component(b"something else").is_err());
    }
}
