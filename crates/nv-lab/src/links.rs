//! Links and addresses, by netlink.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use futures::TryStreamExt as _;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags};
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth};

use crate::namespace::{NETNS_DIR, run_in};
use crate::{HostSpec, LabError};

/// Name of the interface inside a host.
const INSIDE: &str = "eth0";

/// Runs netlink work to its end in the caller's namespace, on a thread of its own: the caller may be inside a runtime already.
fn block_on<T: Send>(
    what: &str,
    work: impl AsyncFnOnce(Handle) -> Result<T, rtnetlink::Error> + Send,
) -> Result<T, LabError> {
    // A new thread is in the namespace of the one that made it.
    std::thread::scope(|scope| scope.spawn(|| block_here(what, work)).join())
        .map_err(|_| LabError::Panicked(what.to_owned()))?
}

fn block_here<T>(
    what: &str,
    work: impl AsyncFnOnce(Handle) -> Result<T, rtnetlink::Error>,
) -> Result<T, LabError> {
    let make = |source| LabError::Make {
        what: what.to_owned(),
        source,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(make)?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(make)?;
        let task = tokio::spawn(connection);
        let done = work(handle).await;
        task.abort();
        done.map_err(|source| LabError::Netlink {
            what: what.to_owned(),
            source: Box::new(source),
        })
    })
}

