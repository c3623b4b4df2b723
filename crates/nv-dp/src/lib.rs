//! Datapath of nv (traits first; backends follow).
mod datapath;
pub use datapath::*;
