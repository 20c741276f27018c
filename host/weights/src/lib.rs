//! From a parameter's origin to its bytes: plans, steps and streams.
