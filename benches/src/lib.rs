//! Benches of nv: figures, traffic and policies that the benches share. See README.md for the method.

pub mod capture;
pub mod cluster;
pub mod datapath;
pub mod figure;
pub mod growth;
pub mod nft;
pub mod product;
pub mod scenario;
pub mod side_by_side;
pub mod store;
pub mod traffic;

/// Prints a line of a bench's findings.
#[allow(clippy::print_stdout, reason = "what a bench prints is its purpose")]
pub fn say(line: &str) {
    println!("{line}");
}
