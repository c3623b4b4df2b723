//! What this node is: addresses, kernel, interfaces, clocks.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use nix::ifaddrs::getifaddrs;
use nix::time::{ClockId, clock_gettime};
use nv_agent_core::{Moment, Steady};
use nv_types::Timestamp;

/// The node's own addresses, loopback and link-local ones left out.
pub(crate) fn addresses() -> Vec<IpAddr> {
    addresses_of(|_| true)
}

/// Those of them that belong to an overlay's tunnels, by what the kernel says of interfaces in this folder.
pub(crate) fn tunnels(interfaces: &Path) -> Vec<IpAddr> {
    addresses_of(|name| is_tunnel(&interfaces.join(name)))
}

/// Whether an interface is a tunnel: VXLAN, Geneve and `WireGuard` name themselves (`DEVTYPE`), IP in IP and GRE have hardware types of
/// their own (`include/uapi/linux/if_arp.h`).
fn is_tunnel(interface: &Path) -> bool {
    let read = |file: &str| std::fs::read_to_string(interface.join(file)).unwrap_or_default();
    let names_itself = |line: &str| {
        let kind = line.strip_prefix("DEVTYPE=");
        kind.is_some_and(|kind| ["vxlan", "geneve", "wireguard"].contains(&kind))
    };
    // ipip, ip6tnl, sit, gre, ip6gre.
    let types = ["768", "769", "776", "778", "823"];
    read("uevent").lines().any(names_itself) || types.contains(&read("type").trim())
}

fn addresses_of(wanted: impl Fn(&str) -> bool) -> Vec<IpAddr> {
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
        (is_worth_knowing(address) && wanted(&interface.interface_name)).then_some(address)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunnels_are_told_from_other_interfaces() {
        let folder = std::env::temp_dir().join(format!("nv-tunnels-{}", std::process::id()));
        let tunnels: Vec<&str> = [
            ("flannel.1", "1", "DEVTYPE=vxlan\nINTERFACE=flannel.1\n"),
            ("wg0", "65534", "DEVTYPE=wireguard\nINTERFACE=wg0\n"),
            ("tunl0", "768", "INTERFACE=tunl0\n"),
            ("eth0", "1", "INTERFACE=eth0\n"),
            ("br0", "1", "DEVTYPE=bridge\nINTERFACE=br0\n"),
        ]
        .into_iter()
        .filter(|(name, kind, event)| {
            let interface = folder.join(name);
            std::fs::create_dir_all(&interface).unwrap();
            std::fs::write(interface.join("type"), kind).unwrap();
            std::fs::write(interface.join("uevent"), event).unwrap();
            is_tunnel(&interface)
        })
        .map(|(name, _, _)| name)
        .collect();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(tunnels, ["flannel.1", "wg0", "tunl0"]);
    }
}
