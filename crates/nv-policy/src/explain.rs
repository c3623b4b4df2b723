//! Why: the rule that decided, and those that nearly did.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use nv_types::{Application, Decision, GroupName, IpProto, Mode, Reason, Rule, RuleId, Tier, Verdict};

use crate::input::PolicyInput;
use crate::party::{Party, Zone};
use crate::reference::evaluate;

/// Most near misses that are listed.
const MAX_NEAR: usize = 20;

/// A flow to explain.
#[derive(Clone, Debug)]
pub struct Query {
    /// Who opens it, with a label for people.
    pub client: (String, Party),
    /// Who is asked, with a label for people.
    pub server: (String, Party),
    /// Protocol.
    pub proto: IpProto,
    /// Server port; 0 for protocols without.
    pub port: u16,
    /// Application; `None` when it is not known: the verdict is then that of an unknown application, and
    /// [`Explanation::alternatives`] says for which applications it differs.
    pub app: Option<Application>,
}

/// Why something was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The verdict, its reason and its rule.
    pub decision: Decision,
    /// The mode that counted; `None`: neither end is managed.
    pub mode: Option<Mode>,
    /// The rule, if one decided.
    pub rule: Option<Rule>,
    /// The client.
    pub client: Side,
    /// The server.
    pub server: Side,
    /// Applications for which the decision would be another; only when none was asked for.
    pub alternatives: Vec<Alternative>,
    /// Earlier rules that one field kept from matching, in order.
    pub near_misses: Vec<NearMiss>,
    /// All of it in plain words.
    pub text: String,
}

/// One end, explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// As it was asked for.
    pub label: String,
    /// Its groups.
    pub groups: Vec<GroupName>,
    /// Its own mode.
    pub mode: Option<Mode>,
    /// Groups that it is in because of a DNS name, with the names.
    pub names: BTreeMap<GroupName, BTreeSet<String>>,
    /// Which side of domains' boundaries it is on.
    pub zone: Zone,
    /// In quarantine, and in whose words.
    pub quarantine: Option<String>,
}

/// What another application would get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alternative {
    /// Applications.
    pub applications: Vec<Application>,
    /// Their decision.
    pub decision: Decision,
}

/// A rule that nearly matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearMiss {
    /// The rule.
    pub rule: Rule,
    /// The one field that did not match.
    pub field: Field,
}

/// What kept a rule from matching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The client is not in its from group.
    From,
    /// The server is not in its to group.
    To,
    /// Another port or protocol.
    Ports,
    /// Another application, or one that is not known.
    Applications,
    /// It is disabled.
    Disabled,
    /// It was learned, and the boundary of a domain lies between the two.
    Boundary,
}

impl Field {
    /// Name as a rule has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::From => "from",
            Self::To => "to",
            Self::Ports => "ports",
            Self::Applications => "applications",
            Self::Disabled => "disable",
            Self::Boundary => "boundary",
        }
    }
}

/// Explains a flow. The decision is [`evaluate`]'s, unless an end is in quarantine: then nothing passes, whatever the policy says.
#[must_use]
pub fn explain(input: &PolicyInput, query: &Query) -> Explanation {
    let (client, server) = (&query.client.1, &query.server.1);
    let app = query.app.unwrap_or(Application::UNKNOWN);
    let at = (query.proto, query.port);
    let (decision, mode) = evaluate(input, client, server, at, app);
    let cut = [client, server]
        .into_iter()
        .filter_map(|party| party.workload.as_ref())
        .any(|id| input.quarantines.contains_key(id));
    // What stays inside of a workload passes no interface.
    let cut = cut && decision.reason != Reason::SameWorkload;
    let decision = if cut {
        Decision::implicit(Verdict::Deny, Reason::Quarantined)
    } else {
        decision
    };
    let rule = (decision.reason == Reason::Rule)
        .then(|| input.rules.iter().find(|rule| rule.id == decision.rule).cloned())
        .flatten();
    let mut explanation = Explanation {
        decision,
        mode,
        rule,
        client: side(input, &query.client),
        server: side(input, &query.server),
        alternatives: if query.app.is_none() && !cut {
            alternatives(input, query, decision)
        } else {
            Vec::new()
        },
        near_misses: near_misses(input, query, decision, app),
        text: String::new(),
    };
    explanation.text = words(query, &explanation);
    explanation
}

