//! The meaning of a policy: the naive ordered walk. Slow, short, and what everything else is held to.

use nv_types::{Application, Decision, IpProto, Mode, Reason, Tier, Verdict, effective_mode, judge};

use crate::input::PolicyInput;
use crate::party::Party;

/// What becomes of a flow from `client` to `server`, to this protocol and port, of this application, and the mode that
/// counted (`None`: neither end is managed).
#[must_use]
pub fn evaluate(
    input: &PolicyInput,
    client: &Party,
    server: &Party,
    (proto, port): (IpProto, u16),
    app: Application,
) -> (Decision, Option<Mode>) {
    if client.workload.is_some() && client.workload == server.workload {
        return (
            Decision::implicit(Verdict::Allow, Reason::SameWorkload),
            client.mode,
        );
    }
    let Some(mode) = effective_mode(client.mode, server.mode, input.settings.contention) else {
        return (Decision::implicit(Verdict::Allow, Reason::Unmanaged), None);
    };
    let icmp_policy = input.settings.icmp_policy;
    // Across the boundary of a domain what was learned does not count.
    let is_apart = client.zone.is_apart(&server.zone);
    let found = input.ordered_rules().find(|rule| {
        let counts = !is_apart || rule.tier() != Tier::Learned;
        !rule.disable
            && counts
            && client.groups.contains(&rule.from)
            && server.groups.contains(&rule.to)
            && rule.ports.matches(proto, port, icmp_policy)
            && (rule.applications.is_empty() || rule.applications.contains(&app))
    });
    let decision = match found {
        Some(rule) => Decision {
            verdict: judge(Some(rule.action), mode),
            reason: Reason::Rule,
            rule: rule.id,
        },
        None if proto.for_policy() == IpProto::ICMP && !icmp_policy => {
            Decision::implicit(Verdict::Allow, Reason::NotPoliced)
        }
        None if is_apart => Decision::implicit(beyond(mode), Reason::Boundary),
        None => Decision::implicit(judge(None, mode), Reason::Default),
    };
    (decision, Some(mode))
}

/// What a mode makes of a flow across the boundary of a domain that no rule speaks of: it is reported in Discover, too, and so not
/// learned.
pub(crate) const fn beyond(mode: Mode) -> Verdict {
    match mode {
        Mode::Discover | Mode::Monitor => Verdict::Alert,
        Mode::Protect => Verdict::Deny,
    }
}
