//! A containerd of a test's own, with its CRI, CNI plugins and images.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};

use tonic::transport::{Channel, Endpoint};

use super::cri::runtime_service_client::RuntimeServiceClient;
use super::cri::{
    ContainerConfig, ContainerId, ContainerMetadata, CreateContainerRequest, ExecSyncRequest, ImageSpec,
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, ListPodSandboxRequest, NamespaceMode,
    NamespaceOption, PodSandboxConfig, PodSandboxId, PodSandboxMetadata, PortMapping, RunPodSandboxRequest,
};
use super::{
    DockerNetwork, Suite, add_netns, bridge, place, remove_traces, rootfs, run, tail, terminate, wait_until,
};

/// Image of the sandbox and of everything else.
const PAUSE: &str = "localhost/pause:1";
const BASE: &str = "localhost/base:1";
/// Where Debian has the CNI plugins.
const CNI: &str = "/usr/lib/cni";

/// A running containerd. Dropping it removes everything that it made.
#[derive(Debug)]
pub struct TestContainerd {
    tag: String,
    root: PathBuf,
    network: DockerNetwork,
    suite: Suite,
    containerd: Option<Child>,
}

/// A pod to be run.
#[derive(Clone, Debug, Default)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Vec<(String, String)>,
    /// Host and container ports, TCP.
    pub ports: Vec<(u16, u16)>,
    /// It uses the host's network.
    pub host_network: bool,
    /// Its containers may be privileged.
    pub privileged: bool,
}

impl Pod {
    /// A pod of this name, nothing else.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    fn config(&self) -> PodSandboxConfig {
        let network = if self.host_network {
            NamespaceMode::Node
        } else {
            NamespaceMode::Pod
        };
        let mut labels: std::collections::HashMap<String, String> = self.labels.iter().cloned().collect();
        labels.insert("io.kubernetes.pod.name".into(), self.name.clone());
        labels.insert("io.kubernetes.pod.namespace".into(), "prod".into());
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: self.name.clone(),
                uid: format!("uid-{}", self.name),
                namespace: "prod".into(),
                attempt: 0,
            }),
            hostname: if self.host_network {
                String::new()
            } else {
                "pod".into()
            },
            port_mappings: self
                .ports
                .iter()
                .map(|(host, inside)| PortMapping {
                    container_port: i32::from(*inside),
                    host_port: i32::from(*host),
                    ..PortMapping::default()
                })
                .collect(),
            labels,
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: "/nv-test".into(),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(NamespaceOption {
                        network: network.into(),
                    }),
                    privileged: self.privileged,
                }),
            }),
            ..PodSandboxConfig::default()
        }
    }
}

impl TestContainerd {
    /// Starts one and imports the images `localhost/pause:1` and `localhost/base:1`: a static busybox with every applet.
    ///
    /// # Panics
    /// When it does not come up, with the end of its log.
    #[must_use]
    pub fn start_of(suite: Suite, network: DockerNetwork) -> Self {
        let (tag, root, subnet) = place();
        if network == DockerNetwork::OwnNamespace {
            add_netns(&tag);
        }
        write_config(&root, &bridge(&tag), subnet);
        let mut containerd = Self {
            tag,
            root,
            network,
            suite,
            containerd: None,
        };
        containerd.restart();
        containerd.import();
        containerd
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.root.join("c.sock")
    }

    /// Name of the network namespace that it runs in; `None`: the test's.
    #[must_use]
    pub fn netns(&self) -> Option<&str> {
        (self.network == DockerNetwork::OwnNamespace).then_some(&self.tag)
    }

