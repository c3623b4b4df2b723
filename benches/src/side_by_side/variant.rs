//! What is measured against what, and how each is put in force.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context as _, bail, ensure};
use nv_lab::Host;

use crate::nft;
use crate::scenario::Scenario;
use crate::traffic::{self, Ends};

use super::nv::Nv;

/// A policy in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Variant {
    /// None at all: no program, no table.
    None,
    /// nv, with so many rules, on the host ends of both veths.
    Nv(usize),
    /// nftables, with so many rules, in the server's namespace.
    Nftables(usize),
    /// The same in verdict maps, as who knows nftables well writes it.
    NftablesMaps(usize),
}

impl Variant {
    /// All of them for these numbers of rules.
    pub(crate) fn all(rules: &[usize]) -> Vec<Self> {
        let nv = rules.iter().copied().map(Self::Nv);
        let nft = rules.iter().copied().map(Self::Nftables);
        std::iter::once(Self::None).chain(nv).chain(nft).collect()
    }

    /// End of a figure's name.
    pub(crate) fn suffix(self) -> String {
        match self {
            Self::None => "no_policy".into(),
            Self::Nv(rules) => format!("{rules}_rules"),
            Self::Nftables(rules) => format!("{rules}_rules_nftables"),
            Self::NftablesMaps(rules) => format!("{rules}_rules_nftables_maps"),
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("no policy"),
            Self::Nv(rules) => write!(f, "nv, {rules} rules"),
            Self::Nftables(rules) => write!(f, "nftables, {rules} rules"),
            Self::NftablesMaps(rules) => write!(f, "nftables with maps, {rules} rules"),
        }
    }
}

/// Puts variants in force, one at a time.
pub(crate) struct Bed {
    ends: Ends,
    rulesets: BTreeMap<Variant, String>,
    nv: Option<Nv>,
    /// There are nftables rules in the server's namespace.
    filtered: bool,
}

impl Bed {
    pub(crate) fn new(
        ends: Ends,
        client: &Host,
        server: &Host,
        variants: &[Variant],
    ) -> anyhow::Result<Self> {
        let mut rulesets = BTreeMap::new();
        let mut compiled = Vec::new();
        for variant in variants {
            match variant {
                Variant::None => {}
                Variant::Nv(rules) => compiled.push(*rules),
                Variant::Nftables(_) | Variant::NftablesMaps(_) if !nft::is_available() => {
                    bail!(
                        "nft is not there or may not be used: install nftables, or leave it out with --only nv"
                    );
                }
                Variant::Nftables(rules) => {
                    rulesets.insert(*variant, Scenario::new(&ends, *rules)?.nftables());
                }
                Variant::NftablesMaps(rules) => {
                    rulesets.insert(*variant, Scenario::new(&ends, *rules)?.nftables_maps());
                }
            }
        }
        let nv = if compiled.is_empty() {
            None
        } else {
            Some(Nv::new(&ends, client, server, &compiled)?)
        };
        Ok(Self {
            ends,
            rulesets,
            nv,
            filtered: false,
        })
    }

    pub(crate) fn ends(&self) -> &Ends {
        &self.ends
    }

    /// Puts a variant in force in place of the one before and makes sure that it is: a port of no rule must be closed, or
    /// open without policy. From nv to nv only the policy is changed, as in an agent's life.
    pub(crate) fn enter(&mut self, variant: Variant) -> anyhow::Result<()> {
        let by_nftables = matches!(variant, Variant::Nftables(_) | Variant::NftablesMaps(_));
        if !by_nftables && self.filtered {
            nft::clear(&self.ends.server)?;
            self.filtered = false;
        }
        match (variant, &mut self.nv) {
            (Variant::Nv(rules), Some(nv)) => nv.enter(rules)?,
            (Variant::Nv(_), None) => bail!("nv is not set up"),
            (_, Some(nv)) => nv.leave()?,
            (_, None) => {}
        }
        if by_nftables {
            nft::load(
                &self.ends.server,
                self.rulesets.get(&variant).context("no such ruleset")?,
            )?;
            self.filtered = true;
        }
        let open = traffic::is_open(&self.ends)?;
        ensure!(
            open == (variant == Variant::None),
            "a port of no rule is {}",
            if open { "open" } else { "closed" }
        );
        Ok(())
    }

    /// Leaves nothing behind.
    pub(crate) fn close(self) -> anyhow::Result<()> {
        self.nv.map_or(Ok(()), Nv::close)
    }
}
