//! Benches of nv; see README.md.
