//! From a graph and its weights to an engine.
