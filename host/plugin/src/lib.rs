//! Architectures as sandboxed WebAssembly components: the only room that names wasmtime.
