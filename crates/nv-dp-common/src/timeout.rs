//! How long a flow may be idle.

use nv_types::{IdleTimes, IpProto};

use crate::layout::FlowData;
use crate::parse::{FIN, RST, SYN};

const SECOND: u64 = 1_000_000_000;

/// Idle time after which a flow is forgotten, in nanoseconds.
#[must_use]
pub fn idle_ns(times: &IdleTimes, proto: IpProto, flow: &FlowData) -> u64 {
    let seconds = match proto {
        IpProto::TCP => tcp_seconds(times, flow),
        IpProto::UDP => times.udp,
        IpProto::ICMP | IpProto::ICMPV6 => times.icmp,
        IpProto::SCTP => times.sctp,
        _ => times.other,
    };
    u64::from(seconds) * SECOND
}

const fn tcp_seconds(times: &IdleTimes, flow: &FlowData) -> u32 {
    let any = flow.tx_flags | flow.rx_flags;
    let both = flow.tx_flags & flow.rx_flags;
    if any & RST != 0 || both & FIN != 0 {
        times.tcp_closed
    } else if any & FIN != 0 {
        times.tcp_half_closed
    } else if any & SYN != 0 && (flow.tx_flags == 0 || flow.rx_flags == 0) {
        times.tcp_open
    } else {
        times.tcp_active
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::ACK;

    #[test]
    fn a_tcp_flow_is_kept_by_its_state() {
        let times = IdleTimes::default();
        let idle = |tx_flags, rx_flags| {
            let flow = FlowData {
                tx_flags,
                rx_flags,
                ..FlowData::default()
            };
            idle_ns(&times, IpProto::TCP, &flow) / SECOND
        };
        assert_eq!(idle(SYN, 0), 20);
        assert_eq!(idle(SYN | ACK, SYN | ACK), 1200);
        assert_eq!(idle(SYN | ACK | FIN, SYN | ACK), 90);
        assert_eq!(idle(SYN | ACK | FIN, SYN | ACK | FIN), 15);
        assert_eq!(idle(SYN, RST | ACK), 15);
        assert_eq!(idle(ACK, 0), 1200);
    }

    #[test]
    fn other_protocols_have_times_of_their_own_that_can_be_changed() {
        let times = IdleTimes {
            udp: 7,
            ..IdleTimes::default()
        };
        let idle = |proto| idle_ns(&times, proto, &FlowData::default()) / SECOND;
        assert_eq!(idle(IpProto::UDP), 7);
        assert_eq!(idle(IpProto::ICMPV6), 5);
        assert_eq!(idle(IpProto::SCTP), 210);
        assert_eq!(idle(IpProto(47)), 15);
    }
}
