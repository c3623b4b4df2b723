//! The meaning of a policy: the naive ordered walk. Slow, short, and what everything else is held to.

use nv_types::{Application, Decision, IpProto, Mode, Reason, Verdict, effective_mode, judge};

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
    let found = input.ordered_rules().find(|rule| {
        !rule.disable
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
        None => Decision::implicit(judge(None, mode), Reason::Default),
    };
    (decision, Some(mode))
}
