//! Cilium's `CiliumNetworkPolicy` and `CiliumClusterwideNetworkPolicy`, layers 3 and 4.

mod ports;
mod read;
mod write;

pub(super) use read::read;
pub(super) use write::Writer;

/// The label that holds the namespace of a pod.
const NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// What stands before a label of the namespace.
const NAMESPACE_LABELS: &str = "io.cilium.k8s.namespace.labels.";
/// Applications that a layer 7 part speaks of.
const APPLICATIONS: [(&str, &str); 3] = [("http", "HTTP"), ("kafka", "Kafka"), ("dns", "DNS")];