fn side(input: &PolicyInput, (label, party): &(String, Party)) -> Side {
    let quarantine = party.workload.as_ref().and_then(|id| input.quarantines.get(id));
    Side {
        quarantine: quarantine.map(|quarantine| quarantine.reason.clone()),
        label: label.clone(),
        groups: party.groups.iter().cloned().collect(),
        mode: party.mode,
        names: party.names.clone(),
        zone: party.zone.clone(),
    }
}

fn alternatives(input: &PolicyInput, query: &Query, unknown: Decision) -> Vec<Alternative> {
    let mut found: Vec<Alternative> = Vec::new();
    for app in Application::all() {
        let (decision, _) = evaluate(
            input,
            &query.client.1,
            &query.server.1,
            (query.proto, query.port),
            app,
        );
        if decision == unknown {
            continue;
        }
        match found
            .iter_mut()
            .find(|alternative| alternative.decision == decision)
        {
            Some(alternative) => alternative.applications.push(app),
            None => found.push(Alternative {
                applications: vec![app],
                decision,
            }),
        }
    }
    found
}

/// Rules before the one that decided that failed in one field only.
fn near_misses(input: &PolicyInput, query: &Query, decision: Decision, app: Application) -> Vec<NearMiss> {
    if !matches!(
        decision.reason,
        Reason::Rule | Reason::Default | Reason::NotPoliced | Reason::Boundary
    ) {
        return Vec::new();
    }
    let icmp_policy = input.settings.icmp_policy;
    let is_apart = query.client.1.zone.is_apart(&query.server.1.zone);
    input
        .ordered_rules()
        .take_while(|rule| decision.rule == RuleId::IMPLICIT || rule.id != decision.rule)
        .filter_map(|rule| {
            let failed = [
                (rule.disable, Field::Disabled),
                (is_apart && rule.tier() == Tier::Learned, Field::Boundary),
                (!query.client.1.groups.contains(&rule.from), Field::From),
                (!query.server.1.groups.contains(&rule.to), Field::To),
                (
                    !rule.ports.matches(query.proto, query.port, icmp_policy),
                    Field::Ports,
                ),
                (
                    !rule.applications.is_empty() && !rule.applications.contains(&app),
                    Field::Applications,
                ),
            ];
            let mut failed = failed
                .into_iter()
                .filter(|(failed, _)| *failed)
                .map(|(_, field)| field);
            match (failed.next(), failed.next()) {
                (Some(field), None) => Some(NearMiss {
                    rule: rule.clone(),
                    field,
                }),
                _ => None,
            }
        })
        .take(MAX_NEAR)
        .collect()
}

fn words(query: &Query, explanation: &Explanation) -> String {
    let mut text = String::new();
    let what = match query.app {
        Some(app) => format!("{} ({app})", port_words(query)),
        None => port_words(query),
    };
    let verdict = match explanation.decision.verdict {
        Verdict::Allow => "ALLOW",
        Verdict::Alert => "ALERT (it passes, a violation is reported)",
        Verdict::Deny => "DENY",
    };
    let _ = writeln!(
        text,
        "{} -> {} {what}: {verdict}",
        explanation.client.label, explanation.server.label
    );
    let _ = writeln!(text, "  because {}", because(explanation));
    for (end, side) in [("from", &explanation.client), ("to  ", &explanation.server)] {
        let groups: Vec<_> = side.groups.iter().map(|group| group_words(side, group)).collect();
        let mode = side.mode.map_or("not managed", Mode::name);
        let _ = writeln!(text, "  {end}  {}: {mode}, in {}", side.label, groups.join(", "));
        if let Zone::Within(domain) = &side.zone {
            let _ = writeln!(text, "        within the boundary of domain '{domain}'");
        }
    }
    for alternative in &explanation.alternatives {
        let apps: Vec<_> = alternative.applications.iter().map(|app| app.name()).collect();
        let shown = if apps.len() > 8 {
            "any known application".to_owned()
        } else {
            apps.join(", ")
        };
        let _ = writeln!(
            text,
            "  as {shown} it would be: {}",
            decision_words(alternative.decision)
        );
    }
    for near in &explanation.near_misses {
        let rule = rule_words(&near.rule);
        let _ = match near.field {
            Field::Boundary => writeln!(
                text,
                "  near miss: {rule}; it matches, but what was learned does not count across a domain's boundary"
            ),
            field => writeln!(text, "  near miss: {rule}; all but '{}' match", field.name()),
        };
    }
    text
}

