//! What the datapath costs: traffic, latency, rules, single runs of the programs, memory. See benches/README.md.

fn main() -> anyhow::Result<()> {
    nv_benches::datapath::main()
}