    /// Ends it as a crash does. Containers go on.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.containerd.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn restart(&mut self) {
        self.kill();
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.root.join("containerd.log"))
            .unwrap();
        let child = self
            .suite
            .command_in("containerd", self.netns())
            .arg("--config")
            .arg(self.root.join("c.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("containerd starts");
        self.containerd = Some(child);
        let up = wait_until(|| self.try_ctr("default", &["version"]).status.success());
        assert!(
            up,
            "containerd does not come up: {}",
            tail(&self.root.join("containerd.log"))
        );
    }

    /// Runs `ctr` in a namespace of this containerd and gives what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn ctr(&self, namespace: &str, arguments: &[&str]) -> String {
        let output = self.try_ctr(namespace, arguments);
        assert!(
            output.status.success(),
            "ctr {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// Runs `ctr` in a namespace of this containerd.
    pub fn try_ctr(&self, namespace: &str, arguments: &[&str]) -> Output {
        self.suite
            .command("ctr")
            .arg("--address")
            .arg(self.socket())
            .args(["--namespace", namespace])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("ctr starts")
    }

    /// Starts a task of the base image in the namespace `default`, with a network namespace of its own.
    pub fn run_task(&self, id: &str, options: &[&str], command: &[&str]) {
        let mut arguments = vec!["run", "--detach"];
        arguments.extend(options);
        arguments.extend([BASE, id]);
        arguments.extend(command);
        self.ctr("default", &arguments);
    }

    /// Its CRI.
    ///
    /// # Panics
    /// When nobody is behind the socket.
    pub async fn cri(&self) -> RuntimeServiceClient<Channel> {
        client(&self.socket()).await.expect("containerd's CRI")
    }

    /// Runs a pod and gives its id.
    ///
    /// # Panics
    /// When the CRI refuses.
    pub async fn run_pod(&self, pod: &Pod) -> String {
        let request = RunPodSandboxRequest {
            config: Some(pod.config()),
        };
        let answer = self.cri().await.run_pod_sandbox(request).await;
        answer.expect("a pod").into_inner().pod_sandbox_id
    }

    /// Makes and starts a container in a pod and gives its id.
    ///
    /// # Panics
    /// When the CRI refuses.
    pub async fn run_in_pod(&self, pod: &Pod, sandbox: &str, name: &str, command: &[&str]) -> String {
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: name.to_owned(),
                attempt: 0,
            }),
            image: Some(ImageSpec {
                image: BASE.to_owned(),
                user_specified_image: BASE.to_owned(),
            }),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            labels: [("io.kubernetes.container.name".to_owned(), name.to_owned())].into(),
            ..ContainerConfig::default()
        };
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(pod.config()),
        };
        let mut cri = self.cri().await;
        let made = cri.create_container(request).await.expect("a container");
        let container_id = made.into_inner().container_id;
        let id = ContainerId {
            container_id: container_id.clone(),
        };
        cri.start_container(id).await.expect("a started container");
        container_id
    }

    /// Runs a command in a container and gives its exit code and output.
    ///
    /// # Panics
    /// When the CRI refuses.
    pub async fn exec(&self, container: &str, command: &[&str]) -> (i32, String) {
        let request = ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: command.iter().map(|word| (*word).to_owned()).collect(),
            timeout: 20,
        };
        let answer = self.cri().await.exec_sync(request).await.expect("an exec");
        let answer = answer.into_inner();
        let text = String::from_utf8_lossy(&answer.stdout).into_owned();
        (answer.exit_code, text + &String::from_utf8_lossy(&answer.stderr))
    }

    /// Stops a pod and removes it.
    ///
    /// # Panics
    /// When the CRI refuses.
    pub async fn remove_pod(&self, sandbox: &str) {
        let id = || PodSandboxId {
            pod_sandbox_id: sandbox.to_owned(),
        };
        let mut cri = self.cri().await;
        cri.stop_pod_sandbox(id()).await.expect("a stopped pod");
        cri.remove_pod_sandbox(id()).await.expect("a removed pod");
    }

    fn import(&self) {
        let rootfs = rootfs(&self.root);
        for (name, command) in [(PAUSE, r#"["/bin/sleep","1000000"]"#), (BASE, r#"["/bin/sh"]"#)] {
            let archive = self.root.join("image.tar");
            archive_image(&self.root, &rootfs, name, command, &archive);
            for namespace in ["k8s.io", "default"] {
                self.ctr(namespace, &["images", "import", archive.to_str().unwrap()]);
            }
        }
    }

    /// Pods and tasks, so that no process and no interface is left.
    fn empty(&self) {
        let socket = self.socket();
        let stopped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .ok()?;
            runtime.block_on(async {
                let mut cri = client(&socket).await?;
                let listed = cri
                    .list_pod_sandbox(ListPodSandboxRequest::default())
                    .await
                    .ok()?;
                for pod in listed.into_inner().items {
                    let id = || PodSandboxId {
                        pod_sandbox_id: pod.id.clone(),
                    };
                    cri.stop_pod_sandbox(id()).await.ok()?;
                    cri.remove_pod_sandbox(id()).await.ok()?;
                }
                Some(())
            })
        });
        let _ = stopped.join();
        for namespace in ["default", "k8s.io", "other"] {
            let tasks = self.try_ctr(namespace, &["tasks", "list", "--quiet"]).stdout;
            for task in String::from_utf8_lossy(&tasks).split_whitespace() {
                self.try_ctr(namespace, &["tasks", "rm", "--force", task]);
            }
        }
    }
}

