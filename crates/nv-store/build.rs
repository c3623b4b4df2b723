//! Compiles etcd's protocol in pure Rust: no protoc is needed.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/etcd.proto");
    #[cfg(feature = "etcd")]
    tonic_prost_build::configure()
        .build_server(false)
        .compile_fds(protox::compile(["proto/etcd.proto"], ["proto"])?)?;
    Ok(())
}
