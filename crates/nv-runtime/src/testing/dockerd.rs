//! A dockerd of a test's own, with its own containerd.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};

use super::{
    DockerNetwork, Suite, add_bridge, add_netns, bridge, place, remove_traces, rootfs, run, tail, terminate,
    wait_until,
};

/// A running dockerd. Dropping it removes everything that it made.
#[derive(Debug)]
pub struct TestDockerd {
    tag: String,
    root: PathBuf,
    network: DockerNetwork,
    suite: Suite,
    subnet: (Ipv4Addr, Ipv6Addr),
    containerd: Child,
    dockerd: Option<Child>,
}

impl TestDockerd {
    /// Starts one and imports the image `test/base:1`: a static busybox with every applet.
    ///
    /// # Panics
    /// When it does not come up, with the end of its log.
    #[must_use]
    pub fn start(network: DockerNetwork) -> Self {
        Self::start_of(Suite::System, network)
    }

    /// Starts one of a suite.
    ///
    /// # Panics
    /// As [`TestDockerd::start`].
    #[must_use]
    pub fn start_of(suite: Suite, network: DockerNetwork) -> Self {
        let (tag, root, subnet) = place();
        match network {
            DockerNetwork::OwnNamespace => add_netns(&tag),
            DockerNetwork::CurrentNamespace => add_bridge(&tag, subnet),
        }
        let containerd = start_containerd(suite, &root);
        let mut dockerd = Self {
            tag,
            root,
            network,
            suite,
            subnet,
            containerd,
            dockerd: None,
        };
        dockerd.start_dockerd();
        dockerd.import_base();
        dockerd
    }

    /// The socket of the containerd behind it.
    #[must_use]
    pub fn containerd_socket(&self) -> PathBuf {
        self.root.join("c.sock")
    }

