//! What is measured against what, and how each is put in force.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context as _, bail};
use nv_lab::Host;

use crate::nft;
use crate::scenario::Scenario;
use crate::traffic::Ends;

/// A policy in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Variant {
    /// None at all: no program, no table.
    None,
    /// nv, with so many rules, on the host ends of both veths.
    #[allow(dead_code, reason = "measured once the kernel backend is there")]
    Nv(usize),
    /// nftables, with so many rules, in the server's namespace.
    Nftables(usize),
}

impl Variant {
    /// All of them for these numbers of rules.
    pub(super) fn all(rules: &[usize]) -> Vec<Self> {
        let nft = rules.iter().copied().map(Self::Nftables);
        std::iter::once(Self::None).chain(nft).collect()
    }

    /// End of a figure's name.
    pub(super) fn suffix(self) -> String {
        match self {
            Self::None => "no_policy".into(),
            Self::Nv(rules) => format!("{rules}_rules"),
            Self::Nftables(rules) => format!("{rules}_rules_nftables"),
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("no policy"),
            Self::Nv(rules) => write!(f, "nv, {rules} rules"),
            Self::Nftables(rules) => write!(f, "nftables, {rules} rules"),
        }
    }
}

/// Puts variants in force, one at a time.
pub(super) struct Bed {
    ends: Ends,
    rulesets: BTreeMap<usize, String>,
}

impl Bed {
    pub(super) fn new(
        ends: Ends,
        _client: &Host,
        _server: &Host,
        variants: &[Variant],
    ) -> anyhow::Result<Self> {
        let mut rulesets = BTreeMap::new();
        for variant in variants {
            if let Variant::Nftables(rules) = variant {
                if !nft::is_available() {
                    bail!(
                        "nft is not there or may not be used: install nftables, or leave it out with --only nv"
                    );
                }
                rulesets.insert(*rules, Scenario::new(&ends, *rules)?.nftables());
            }
        }
        Ok(Self { ends, rulesets })
    }

    pub(super) fn ends(&self) -> &Ends {
        &self.ends
    }

    pub(super) fn enter(&mut self, variant: Variant) -> anyhow::Result<()> {
        match variant {
            Variant::None | Variant::Nv(_) => Ok(()),
            Variant::Nftables(rules) => nft::load(
                &self.ends.server,
                self.rulesets.get(&rules).context("no such ruleset")?,
            ),
        }
    }

    pub(super) fn leave(&mut self, variant: Variant) -> anyhow::Result<()> {
        match variant {
            Variant::None | Variant::Nv(_) => Ok(()),
            Variant::Nftables(_) => nft::clear(&self.ends.server),
        }
    }

    pub(super) fn close(self) -> anyhow::Result<()> {
        Ok(())
    }
}
