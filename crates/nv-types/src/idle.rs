//! How long flows are kept.

/// How long a flow may be idle before it is forgotten, in seconds. The default is NeuVector's; after a reset it is as short as
/// after FIN both ways, since neither end will answer for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct IdleTimes {
    /// TCP, opened and not answered.
    pub tcp_open: u32,
    /// TCP, open.
    pub tcp_active: u32,
    /// TCP, closed by one end.
    pub tcp_half_closed: u32,
    /// TCP, closed by both, or reset.
    pub tcp_closed: u32,
    /// UDP.
    pub udp: u32,
    /// ICMP and ICMPv6 queries.
    pub icmp: u32,
    /// SCTP: longer than the pause between its heartbeats (RFC 9260, 8.3).
    pub sctp: u32,
    /// Every other protocol.
    pub other: u32,
}

impl Default for IdleTimes {
    fn default() -> Self {
        Self {
            tcp_open: 20,
            tcp_active: 1200,
            tcp_half_closed: 90,
            tcp_closed: 15,
            udp: 30,
            icmp: 5,
            sctp: 210,
            other: 15,
        }
    }
}
