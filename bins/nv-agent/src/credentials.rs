//! Who the agent is: certificate and key from memory, from its folder, or got by joining.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use nv_api::grpc::{JoinRequest, enroll_client::EnrollClient};
use nv_types::NodeId;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity, ServerTlsConfig};

use crate::clock;
use crate::config::Credentials;
use crate::controllers::Controllers;

/// Certificate, key and CA, PEM.
#[derive(Clone)]
pub(crate) struct Pems {
    certificate: String,
    key: String,
    ca: String,
}

impl std::fmt::Debug for Pems {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pems")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

impl Pems {
    /// What the agent shows, joining the controller if it must.
    pub(crate) async fn load(
        credentials: &Credentials,
        folder: &Path,
        node: &NodeId,
        controller: &str,
    ) -> anyhow::Result<Self> {
        match credentials {
            Credentials::Identity {
                certificate_pem,
                key_pem,
                ca_pem,
            } => Ok(Self {
                certificate: certificate_pem.clone(),
                key: key_pem.clone(),
                ca: ca_pem.clone(),
            }),
            Credentials::Folder { join_token_file, ca } => {
                if folder.join("agent.pem").exists() {
                    return Self::read(folder);
                }
                let (Some(token), Some(ca)) = (join_token_file, ca) else {
                    bail!(
                        "this node has no certificate yet: make a token with 'nv-controller --join-token {node}' and name it \
                         with --join-token-file, and the controller's ca.pem with --ca"
                    );
                };
                Self::join(folder, token, ca, node, controller).await
            }
        }
    }

    fn read(folder: &Path) -> anyhow::Result<Self> {
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        Ok(Self {
            certificate: read("agent.pem")?,
            key: read("agent.key")?,
            ca: read("ca.pem")?,
        })
    }

    async fn join(
        folder: &Path,
        token: &Path,
        ca: &Path,
        node: &NodeId,
        controller: &str,
    ) -> anyhow::Result<Self> {
        let read =
            |path: &Path| fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
        let (token, ca) = (read(token)?, read(ca)?);
        let key = rcgen::KeyPair::generate().context("cannot make a key")?;
        let params =
            rcgen::CertificateParams::new(vec![nv_api::AGENT_NAME.to_owned()]).context("signing request")?;
        let csr_pem = params
            .serialize_request(&key)
            .and_then(|csr| csr.pem())
            .context("signing request")?;
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&ca))
            .domain_name(nv_api::CONTROLLER_NAME);
        let controllers = Controllers::new(controller);
        let channel = controllers
            .endpoint(tls)?
            .connect_with_connector(controllers.connector())
            .await
            .map_err(|error| {
                let hint = clock::hint(&error);
                let context = format!("the controller at {controller} does not answer{hint}");
                anyhow::Error::new(error).context(context)
            })?;
        let request = JoinRequest {
            token: token.trim().to_owned(),
            node: node.to_string(),
            csr_pem,
        };
        let reply = EnrollClient::new(channel)
            .join(request)
            .await
            .map_err(|status| anyhow::anyhow!("the controller refused: {}", status.message()))?
            .into_inner();
        let pems = Self {
            certificate: reply.certificate_pem,
            key: key.serialize_pem(),
            ca: reply.ca_pem,
        };
        // The certificate last: it says that all of it is there.
        write(&folder.join("agent.key"), &pems.key, 0o600)?;
        write(&folder.join("ca.pem"), &pems.ca, 0o644)?;
        write(&folder.join("agent.pem"), &pems.certificate, 0o644)?;
        tracing::info!(%node, "joined");
        Ok(pems)
    }

    /// A connection to the controller that is made when it is used, and made again when it is lost.
    pub(crate) fn channel(&self, controller: &str) -> anyhow::Result<Channel> {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.ca))
            .identity(Identity::from_pem(&self.certificate, &self.key))
            .domain_name(nv_api::CONTROLLER_NAME);
        let controllers = Controllers::new(controller);
        let endpoint = controllers.endpoint(tls)?;
        Ok(endpoint.connect_with_connector_lazy(controllers.connector()))
    }

    /// TLS of the agent's own server: only certificates of the CA are let in.
    pub(crate) fn server_tls(&self) -> ServerTlsConfig {
        ServerTlsConfig::new()
            .identity(Identity::from_pem(&self.certificate, &self.key))
            .client_ca_root(Certificate::from_pem(&self.ca))
    }
}

fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path)
        .with_context(|| format!("cannot make {}", path.display()))?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .with_context(|| format!("cannot write {}", path.display()))
}
