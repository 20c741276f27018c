//! CPU kernels: a plain reference, AVX2 and AVX-512, chosen at run time.
