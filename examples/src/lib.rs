//! Runnable examples of nv; see `examples/`.
