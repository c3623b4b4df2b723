//! The side that has the datapath.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use super::wire::{Answer, Asked, FLOWS, Hello, receive_rest, send};
use crate::{Datapath, DatapathError};

/// How often it is looked whether the server is to stop.
const LOOK: Duration = Duration::from_millis(100);
/// How long a client may take over one message.
const PATIENCE: Duration = Duration::from_secs(30);

/// A socket behind which a datapath is served.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    socket: PathBuf,
    users: BTreeSet<u32>,
    instance: u64,
}

impl Server {
    /// Listens at `socket`. Root, the own user and `user` are let in; the socket is the latter's.
    ///
    /// # Errors
    /// [`DatapathError::Kernel`] when another process listens there, or the socket cannot be made.
    pub fn bind(socket: &Path, user: Option<u32>) -> Result<Self, DatapathError> {
        let failed = |error: &io::Error| DatapathError::Kernel {
            action: format!("listen at {}", socket.display()),
            detail: error.to_string(),
        };
        let listener = listen(socket, user).map_err(|error| failed(&error))?;
        let mut users = BTreeSet::from([0, nix::unistd::geteuid().as_raw()]);
        users.extend(user);
        Ok(Self {
            listener,
            socket: socket.to_owned(),
            users,
            // The standard hasher's keys are random; 0 is nobody.
            instance: RandomState::new().hash_one(socket) | 1,
        })
    }

    /// Serves one client after the other until `stop` is set. Clients come and go, the datapath stays as it is.
    ///
    /// # Errors
    /// When the socket fails for good.
    pub fn serve(&self, datapath: &mut dyn Datapath, stop: &AtomicBool) -> Result<(), DatapathError> {
        while !stop.load(Ordering::Relaxed) {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    if let Err(error) = self.client(&stream, datapath, stop) {
                        tracing::info!(%error, "the datapath's client is gone");
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(LOOK / 4),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(DatapathError::Kernel {
                        action: format!("accept at {}", self.socket.display()),
                        detail: error.to_string(),
                    });
                }
            }
        }
        Ok(())
    }

    fn client(&self, stream: &UnixStream, datapath: &mut dyn Datapath, stop: &AtomicBool) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let user = getsockopt(stream, PeerCredentials)?.uid();
        if !self.users.contains(&user) {
            return Err(io::Error::other(format!(
                "user {user} may not drive the datapath"
            )));
        }
        let hello = Hello::receive(stream)?;
        Hello::new(self.instance).send(stream)?;
        if let Some(problem) = hello.problem() {
            return Err(io::Error::other(problem));
        }
        while let Some(asked) = next(stream, stop)? {
            answer(stream, asked, datapath)?;
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.socket);
    }
}

fn listen(socket: &Path, user: Option<u32>) -> io::Result<UnixListener> {
    if let Some(folder) = socket.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o711).create(folder)?;
    }
    if UnixStream::connect(socket).is_ok() {
        return Err(io::Error::other("another process listens there"));
    }
    match fs::remove_file(socket) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(socket)?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600))?;
    if user.is_some() {
        std::os::unix::fs::chown(socket, user, None)?;
    }
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The next request; `None` when the client is gone or the server is to stop.
fn next(mut stream: &UnixStream, stop: &AtomicBool) -> io::Result<Option<Asked>> {
    stream.set_read_timeout(Some(LOOK))?;
    let mut length = [0; 4];
    loop {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        match stream.read(&mut length[..1]) {
            Ok(0) => return Ok(None),
            Ok(_) => break,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(error),
        }
    }
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.read_exact(&mut length[1..])?;
    receive_rest(stream, length).map(Some)
}

fn answer(stream: &UnixStream, asked: Asked, datapath: &mut dyn Datapath) -> io::Result<()> {
    let done = |()| Answer::Done;
    let answered = match asked {
        Asked::Apply(image, config) => datapath.apply(&image, &config).map(done),
        Asked::Attach(endpoint) => datapath.attach(&endpoint).map(done),
        Asked::Detach(ifindex) => datapath.detach(ifindex).map(done),
        Asked::PollEvents(max) => datapath.poll_events(max as usize).map(Answer::Events),
        Asked::Status => datapath.status().map(|status| Answer::Status(Box::new(status))),
        Asked::Purge => datapath.purge().map(done),
        Asked::Sweep => {
            let mut flows = Vec::new();
            let mut sent = Ok(());
            let swept = datapath.sweep(&mut |flow| {
                flows.push(flow);
                if flows.len() == FLOWS && sent.is_ok() {
                    sent = send(stream, &Answer::Flows(std::mem::take(&mut flows)));
                }
                // A client that is gone takes nothing; the walk goes on, for the table's sake.
                if sent.is_err() {
                    flows.clear();
                }
            });
            sent?;
            if !flows.is_empty() {
                send(stream, &Answer::Flows(flows))?;
            }
            swept.map(done)
        }
    };
    send(
        stream,
        &answered.unwrap_or_else(|error| Answer::Failed(error.into())),
    )
}
