//! What the stores of a cluster share.

use std::time::Duration;

use crate::StoreError;

/// First pause of a follower that lost its server.
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest one: an agent's change must not wait longer for a server that is there again.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How a server is spoken to over TLS. Texts are PEM.
#[derive(Clone, Default)]
pub struct TlsOptions {
    /// CA that the server's certificate must be from; needed for `https`.
    pub ca_pem: Option<String>,
    /// Certificate and private key to show, where the server asks for one.
    pub identity_pem: Option<(String, String)>,
}

impl std::fmt::Debug for TlsOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsOptions")
            .field("ca_pem", &self.ca_pem.is_some())
            .field("identity_pem", &self.identity_pem.is_some())
            .finish()
    }
}

/// Checks what both need: addresses, and a prefix that can stand in a URL.
pub(crate) fn check(endpoints: &[String], prefix: &str, tls: &TlsOptions) -> Result<(), StoreError> {
    let wrong = |detail: String| Err(StoreError::Unavailable { detail });
    if endpoints.is_empty() {
        return wrong("no address of the store's servers is given".into());
    }
    for endpoint in endpoints {
        if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
            return wrong(format!(
                "'{endpoint}' is not http://HOST:PORT or https://HOST:PORT"
            ));
        }
        if endpoint.starts_with("https://") && tls.ca_pem.is_none() {
            return wrong(format!("'{endpoint}' needs the CA that its certificate is from"));
        }
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    if prefix.is_empty() || !prefix.chars().all(plain) || prefix.starts_with('/') || prefix.ends_with('/') {
        return Err(StoreError::InvalidKey {
            key: prefix.to_owned(),
            problem: "as prefix of all keys: letters, digits and -_./ only, no / at its ends",
        });
    }
    Ok(())
}

/// The next pause: twice as long, with some noise, so that not all come back at once.
pub(crate) fn next_pause(pause: Duration) -> Duration {
    let noise = f64::from(u16::try_from(random() % 1000).unwrap_or(0)) / 2000.0;
    pause.mul_f64(1.5 + noise).min(LONGEST_PAUSE)
}

/// A random number; the clock's where there is no randomness.
pub(crate) fn random() -> u64 {
    let mut bytes = [0; 8];
    if getrandom::fill(&mut bytes).is_err() {
        return std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(1, |since| u64::from(since.subsec_nanos()) << 16 ^ since.as_secs());
    }
    u64::from_be_bytes(bytes)
}
