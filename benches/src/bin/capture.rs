//! `capture`: what nv-capture costs and reaches, beside dumpcap and tshark, in one run. See benches/README.md.

fn main() -> anyhow::Result<()> {
    nv_benches::capture::main()
}