    /// dockerd's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.root.join("docker.sock")
    }

    /// Name of the network namespace that dockerd runs in; `None`: the test's.
    #[must_use]
    pub fn netns(&self) -> Option<&str> {
        (self.network == DockerNetwork::OwnNamespace).then_some(&self.tag)
    }

    /// Addresses of the bridge: containers of [`DockerNetwork::CurrentNamespace`] are in its /24 and /64.
    #[must_use]
    pub fn subnet(&self) -> (Ipv4Addr, Ipv6Addr) {
        self.subnet
    }

    /// Runs `docker` against this dockerd and gives what it printed, without the last line end.
    ///
    /// # Panics
    /// When it fails.
    pub fn docker(&self, arguments: &[&str]) -> String {
        let output = self.try_docker(arguments);
        assert!(
            output.status.success(),
            "docker {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// Runs `docker` against this dockerd.
    pub fn try_docker(&self, arguments: &[&str]) -> Output {
        self.suite
            .command("docker")
            .env("DOCKER_HOST", format!("unix://{}", self.socket().display()))
            .env("DOCKER_CONFIG", self.root.join("client"))
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("docker starts")
    }

    /// Gives the base image another name.
    pub fn image(&self, name: &str) {
        self.docker(&["tag", "test/base:1", name]);
    }

    /// Starts a container in the background and gives its full id. `options` go before the image.
    pub fn run_container(&self, name: &str, image: &str, options: &[&str], command: &[&str]) -> String {
        let mut arguments = vec!["run", "--detach", "--stop-timeout", "1", "--name", name];
        arguments.extend(options);
        arguments.push(image);
        arguments.extend(command);
        self.docker(&arguments)
    }

    /// Runs a command in a container.
    pub fn exec(&self, container: &str, command: &[&str]) -> Output {
        let mut arguments = vec!["exec", container];
        arguments.extend(command);
        self.try_docker(&arguments)
    }

    /// An address of a container, as its namespace has it.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    pub fn address(&self, container: &str, v6: bool) -> String {
        let field = if v6 { "GlobalIPv6Address" } else { "IPAddress" };
        let format = format!("{{{{range .NetworkSettings.Networks}}}}{{{{.{field}}}}}{{{{end}}}}");
        let address = self.docker(&["inspect", "--format", &format, container]);
        assert!(!address.is_empty(), "{container} has no address");
        address
    }

    /// Ends dockerd as a crash does. Containers go on (live-restore).
    pub fn kill(&mut self) {
        if let Some(mut child) = self.dockerd.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends dockerd a signal.
    ///
    /// # Panics
    /// When it does not run.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let child = self.dockerd.as_ref().expect("dockerd runs");
        let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// Starts dockerd again.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn restart(&mut self) {
        self.kill();
        // It would wait for the process with the id in it, which may be somebody else's by now.
        let _ = fs::remove_file(self.root.join("pid"));
        self.start_dockerd();
    }

    fn start_dockerd(&mut self) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.root.join("dockerd.log"))
            .unwrap();
        let mut command = self.suite.command_in("dockerd", self.netns());
        let path = |name: &str| self.root.join(name);
        command
            .arg("--data-root")
            .arg(path("data"))
            .arg("--exec-root")
            .arg(path("exec"))
            .arg("--pidfile")
            .arg(path("pid"))
            .arg("--containerd")
            .arg(path("c.sock"))
            .arg("--host")
            .arg(format!("unix://{}", self.socket().display()))
            .args([
                "--live-restore",
                "--ipv6",
                "--exec-opt",
                "native.cgroupdriver=cgroupfs",
            ]);
        let (v4, v6) = self.subnet;
        let v6_net = format!("{}/64", Ipv6Addr::from(u128::from(v6) & !0xffff));
        command.args(["--fixed-cidr-v6", &v6_net]);
        if self.network == DockerNetwork::CurrentNamespace {
            command.args([
                "--iptables=false",
                "--ip-masq=false",
                "--ip-forward=false",
                "--userland-proxy=false",
            ]);
            command.arg(format!("--bridge={}", bridge(&self.tag)));
            command.arg(format!(
                "--fixed-cidr={}/24",
                Ipv4Addr::from(u32::from(v4) & !0xff)
            ));
        }
        let child = command
            .env_remove("DOCKER_HOST")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("dockerd starts");
        self.dockerd = Some(child);
        let up = wait_until(|| self.try_docker(&["version"]).status.success());
        assert!(
            up,
            "dockerd does not come up: {}",
            tail(&self.root.join("dockerd.log"))
        );
    }

    fn import_base(&self) {
        let rootfs = rootfs(&self.root);
        let tar = self.root.join("base.tar");
        run(
            "tar",
            &["-C", rootfs.to_str().unwrap(), "-cf", tar.to_str().unwrap(), "."],
        );
        self.docker(&[
            "import",
            "--change",
            "CMD [\"/bin/sh\"]",
            "--change",
            "ENV PATH=/bin",
            tar.to_str().unwrap(),
            "test/base:1",
        ]);
    }
}

impl Drop for TestDockerd {
    fn drop(&mut self) {
        let containers = self.try_docker(&["ps", "--all", "--quiet"]);
        let containers = String::from_utf8_lossy(&containers.stdout).into_owned();
        let mut remove = vec!["rm", "--force", "--volumes"];
        remove.extend(containers.split_whitespace());
        if remove.len() > 3 {
            self.try_docker(&remove);
        }
        // dockerd leaves the bridges of its networks where it ran.
        self.try_docker(&["network", "prune", "--force"]);
        if let Some(mut child) = self.dockerd.take() {
            terminate(&mut child);
        }
        terminate(&mut self.containerd);
        remove_traces(&self.root, &self.tag);
    }
}

/// One that outlives dockerd: a killed dockerd would take the one that it starts itself with it, and hang on its next
/// start.
fn start_containerd(suite: Suite, root: &Path) -> Child {
    let path = |name: &str| root.join(name).display().to_string();
    let config = format!(
        "version = 2\nroot = \"{}\"\nstate = \"{}\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
         [grpc]\n  address = \"{}\"\n[ttrpc]\n  address = \"{}\"\n",
        path("c-root"),
        path("c-state"),
        path("c.sock"),
        path("c.sock.ttrpc"),
    );
    fs::write(root.join("c.toml"), config).unwrap();
    let log = fs::File::create(root.join("containerd.log")).unwrap();
    let child = suite
        .command("containerd")
        .arg("--config")
        .arg(root.join("c.toml"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("containerd starts");
    let up = wait_until(|| std::os::unix::net::UnixStream::connect(root.join("c.sock")).is_ok());
    assert!(
        up,
        "containerd does not come up: {}",
        tail(&root.join("containerd.log"))
    );
    child
}
