//! Compiles the protocols of containerd and of the Container Runtime Interface in pure Rust: no protoc is needed.

const PROTOCOLS: [&str; 6] = [
    "containerd/containers.proto",
    "containerd/events.proto",
    "containerd/namespaces.proto",
    "containerd/tasks.proto",
    "containerd/version.proto",
    "cri.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOCOLS, ["proto"])?;
    // Servers only for the fakes of tests.
    tonic_prost_build::configure()
        .build_server(std::env::var_os("CARGO_FEATURE_TEST_UTIL").is_some())
        .compile_fds(descriptors)?;
    Ok(())
}