impl Drop for TestContainerd {
    fn drop(&mut self) {
        if self.containerd.is_some() {
            self.empty();
        }
        if let Some(mut child) = self.containerd.take() {
            terminate(&mut child);
        }
        remove_traces(&self.root, &self.tag);
    }
}

async fn client(socket: &Path) -> Option<RuntimeServiceClient<Channel>> {
    let endpoint = Endpoint::try_from(format!("unix://{}", socket.display())).ok()?;
    Some(RuntimeServiceClient::new(endpoint.connect().await.ok()?))
}

fn write_config(root: &Path, bridge: &str, (v4, _): (Ipv4Addr, Ipv6Addr)) {
    let path = |name: &str| root.join(name).display().to_string();
    let config = format!(
        "version = 2\nroot = \"{root}\"\nstate = \"{state}\"\n\
         [grpc]\n  address = \"{socket}\"\n[ttrpc]\n  address = \"{socket}.ttrpc\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = \"{PAUSE}\"\n  restrict_oom_score_adj = true\n\
         [plugins.\"io.containerd.grpc.v1.cri\".cni]\n    bin_dir = \"{CNI}\"\n    conf_dir = \"{cni}\"\n",
        root = path("c-root"),
        state = path("c-state"),
        socket = path("c.sock"),
        cni = path("cni"),
    );
    fs::write(root.join("c.toml"), config).unwrap();
    fs::create_dir_all(root.join("cni")).unwrap();
    let subnet = Ipv4Addr::from(u32::from(v4) & !0xff);
    let network = format!(
        r#"{{"cniVersion":"0.4.0","name":"nv","plugins":[{{"type":"bridge","bridge":"{bridge}","isGateway":true,"ipMasq":false,
        "ipam":{{"type":"host-local","dataDir":"{ipam}","ranges":[[{{"subnet":"{subnet}/24"}}]]}}}}]}}"#,
        ipam = path("ipam"),
    );
    fs::write(root.join("cni/10-nv.conflist"), network).unwrap();
}

/// Writes an archive that `ctr images import` and `docker load` take.
fn archive_image(root: &Path, rootfs: &Path, name: &str, command: &str, archive: &Path) {
    let folder = root.join("image");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    let layer = folder.join("layer.tar");
    run(
        "tar",
        &[
            "-C",
            rootfs.to_str().unwrap(),
            "-cf",
            layer.to_str().unwrap(),
            ".",
        ],
    );
    let sum = run("sha256sum", &[layer.to_str().unwrap()]);
    let digest = sum.split_whitespace().next().unwrap();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","created":"1970-01-01T00:00:00Z","config":{{"Env":["PATH=/bin"],"Cmd":{command}}},
        "rootfs":{{"type":"layers","diff_ids":["sha256:{digest}"]}}}}"#
    );
    fs::write(folder.join("config.json"), config).unwrap();
    let manifest = format!(r#"[{{"Config":"config.json","RepoTags":["{name}"],"Layers":["layer.tar"]}}]"#);
    fs::write(folder.join("manifest.json"), manifest).unwrap();
    let folder = folder.to_str().unwrap();
    let archive = archive.to_str().unwrap();
    run(
        "tar",
        &[
            "-C",
            folder,
            "-cf",
            archive,
            "manifest.json",
            "config.json",
            "layer.tar",
        ],
    );
}
