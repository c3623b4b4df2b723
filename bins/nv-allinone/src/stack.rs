//! Controller and agent in this process.

use anyhow::bail;

use crate::demo::plan::Plan;

/// Running controller and agent.
#[derive(Debug)]
pub(crate) struct Stack {
    server: String,
    ca: Vec<u8>,
    password: String,
}

impl Stack {
    pub(crate) async fn for_demo(_plan: &Plan) -> anyhow::Result<Self> {
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        bail!("not there yet")
    }
    pub(crate) fn server(&self) -> String {
        self.server.clone()
    }
    pub(crate) fn ca(&self) -> &[u8] {
        &self.ca
    }
    pub(crate) fn user(&self) -> &str {
        "admin"
    }
    pub(crate) fn password(&self) -> &str {
        &self.password
    }
    pub(crate) async fn stop(self) {}
}

pub(crate) fn purge(_instance: &str) -> anyhow::Result<Vec<String>> {
    Ok(vec![])
}
