//! The internal CA: who a controller and its agents are.

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use nv_policy::{decode, encode};
use nv_store::{CommitOutcome, Expect, KvStore, Txn};
use nv_types::NodeId;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// Name of the controller's own certificate: agents serve captures to it alone.
const CONTROLLER: &str = "controller";
/// Days that the CA is good for.
const CA_DAYS: i64 = 3650;
/// Days that a certificate is good for.
const LEAF_DAYS: i64 = 730;

/// A certificate with its key, PEM, and the CA that it is from.
#[derive(Clone)]
pub struct Identity {
    /// Certificate.
    pub certificate_pem: String,
    /// Private key.
    pub key_pem: String,
    /// CA certificate.
    pub ca_pem: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("certificate_pem", &self.certificate_pem)
            .finish_non_exhaustive()
    }
}

/// Key of the CA that controllers share; no agent may read it.
pub(crate) const SHARED: &str = "ca/identity";

/// Value of `ca/identity`, PEM.
#[derive(Serialize, Deserialize)]
struct Shared {
    certificate: String,
    key: String,
}

/// The CA.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ca").finish_non_exhaustive()
    }
}

impl Ca {
    /// Reads the CA of a data folder, or makes it. The key is its owner's alone; the certificate everybody may read.
    pub(crate) fn open(folder: &Path) -> anyhow::Result<Self> {
        let (cert_path, key_path) = (folder.join("ca.pem"), folder.join("ca.key"));
        match (fs::read_to_string(&cert_path), fs::read_to_string(&key_path)) {
            (Ok(pem), Ok(key)) => {
                let key =
                    KeyPair::from_pem(&key).with_context(|| format!("{} is damaged", key_path.display()))?;
                let issuer = Issuer::from_ca_cert_pem(&pem, key)
                    .with_context(|| format!("{} is damaged", cert_path.display()))?;
                Ok(Self { issuer, pem })
            }
            (Err(a), Err(b)) if is_missing(&a) && is_missing(&b) => Self::create(&cert_path, &key_path),
            (Ok(_), Err(error)) => Err(error).with_context(|| format!("cannot read {}", key_path.display())),
            (Err(error), _) => Err(error).with_context(|| format!("cannot read {}", cert_path.display())),
        }
    }

    /// What stands in a store that controllers share, from a data folder.
    pub(crate) fn entry(folder: &Path) -> anyhow::Result<Vec<u8>> {
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let shared = Shared {
            certificate: read("ca.pem")?,
            key: read("ca.key")?,
        };
        Ok(encode(SHARED, &shared)?)
    }

    /// Puts such an entry into a data folder that has no CA yet; one that has another is left alone.
    pub(crate) fn restore(folder: &Path, entry: &[u8]) -> anyhow::Result<()> {
        let shared: Shared = decode(SHARED, entry)?;
        let (cert_path, key_path) = (folder.join("ca.pem"), folder.join("ca.key"));
        if !cert_path.exists() {
            write_new(&key_path, &shared.key, 0o600)?;
            write_new(&cert_path, &shared.certificate, 0o644)?;
        }
        if Self::open(folder)?.pem != shared.certificate {
            bail!(
                "{} is another CA than the one of the export: agents would trust one of them only; give the store a data folder of its own",
                cert_path.display()
            );
        }
        Ok(())
    }

    fn create(cert_path: &Path, key_path: &Path) -> anyhow::Result<Self> {
        let key = KeyPair::generate().context("cannot make the CA's key")?;
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "nv internal CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (params.not_before, params.not_after) = validity(CA_DAYS)?;
        let pem = params.self_signed(&key).context("cannot make the CA")?.pem();
        // The key first: a certificate without a key would stop the next start.
        write_new(key_path, &key.serialize_pem(), 0o600)?;
        write_new(cert_path, &pem, 0o644)?;
        Ok(Self {
            issuer: Issuer::new(params, key),
            pem,
        })
    }

    /// The CA that all controllers of a store share. The first one makes it; each has a copy in its data folder.
    ///
    /// Whoever may read nv's keys in Consul or etcd may read the CA's key: give nv a token or a user of its own.
    pub(crate) async fn open_shared(folder: &Path, store: &dyn KvStore) -> anyhow::Result<Self> {
        let (cert_path, key_path) = (folder.join("ca.pem"), folder.join("ca.key"));
        let had = cert_path.exists();
        for _ in 0..2 {
            let (found, _) = store.get(SHARED).await?;
            if let Some(found) = found {
                let shared: Shared = decode(SHARED, &found.value)?;
                if !cert_path.exists() {
                    write_new(&key_path, &shared.key, 0o600)?;
                    write_new(&cert_path, &shared.certificate, 0o644)?;
                }
                let ca = Self::open(folder)?;
                if ca.pem != shared.certificate {
                    bail!(
                        "{} is the CA of another cluster than the one in the store: give this controller a data folder of its own",
                        cert_path.display()
                    );
                }
                return Ok(ca);
            }
            let ca = Self::open(folder)?;
            let read = |path: &Path| {
                fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
            };
            let shared = Shared {
                certificate: ca.pem.clone(),
                key: read(&key_path)?,
            };
            let txn = Txn::new()
                .when(SHARED, Expect::Absent)
                .put(SHARED, encode(SHARED, &shared)?);
            if let CommitOutcome::Committed(_) = store.commit(txn).await? {
                return Ok(ca);
            }
            // Another controller was quicker: the one made just now is of no use.
            if !had {
                fs::remove_file(&cert_path)
                    .and_then(|()| fs::remove_file(&key_path))
                    .context("removing an unused CA")?;
            }
        }
        bail!("the store took no CA and has none: is somebody deleting '{SHARED}'?")
    }

    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// The controller's own certificate, for these names and addresses too.
    pub(crate) fn controller(&self, names: &[String]) -> anyhow::Result<Identity> {
        let mut sans = vec![
            nv_api::CONTROLLER_NAME.to_owned(),
            "localhost".into(),
            "127.0.0.1".into(),
            "::1".into(),
        ];
        sans.extend(names.iter().cloned());
        self.issue(CONTROLLER, &sans)
    }

