//! Traffic between two namespaces without policy, with nv, and with nftables, in turns. See benches/README.md.

fn main() -> anyhow::Result<()> {
    nv_benches::side_by_side::main()
}
