//! The policy of this node as it was compiled last; the next one is made of the difference.

use nv_policy::{Change, Compiler, Diagnostic, PolicyInput};
use nv_types::{Mode, NodeId, PolicyImage, Revision, UnknownEndpoint, Verdict};

use crate::io::{Facts, Switches};

/// A compiled policy and what it was made of.
#[derive(Debug)]
pub(crate) struct Compiled {
    compiler: Compiler,
    input: PolicyInput,
}

impl Compiled {
    pub(crate) fn new(input: PolicyInput, node: &NodeId, revision: Revision) -> Self {
        let compiler = Compiler::new(&input, node, revision);
        Self { compiler, input }
    }

    pub(crate) fn update(mut self, input: PolicyInput, revision: Revision) -> Self {
        let changes = Change::between(&self.input, &input);
        self.compiler.update(&input, &changes, revision);
        self.input = input;
        self
    }

    pub(crate) fn image(&self) -> PolicyImage {
        self.compiler.image()
    }

    pub(crate) const fn input(&self) -> &PolicyInput {
        &self.input
    }

    /// What the datapath is told beside the tables.
    pub(crate) fn switches(&self, facts: &Facts, names: bool) -> Switches {
        let settings = &self.input.settings;
        let protects = || {
            let modes = self.input.modes.values().copied();
            modes
                .chain(settings.network_mode)
                .any(|mode| mode == Mode::Protect)
        };
        let unknown = match settings.unknown_endpoint {
            UnknownEndpoint::Deny => Verdict::Deny,
            UnknownEndpoint::Allow => Verdict::Allow,
            UnknownEndpoint::Auto if protects() => Verdict::Deny,
            UnknownEndpoint::Auto => Verdict::Allow,
        };
        Switches {
            unknown,
            failsafe_ports: settings.failsafe_ports.iter().map(|port| port.0).collect(),
            failsafe_addresses: facts.addresses.clone(),
            deny_response: settings.deny_response,
            idle: settings.idle,
            flow_share: settings.flow_share,
            names,
        }
    }

    /// Rules that tables cannot express, in words: each is left out, all others are in force.
    pub(crate) fn refused(&self) -> Option<String> {
        let refused: Vec<_> = self
            .compiler
            .diagnostics()
            .into_iter()
            .filter(|diagnostic| matches!(diagnostic, Diagnostic::Refused { .. }))
            .map(|diagnostic| diagnostic.to_string())
            .collect();
        (!refused.is_empty()).then(|| refused.join("; "))
    }
}
