//! The engine file: written once, read for ever.
