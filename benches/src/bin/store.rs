//! `store`: puts, fan-out, a controller with a thousand agents, an agent's cold start. See benches/README.md.

fn main() -> anyhow::Result<()> {
    nv_benches::store::main()
}
