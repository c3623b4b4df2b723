//! What the compiler of the protocols made.
#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    clippy::allow_attributes_without_reason,
    elided_lifetimes_in_paths,
    clippy::use_self,
    clippy::or_fun_call,
    reason = "generated"
)]

pub mod containers {
    tonic::include_proto!("containerd.services.containers.v1");
}
pub mod events {
    tonic::include_proto!("containerd.services.events.v1");
}
pub mod namespaces {
    tonic::include_proto!("containerd.services.namespaces.v1");
}
pub mod tasks {
    tonic::include_proto!("containerd.services.tasks.v1");
}
pub mod version {
    tonic::include_proto!("containerd.services.version.v1");
}
/// The Container Runtime Interface, as far as nv uses it.
pub mod cri {
    tonic::include_proto!("runtime.v1");
}
