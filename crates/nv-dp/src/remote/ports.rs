//! Port items in their text form.

use nv_types::{PortSpec, PortSpecText};
use serde::{Deserialize, Deserializer, Serializer};

pub(crate) fn serialize<S: Serializer>(ports: &[PortSpec], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(ports.iter().map(|port| PortSpecText(*port)))
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PortSpec>, D::Error> {
    let ports = Vec::<PortSpecText>::deserialize(deserializer)?;
    Ok(ports.into_iter().map(|port| port.0).collect())
}
