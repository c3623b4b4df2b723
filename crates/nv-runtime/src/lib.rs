//! Container runtime monitoring (traits first; backends follow).
#![deny(unsafe_code)]
mod runtime;
pub use runtime::*;