    /// A certificate for a node's agent.
    pub(crate) fn agent(&self, node: &NodeId) -> anyhow::Result<Identity> {
        check_node(node)?;
        self.issue(node.as_str(), &[nv_api::AGENT_NAME.to_owned()])
    }

    fn issue(&self, name: &str, sans: &[String]) -> anyhow::Result<Identity> {
        let key = KeyPair::generate().context("cannot make a key")?;
        let certificate_pem = self.sign(name, sans, &key)?;
        Ok(Identity {
            certificate_pem,
            key_pem: key.serialize_pem(),
            ca_pem: self.pem.clone(),
        })
    }

    /// A certificate for the key of a signing request. Only the key is taken from it: what the certificate says is decided here.
    pub(crate) fn sign_request(&self, node: &NodeId, csr_pem: &str) -> anyhow::Result<String> {
        check_node(node)?;
        let request = CertificateSigningRequestParams::from_pem(csr_pem)
            .context("not a certificate signing request")?;
        self.sign(
            node.as_str(),
            &[nv_api::AGENT_NAME.to_owned()],
            &request.public_key,
        )
    }

    fn sign(&self, name: &str, sans: &[String], key: &impl PublicKeyData) -> anyhow::Result<String> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        for san in sans {
            let san = match san.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(
                    san.as_str()
                        .try_into()
                        .with_context(|| format!("'{san}' is no name"))?,
                ),
            };
            params.subject_alt_names.push(san);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        (params.not_before, params.not_after) = validity(LEAF_DAYS)?;
        Ok(params.signed_by(key, &self.issuer).context("cannot sign")?.pem())
    }
}

/// Refuses a node whose certificate would be as good as the controller's own.
pub(crate) fn check_node(node: &NodeId) -> anyhow::Result<()> {
    if node.as_str() == CONTROLLER {
        bail!("a node cannot be named '{CONTROLLER}': that is the name of the controller's own certificate");
    }
    Ok(())
}

/// From yesterday, for clocks that are a little behind, for so many days.
fn validity(days: i64) -> anyhow::Result<(OffsetDateTime, OffsetDateTime)> {
    let seconds = i64::try_from(crate::engine::now().as_secs()).context("the clock is out of range")?;
    let now = OffsetDateTime::from_unix_timestamp(seconds).context("the clock is out of range")?;
    Ok((now - time::Duration::days(1), now + time::Duration::days(days)))
}

fn is_missing(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound
}

/// Writes a file that must not be there yet.
fn write_new(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .with_context(|| format!("cannot make {}", path.display()))?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Common name of a certificate in DER form.
pub(crate) fn common_name(der: &[u8]) -> anyhow::Result<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).context("not a certificate")?;
    let Some(name) = certificate.subject().iter_common_name().next() else {
        bail!("a certificate without a name")
    };
    Ok(name
        .as_str()
        .context("a certificate's name is no text")?
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn it_is_made_once_and_its_key_is_its_owners() {
        let folder = tempfile::tempdir().unwrap();
        let first = Ca::open(folder.path()).unwrap();
        let mode = fs::metadata(folder.path().join("ca.key"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let second = Ca::open(folder.path()).unwrap();
        assert_eq!(first.pem(), second.pem());
        let identity = second.agent(&"node-1".parse().unwrap()).unwrap();
        let der = x509_parser::pem::parse_x509_pem(identity.certificate_pem.as_bytes())
            .unwrap()
            .1
            .contents;
        assert_eq!(common_name(&der).unwrap(), "node-1");
        fs::remove_file(folder.path().join("ca.key")).unwrap();
        let error = Ca::open(folder.path()).unwrap_err();
        assert!(format!("{error:#}").contains("ca.key"), "{error:#}");
    }

    #[test]
    fn only_the_key_of_a_request_counts() {
        let folder = tempfile::tempdir().unwrap();
        let ca = Ca::open(folder.path()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["controller.nv.internal".into()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "controller");
        let csr = params.serialize_request(&key).unwrap().pem().unwrap();
        let pem = ca.sign_request(&"node-2".parse().unwrap(), &csr).unwrap();
        let der = x509_parser::pem::parse_x509_pem(pem.as_bytes())
            .unwrap()
            .1
            .contents;
        assert_eq!(common_name(&der).unwrap(), "node-2");
        let text = String::from_utf8_lossy(&der).into_owned();
        assert!(
            !text.contains("controller"),
            "a name of the request's own got through"
        );
        assert!(ca.sign_request(&"n".parse().unwrap(), "junk").is_err());
        // An agent with the controller's name could ask every other agent for captures.
        let error = ca.sign_request(&"controller".parse().unwrap(), &csr).unwrap_err();
        assert!(error.to_string().contains("'controller'"), "{error}");
        assert!(ca.agent(&"controller".parse().unwrap()).is_err());
    }
}
