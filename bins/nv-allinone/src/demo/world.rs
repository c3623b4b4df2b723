//! The demo's network: three named namespaces on a bridge, and how they are removed.

use std::fs::{self, File};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;

use futures::TryStreamExt;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::DemoError;
use super::plan::{Plan, Role, V4_LENGTH, V6_LENGTH};

/// The namespaces and the threads that live in them.
#[derive(Debug)]
pub(crate) struct World {
    plan: Plan,
    insides: Vec<Inside>,
}

/// A thread inside a namespace with an async runtime of its own: sockets made on it are sockets of the namespace.
#[derive(Debug)]
struct Inside {
    role: Role,
    runtime: tokio::runtime::Handle,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl World {
    /// Makes everything. What was made is left for [`remove`] when a step fails.
    pub(crate) async fn make(plan: &Plan) -> Result<Self, DemoError> {
        prepare_folder(plan)?;
        let links = connect("the host")?;
        let bridge = plan.bridge();
        let made = links
            .link()
            .add(LinkBridge::new(&bridge).up().build())
            .execute()
            .await;
        made.map_err(|error| network("making the bridge", &bridge, error))?;
        let bridge_index = index_of(&links, &bridge).await?;
        let mut world = Self {
            plan: plan.clone(),
            insides: Vec::new(),
        };
        for role in Role::ALL {
            world.insides.push(Inside::enter_new(plan, role).await?);
            let host_end = plan.host_end(role);
            let index = index_of(&links, &host_end).await?;
            let message = LinkUnspec::new_with_index(index)
                .controller(bridge_index)
                .up()
                .build();
            let set = links.link().set(message).execute().await;
            set.map_err(|error| network("joining to the bridge", &host_end, error))?;
        }
        Ok(world)
    }

    /// Runs a task inside a namespace until it ends or the world does.
    pub(crate) fn spawn<F>(&self, role: Role, task: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        // `make` gives every role its inside.
        let inside = self.insides.iter().find(|inside| inside.role == role);
        match inside {
            Some(inside) => inside.runtime.spawn(task),
            None => tokio::spawn(task),
        }
    }

    /// Ends the threads and removes everything.
    pub(crate) async fn end(mut self) -> Result<(), DemoError> {
        for inside in &mut self.insides {
            inside.stop.cancel();
        }
        for inside in &mut self.insides {
            if let Some(thread) = inside.thread.take() {
                let _ = tokio::task::spawn_blocking(move || thread.join()).await;
            }
        }
        remove(&self.plan).await.map(|_| ())
    }
}

impl Inside {
    async fn enter_new(plan: &Plan, role: Role) -> Result<Self, DemoError> {
        let (sender, ready) = oneshot::channel();
        let stop = CancellationToken::new();
        let (plan, token) = (plan.clone(), stop.clone());
        let what = format!("starting a thread for {}", role.name());
        let thread = std::thread::Builder::new()
            .name(format!("nv-demo-{}", role.name()))
            .spawn(move || match enter(&plan, role) {
                Ok(runtime) => {
                    let _ = sender.send(Ok(runtime.handle().clone()));
                    runtime.block_on(token.cancelled());
                }
                Err(error) => drop(sender.send(Err(error))),
            })
            .map_err(|source| DemoError::Io {
                what: what.clone(),
                source,
            })?;
        let runtime = ready.await.map_err(|_| DemoError::Io {
            what,
            source: std::io::Error::other("the thread ended"),
        })??;
        Ok(Self {
            role,
            runtime,
            stop,
            thread: Some(thread),
        })
    }
}

/// Puts this thread into a new namespace with its interface, and gives the namespace its name last: who sees the name
/// finds it complete.
fn enter(plan: &Plan, role: Role) -> Result<tokio::runtime::Runtime, DemoError> {
    let io = |what: &'static str| {
        move |source| DemoError::Io {
            what: format!("{what} for {}", role.name()),
            source,
        }
    };
    let host = File::open("/proc/thread-self/ns/net").map_err(io("opening the host's namespace"))?;
    unshare(CloneFlags::CLONE_NEWNET).map_err(|error| io("making a network namespace")(error.into()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(io("starting a runtime"))?;
    runtime.block_on(wire(plan, role, host.as_raw_fd()))?;
    let file = plan.namespace_file(role);
    File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&file)
        .map_err(io("naming the namespace"))?;
    mount(
        Some("/proc/thread-self/ns/net"),
        &file,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .map_err(|error| io("naming the namespace")(error.into()))?;
    Ok(runtime)
}

async fn wire(plan: &Plan, role: Role, host: RawFd) -> Result<(), DemoError> {
    let links = connect(role.name())?;
    let host_end = plan.host_end(role);
    let made = links
        .link()
        .add(LinkVeth::new(&host_end, "eth0").build())
        .execute()
        .await;
    made.map_err(|error| network("making the interface pair", &host_end, error))?;
    let eth0 = index_of(&links, "eth0").await?;
    for (address, length) in [
        (IpAddr::V4(role.v4()), V4_LENGTH),
        (IpAddr::V6(role.v6()), V6_LENGTH),
    ] {
        let mut request = links.address().add(eth0, address, length);
        // Nobody else is on this bridge: without the wait for duplicates the address can be used at once.
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        let added = request.execute().await;
        added.map_err(|error| network("adding an address to", role.name(), error))?;
    }
    for name in ["lo", "eth0"] {
        let index = index_of(&links, name).await?;
        let up = links
            .link()
            .set(LinkUnspec::new_with_index(index).up().build())
            .execute()
            .await;
        up.map_err(|error| network("bringing up", name, error))?;
    }
    let index = index_of(&links, &host_end).await?;
    let moved = links
        .link()
        .set(LinkUnspec::new_with_index(index).setns_by_fd(host).build())
        .execute()
        .await;
    moved.map_err(|error| network("moving to the host", &host_end, error))
}

/// Removes whatever a demo of this name has left of its network; the names of what was there.
pub(crate) async fn remove(plan: &Plan) -> Result<Vec<String>, DemoError> {
    let mut removed = Vec::new();
    let links = connect("the host")?;
    let ends = Role::ALL.map(|role| plan.host_end(role));
    for name in ends.iter().chain([&plan.bridge()]) {
        if let Some(index) = find(&links, name).await? {
            let deleted = links.link().del(index).execute().await;
            // An end goes with its pair, which may happen meanwhile.
            if find(&links, name).await? == Some(index) {
                deleted.map_err(|error| network("removing", name, error))?;
            }
            removed.push(format!("interface {name}"));
        }
    }
    for role in Role::ALL {
        let file = plan.namespace_file(role);
        if !file.exists() {
            continue;
        }
        while umount2(&file, MntFlags::MNT_DETACH).is_ok() {}
        fs::remove_file(&file).map_err(|source| DemoError::Io {
            what: format!("removing {}", file.display()),
            source,
        })?;
        removed.push(format!("namespace {}", file.display()));
    }
    Ok(removed)
}

/// Makes the folder of namespaces as `ip netns` does: shared, so that a removal reaches every mount namespace.
fn prepare_folder(plan: &Plan) -> Result<(), DemoError> {
    let file = plan.namespace_file(Role::Web);
    let folder = file.parent().unwrap_or_else(|| Path::new("/run/netns"));
    let failed = |source| DemoError::Io {
        what: format!("preparing {}", folder.display()),
        source,
    };
    fs::create_dir_all(folder).map_err(failed)?;
    let shared = || {
        mount(
            None::<&str>,
            folder,
            None::<&str>,
            MsFlags::MS_SHARED | MsFlags::MS_REC,
            None::<&str>,
        )
    };
    if shared().is_err() {
        mount(
            Some(folder),
            folder,
            None::<&str>,
            MsFlags::MS_BIND | MsFlags::MS_REC,
            None::<&str>,
        )
        .and_then(|()| shared())
        .map_err(|error| failed(error.into()))?;
    }
    Ok(())
}

fn connect(place: &str) -> Result<Handle, DemoError> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(|source| DemoError::Io {
        what: format!("opening a netlink socket in {place}"),
        source,
    })?;
    tokio::spawn(connection);
    Ok(handle)
}

async fn index_of(links: &Handle, name: &str) -> Result<u32, DemoError> {
    find(links, name).await?.ok_or_else(|| DemoError::Network {
        what: "finding the interface",
        name: name.to_owned(),
        detail: "it is not there".to_owned(),
    })
}

async fn find(links: &Handle, name: &str) -> Result<Option<u32>, DemoError> {
    match links
        .link()
        .get()
        .match_name(name.to_owned())
        .execute()
        .try_next()
        .await
    {
        Ok(link) => Ok(link.map(|link| link.header.index)),
        Err(rtnetlink::Error::NetlinkError(message)) if message.raw_code() == -libc::ENODEV => Ok(None),
        Err(error) => Err(network("finding the interface", name, error)),
    }
}

fn network(what: &'static str, name: &str, error: rtnetlink::Error) -> DemoError {
    DemoError::Network {
        what,
        name: name.to_owned(),
        detail: error.to_string(),
    }
}
