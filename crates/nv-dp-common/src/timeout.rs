//! How long a flow may be idle.

use nv_types::IpProto;

use crate::layout::FlowData;
use crate::parse::{FIN, RST, SYN};

const SECOND: u64 = 1_000_000_000;

/// Idle time after which a flow is forgotten, in nanoseconds. NeuVector's figures; after RST as short as after FIN
/// both ways, since neither side will answer for it.
#[must_use]
pub const fn idle_ns(proto: IpProto, flow: &FlowData) -> u64 {
    let seconds = match proto {
        IpProto::TCP => tcp_seconds(flow),
        IpProto::UDP => 30,
        IpProto::ICMP | IpProto::ICMPV6 => 5,
        _ => 15,
    };
    seconds * SECOND
}

const fn tcp_seconds(flow: &FlowData) -> u64 {
    let any = flow.tx_flags | flow.rx_flags;
    let both = flow.tx_flags & flow.rx_flags;
    if any & RST != 0 || both & FIN != 0 {
        15
    } else if any & FIN != 0 {
        90
    } else if any & SYN != 0 && (flow.tx_flags == 0 || flow.rx_flags == 0) {
        20
    } else {
        1200
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::ACK;

    #[test]
    fn a_tcp_flow_is_kept_by_its_state() {
        let idle = |tx_flags, rx_flags| {
            idle_ns(
                IpProto::TCP,
                &FlowData {
                    tx_flags,
                    rx_flags,
                    ..FlowData::default()
                },
            ) / SECOND
        };
        assert_eq!(idle(SYN, 0), 20);
        assert_eq!(idle(SYN | ACK, SYN | ACK), 1200);
        assert_eq!(idle(SYN | ACK | FIN, SYN | ACK), 90);
        assert_eq!(idle(SYN | ACK | FIN, SYN | ACK | FIN), 15);
        assert_eq!(idle(SYN, RST | ACK), 15);
        assert_eq!(idle(ACK, 0), 1200);
        assert_eq!(idle_ns(IpProto::UDP, &FlowData::default()) / SECOND, 30);
        assert_eq!(idle_ns(IpProto(47), &FlowData::default()) / SECOND, 15);
    }
}