fn group_words(side: &Side, group: &GroupName) -> String {
    match side.names.get(group) {
        Some(names) => {
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            format!("{group} (by name {})", names.join(", "))
        }
        None => group.to_string(),
    }
}

fn port_words(query: &Query) -> String {
    if query.proto.has_ports() {
        format!("{}/{}", query.proto, query.port)
    } else {
        query.proto.for_policy().to_string()
    }
}

fn decision_words(decision: Decision) -> String {
    match decision.reason {
        Reason::Rule => format!("{} by rule {}", decision.verdict, decision.rule),
        reason => format!("{} ({reason})", decision.verdict),
    }
}

fn quarantine_words(explanation: &Explanation) -> String {
    let ends = [&explanation.client, &explanation.server];
    let cut = ends.into_iter().filter_map(|side| {
        let reason = side.quarantine.as_ref()?;
        Some(if reason.is_empty() {
            side.label.clone()
        } else {
            format!("{} ({reason})", side.label)
        })
    });
    let cut: Vec<_> = cut.collect();
    format!(
        "in quarantine: {}; nothing but address resolution passes there",
        cut.join(", ")
    )
}

fn because(explanation: &Explanation) -> String {
    let mode = explanation.mode.map_or("no mode", Mode::name);
    match (&explanation.rule, explanation.decision.reason) {
        (Some(rule), _) => match explanation.decision.verdict {
            Verdict::Alert => format!("{} denies it, and the mode {mode} only reports", rule_words(rule)),
            Verdict::Allow | Verdict::Deny => rule_words(rule),
        },
        (None, Reason::SameWorkload) => "both ends are the same workload".to_owned(),
        (None, Reason::Quarantined) => quarantine_words(explanation),
        (None, Reason::Unmanaged) => "neither end is managed".to_owned(),
        (None, Reason::NotPoliced) => {
            "ICMP is not policed (setting icmp_policy is off) and no rule speaks of it".to_owned()
        }
        (None, Reason::Boundary) => match explanation.decision.verdict {
            Verdict::Deny => format!(
                "a domain's boundary lies between them, no rule but learned ones allows it, and the mode {mode} lets only what a rule allows pass"
            ),
            Verdict::Allow | Verdict::Alert => format!(
                "a domain's boundary lies between them, no rule but learned ones allows it, and the mode {mode} lets it pass and reports it"
            ),
        },
        (None, _) => match explanation.decision.verdict {
            Verdict::Allow => format!("no rule matches, and the mode {mode} lets it pass and learns from it"),
            Verdict::Alert => format!("no rule matches, and the mode {mode} lets it pass and reports it"),
            Verdict::Deny => {
                format!("no rule matches, and the mode {mode} lets only what a rule allows pass")
            }
        },
    }
}

fn rule_words(rule: &Rule) -> String {
    let apps: Vec<_> = rule.applications.iter().map(|app| app.name()).collect();
    let apps = if apps.is_empty() {
        String::new()
    } else {
        format!(" as {}", apps.join(","))
    };
    format!(
        "rule {} ({}): {} {} -> {} {}{apps}",
        rule.id,
        rule.tier().cfg_type(),
        rule.action,
        rule.from,
        rule.to,
        rule.ports
    )
}
