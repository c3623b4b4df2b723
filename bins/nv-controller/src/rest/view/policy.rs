//! Groups, rules, services.

use nv_api::rest;
use nv_controller_core::Controller;
use nv_policy::group_problems;
use nv_types::{GroupName, Workload, reserved};

use super::{can_be_cut, can_sniff, mode, seconds, state};

fn member(core: &Controller, workload: &Workload) -> rest::Member {
    rest::Member {
        id: workload.id.to_string(),
        name: workload.name.clone(),
        display_name: workload.name.clone(),
        image: workload.image.clone(),
        domain: workload.domain.clone(),
        state: state(core, workload),
        service: workload.service.clone(),
        service_group: workload.service_group().map(String::from).unwrap_or_default(),
        policy_mode: mode(core, workload),
        cap_sniff: can_sniff(workload),
        cap_quarantine: can_be_cut(workload),
        cap_change_mode: true,
        privileged: workload.privileged,
    }
}

/// A group with its rules.
pub(crate) fn group_detail(core: &Controller, name: &str) -> Option<rest::GroupDetail> {
    let found = groups(core).into_iter().find(|group| group.name == name)?;
    let rules = core.input().ordered_rules();
    Some(rest::GroupDetail {
        name: found.name,
        comment: found.comment,
        learned: found.learned,
        reserved: found.reserved,
        policy_mode: found.policy_mode,
        domain: found.domain,
        creater_domains: found.creater_domains,
        kind: found.kind,
        platform_role: found.platform_role,
        cfg_type: found.cfg_type,
        cap_change_mode: found.cap_change_mode,
        criteria: found.criteria,
        members: found.members,
        policy_rules: rules
            .filter(|rule| rule.from.as_str() == name || rule.to.as_str() == name)
            .map(|found| rule(core, found))
            .collect(),
        response_rules: found.response_rules,
        diagnostics: found.diagnostics,
    })
}

/// All groups, the reserved ones first.
pub(crate) fn groups(core: &Controller) -> Vec<rest::Group> {
    let members = core.members();
    let input = core.input();
    let rules_of = |name: &str| -> Vec<u32> {
        input
            .ordered_rules()
            .filter(|rule| rule.from.as_str() == name || rule.to.as_str() == name)
            .map(|rule| rule.id.0)
            .collect()
    };
    let members_of = |name: &str| -> Vec<rest::Member> {
        members
            .get(name)
            .into_iter()
            .flatten()
            .map(|workload| member(core, workload))
            .collect()
    };
    let mut groups: Vec<rest::Group> = reserved::ALL
        .iter()
        .map(|name| rest::Group {
            name: (*name).to_owned(),
            comment: String::new(),
            learned: false,
            reserved: true,
            policy_mode: (*name == reserved::NODES)
                .then(|| input.modes.get(*name).map(ToString::to_string))
                .flatten(),
            domain: String::new(),
            creater_domains: Vec::new(),
            kind: match *name {
                reserved::CONTAINERS => "container",
                reserved::NODES => "node",
                reserved::INGRESS => "ip_service",
                _ => "external",
            }
            .into(),
            platform_role: String::new(),
            cfg_type: "system_defined".into(),
            cap_change_mode: *name == reserved::NODES,
            criteria: Vec::new(),
            members: members_of(name),
            policy_rules: rules_of(name),
            response_rules: Vec::new(),
            diagnostics: Vec::new(),
        })
        .collect();
    groups.extend(input.groups.values().map(|group| {
        rest::Group {
            name: group.name.to_string(),
            comment: group.comment.clone(),
            learned: group.origin == Some(nv_types::Tier::Learned),
            reserved: false,
            policy_mode: group
                .is_service()
                .then(|| input.service_mode(&group.name).to_string()),
            domain: group.domain.clone(),
            creater_domains: Vec::new(),
            kind: kind(group.kind).into(),
            platform_role: String::new(),
            cfg_type: group
                .origin
                .map_or("system_defined", nv_types::Tier::cfg_type)
                .into(),
            cap_change_mode: group.has_mode(),
            criteria: group
                .criteria
                .iter()
                .map(|criterion| rest::Criterion {
                    key: criterion.key.clone(),
                    value: criterion.value.clone(),
                    op: criterion.op.as_str().into(),
                })
                .collect(),
            members: members_of(group.name.as_str()),
            policy_rules: rules_of(group.name.as_str()),
            response_rules: Vec::new(),
            diagnostics: group_problems(group, input),
        }
    }));
    groups
}

const fn kind(kind: nv_types::GroupKind) -> &'static str {
    match kind {
        nv_types::GroupKind::Container => "container",
        nv_types::GroupKind::Address => "address",
        nv_types::GroupKind::IpService => "ip_service",
        nv_types::GroupKind::External => "external",
        nv_types::GroupKind::Node => "node",
    }
}

pub(crate) fn rule(core: &Controller, rule: &nv_types::Rule) -> rest::Rule {
    let hits = core.hits(rule.id);
    let sides = [("from", &rule.from), ("to", &rule.to)];
    let groups = &core.input().groups;
    let diagnostics = sides.into_iter().flat_map(|(side, name)| {
        let problems = groups
            .get(name)
            .map(|group| group_problems(group, core.input()))
            .unwrap_or_default();
        problems
            .into_iter()
            .map(move |problem| format!("{side}: group '{name}': {problem}"))
    });
    let applications = if rule.applications.is_empty() {
        vec!["any".to_owned()]
    } else {
        rule.applications
            .iter()
            .map(|app| app.name().to_owned())
            .collect()
    };
    rest::Rule {
        id: rule.id.0,
        comment: rule.comment.clone(),
        from: rule.from.to_string(),
        to: rule.to.to_string(),
        ports: rule.ports.to_string(),
        action: rule.action.to_string(),
        applications,
        learned: rule.tier() == nv_types::Tier::Learned,
        disable: rule.disable,
        created_timestamp: seconds(rule.created),
        last_modified_timestamp: seconds(rule.modified),
        cfg_type: rule.tier().cfg_type().into(),
        priority: 0,
        match_counter: hits.count,
        last_match_timestamp: seconds(hits.last),
        diagnostics: diagnostics.collect(),
    }
}

pub(crate) fn service(core: &Controller, name: &GroupName, members: &[&Workload]) -> rest::Service {
    let input = core.input();
    let group = input.groups.get(name);
    rest::Service {
        name: name.to_string(),
        comment: group.map(|group| group.comment.clone()).unwrap_or_default(),
        policy_mode: input.service_mode(name).to_string(),
        domain: group.map(|group| group.domain.clone()).unwrap_or_default(),
        platform_role: String::new(),
        members: members.iter().map(|workload| member(core, workload)).collect(),
        policy_rules: input
            .ordered_rules()
            .filter(|rule| rule.from == *name || rule.to == *name)
            .map(|found| rule(core, found))
            .collect(),
        response_rules: Vec::new(),
        cap_change_mode: true,
    }
}
