//! What this node is: addresses, kernel, interfaces, clocks.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use nix::ifaddrs::getifaddrs;
use nix::time::{ClockId, clock_gettime};
use nv_agent_core::{Moment, Steady};
use nv_types::Timestamp;

/// The node's own addresses, loopback and link-local ones left out.
pub(crate) fn addresses() -> Vec<IpAddr> {
    let found = match getifaddrs() {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(%error, "the node's addresses cannot be read");
            return Vec::new();
        }
    };
    let addresses = found.filter_map(|interface| {
        let address = interface.address?;
        let address = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => IpAddr::V4(v4.ip()),
            (_, Some(v6)) => IpAddr::V6(v6.ip()),
            _ => return None,
        };
        is_worth_knowing(address).then_some(address)
    });
    addresses.collect::<BTreeSet<_>>().into_iter().collect()
}

fn is_worth_knowing(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
        IpAddr::V6(v6) => v6 != Ipv6Addr::LOCALHOST && !v6.is_unicast_link_local(),
    }
}

/// Kernel release.
pub(crate) fn kernel() -> String {
    nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Indexes of the interfaces that there are now.
pub(crate) fn interfaces() -> BTreeSet<u32> {
    let found = nix::net::if_::if_nameindex();
    found
        .map(|list| list.iter().map(nix::net::if_::Interface::index).collect())
        .unwrap_or_default()
}

/// Now, on both clocks.
pub(crate) fn moment() -> Moment {
    Moment {
        steady: Steady(nanoseconds(ClockId::CLOCK_MONOTONIC)),
        day: now(),
    }
}

/// The time of day.
pub(crate) fn now() -> Timestamp {
    Timestamp(nanoseconds(ClockId::CLOCK_REALTIME))
}

/// What is added to the monotonic clock to get the time of day.
pub(crate) fn clock_offset() -> u64 {
    nanoseconds(ClockId::CLOCK_REALTIME).saturating_sub(nanoseconds(ClockId::CLOCK_MONOTONIC))
}

fn nanoseconds(clock: ClockId) -> u64 {
    let Ok(time) = clock_gettime(clock) else { return 0 };
    let part = |number: i64| u64::try_from(number).unwrap_or(0);
    part(time.tv_sec()) * 1_000_000_000 + part(time.tv_nsec())
}