async fn find(handle: &Handle, name: &str) -> Result<Option<LinkMessage>, rtnetlink::Error> {
    match handle
        .link()
        .get()
        .match_name(name.to_owned())
        .execute()
        .try_next()
        .await
    {
        Ok(link) => Ok(link),
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -nix::libc::ENODEV => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) fn add_bridge(name: &str) -> Result<(), LabError> {
    block_on(&format!("bridge {name}"), async |handle| {
        handle
            .link()
            .add(LinkBridge::new(name).up().build())
            .execute()
            .await
    })
}

/// A veth from the bridge into the host's namespace; gives the index of the end outside.
pub(crate) fn add_host(bridge: &str, outside: &str, spec: &HostSpec) -> Result<u32, LabError> {
    let path = Path::new(NETNS_DIR).join(&spec.name);
    let file = File::open(&path).map_err(|source| LabError::Enter {
        path: path.display().to_string(),
        source,
    })?;
    let inside = format!("{outside}i");
    let index = block_on(&format!("veth {outside}"), async |handle| {
        handle
            .link()
            .add(LinkVeth::new(outside, &inside).build())
            .execute()
            .await?;
        let fd = file.as_raw_fd();
        handle
            .link()
            .set(LinkUnspec::new_with_name(&inside).setns_by_fd(fd).build())
            .execute()
            .await?;
        let bridge = find(&handle, bridge).await?.map_or(0, |link| link.header.index);
        handle
            .link()
            .set(LinkUnspec::new_with_name(outside).controller(bridge).up().build())
            .execute()
            .await?;
        Ok(find(&handle, outside).await?.map_or(0, |link| link.header.index))
    })?;
    let spec = spec.clone();
    run_in(&path, move || {
        block_on(&format!("{INSIDE} of {}", spec.name), async |handle| {
            handle
                .link()
                .set(LinkUnspec::new_with_name("lo").up().build())
                .execute()
                .await?;
            let index = find(&handle, &inside).await?.map_or(0, |link| link.header.index);
            let rename = LinkUnspec::new_with_index(index);
            handle
                .link()
                .set(rename.name(INSIDE.to_owned()).up().build())
                .execute()
                .await?;
            add_address(&handle, index, IpAddr::V4(spec.v4), 24).await?;
            add_address(&handle, index, IpAddr::V6(spec.v6), 64).await
        })
    })??;
    Ok(index)
}

/// An address that can be used at once: IPv6 does not wait for duplicate detection.
async fn add_address(handle: &Handle, index: u32, address: IpAddr, len: u8) -> Result<(), rtnetlink::Error> {
    let mut request = handle.address().add(index, address, len);
    let message = request.message_mut();
    if message.header.family == AddressFamily::Inet6 {
        message.header.flags |= AddressHeaderFlags::Nodad;
        message
            .attributes
            .retain(|attribute| !matches!(attribute, AddressAttribute::Flags(_)));
    }
    request.execute().await
}

/// Removes a link; one that is not there is no error.
pub(crate) fn remove_link(name: &str) -> Result<(), LabError> {
    block_on(&format!("link {name}"), async |handle| {
        match find(&handle, name).await? {
            Some(link) => handle.link().del(link.header.index).execute().await,
            None => Ok(()),
        }
    })
}

/// Removes a bridge and every veth on it.
pub(crate) fn remove_bridge(name: &str) -> Result<(), LabError> {
    block_on(&format!("bridge {name}"), async |handle| {
        let Some(bridge) = find(&handle, name).await? else {
            return Ok(());
        };
        let mut links = handle.link().get().execute();
        let mut ports = Vec::new();
        while let Some(link) = links.try_next().await? {
            let controller = link.attributes.iter().any(|attribute| {
                matches!(attribute, rtnetlink::packet_route::link::LinkAttribute::Controller(index) if *index == bridge.header.index)
            });
            if controller {
                ports.push(link.header.index);
            }
        }
        for port in ports {
            handle.link().del(port).execute().await?;
        }
        handle.link().del(bridge.header.index).execute().await
    })
}

#[cfg(test)]
mod tests {
    use crate::{HostSpec, Lab, NETNS_DIR};
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::path::Path;

    #[test]
    fn hosts_reach_each_other_and_nothing_is_left() {
        if !nix::unistd::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "needs root");
            eprintln!("SKIPPED hosts_reach_each_other_and_nothing_is_left: needs root");
            return;
        }
        let pid = std::process::id() % 100_000;
        let (bridge, a, b) = (format!("lt{pid}"), format!("lt{pid}-a"), format!("lt{pid}-b"));
        let lab = Lab::create(&bridge, &[HostSpec::new(&a, 250, 2), HostSpec::new(&b, 250, 3)]).unwrap();
        for (family, address) in [("v4", "10.221.250.3:80"), ("v6", "[fd00:221:250::3]:80")] {
            let address: std::net::SocketAddr = match family {
                "v4" => address.parse().unwrap(),
                _ => std::net::SocketAddr::new(lab.hosts()[1].spec().v6.into(), 80),
            };
            let listener = lab
                .host(&b)
                .unwrap()
                .run(move || TcpListener::bind(address))
                .unwrap()
                .unwrap();
            let server = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                stream.write_all(b"hello").unwrap();
            });
            let text = lab
                .host(&a)
                .unwrap()
                .run(move || {
                    let mut text = String::new();
                    TcpStream::connect(address)
                        .unwrap()
                        .read_to_string(&mut text)
                        .unwrap();
                    text
                })
                .unwrap();
            assert_eq!(text, "hello", "{family}");
            server.join().unwrap();
        }
        assert!(lab.hosts().iter().all(|host| host.host_index() > 0));
        // A second one by the same name is refused and leaves the first alone.
        assert!(Lab::create(&bridge, &[]).is_err());
        drop(lab);
        assert!(!Path::new(NETNS_DIR).join(&a).exists());
        assert!(!Path::new(&format!("/sys/class/net/{bridge}")).exists());
        assert!(!Path::new(&format!("/sys/class/net/{bridge}-0")).exists());
        Lab::remove_leftovers(&bridge, &[&a, &b]).unwrap();
    }

    #[test]
    fn a_lab_can_be_made_inside_a_runtime() {
        if !nix::unistd::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "needs root");
            eprintln!("SKIPPED a_lab_can_be_made_inside_a_runtime: needs root");
            return;
        }
        let bridge = format!("lr{}", std::process::id() % 100_000);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let lab = Lab::create(&bridge, &[HostSpec::new(format!("{bridge}-a"), 249, 2)]).unwrap();
            assert!(lab.hosts()[0].host_index() > 0);
        });
        assert!(!Path::new(&format!("/sys/class/net/{bridge}")).exists());
    }
}
