//! From NeuVector's custom resources.

use std::collections::{BTreeMap, BTreeSet};

use nv_types::{
    Action, Application, Criterion, CriterionOp, Group, GroupKind, GroupName, Mode, PortSet, Rule, Tier,
    reserved, service_group_name,
};

use super::{differences, is_literal, is_service_value, only_domain};
use crate::interchange::cursor::{At, Fields, Notes, Problem};
use crate::interchange::note::{Note, Reason, Severity};
use crate::interchange::{Meta, plain_rule};
use crate::validate::{validate_group, validate_rule};

/// Groups, rules and modes of all objects so far.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    groups: BTreeMap<GroupName, Group>,
    /// Groups that must be there already, with the first place that names them.
    referred: BTreeMap<GroupName, Note>,
    rules: Vec<(u32, Rule)>,
    modes: BTreeMap<GroupName, Mode>,
}

/// What one object adds, if it is not refused.
#[derive(Default)]
struct Stage {
    groups: BTreeMap<GroupName, Group>,
    referred: BTreeMap<GroupName, Note>,
    rules: Vec<(u32, Rule)>,
    mode: Option<(GroupName, Mode)>,
}

impl Reader {
    pub(crate) fn object(
        &mut self,
        fields: &mut Fields<'_>,
        meta: &Meta,
        notes: &mut Notes<'_>,
    ) -> Result<(), Problem> {
        let spec = fields.need("spec")?;
        let mut body = spec.fields()?;
        let mut stage = Stage::default();
        if meta.kind == "NvGroupDefinition" {
            let selector = body.need("selector")?;
            self.group(&selector, &mut stage, notes)?;
        } else {
            self.security_rule(&mut body, meta, &mut stage, notes)?;
        }
        body.finish(notes);
        if let Some((group, mode)) = &stage.mode
            && let Some(other) = self.modes.get(group).filter(|other| *other != mode)
        {
            let text = format!("the mode of '{group}' is {other} in an object before this one");
            return Err(spec.problem(Reason::Conflict(text)));
        }
        for (name, group) in stage.groups {
            let place = self.groups.entry(name).or_insert_with(|| group.clone());
            if place.comment.is_empty() {
                place.comment = group.comment;
            }
        }
        self.referred.extend(stage.referred);
        self.rules.extend(stage.rules);
        self.modes.extend(stage.mode);
        Ok(())
    }

    fn security_rule(
        &mut self,
        body: &mut Fields<'_>,
        meta: &Meta,
        stage: &mut Stage,
        notes: &mut Notes<'_>,
    ) -> Result<(), Problem> {
        let target_at = body.need("target")?;
        let mut target = target_at.fields()?;
        let selector = target.need("selector")?;
        let group = self.group(&selector, stage, notes)?;
        if meta.kind == "NvSecurityRule" {
            self.check_namespace(&group, meta, &selector, stage)?;
        }
        if let Some(at) = target.take("policymode") {
            self.mode(&at, &group, stage, notes)?;
        }
        target.finish(notes);
        let mut names = BTreeSet::new();
        for (direction, is_ingress) in [("ingress", true), ("egress", false)] {
            let Some(list) = body.take(direction) else {
                continue;
            };
            for item in list.items()? {
                let rule = self.rule(&item, &group, is_ingress, stage, &mut names, notes)?;
                stage.rules.push(rule);
            }
        }
        body.leave(
            &["process", "process_profile"],
            "process profiles are not part of network policy",
            notes,
        );
        body.leave(&["file"], "file rules are not part of network policy", notes);
        body.leave(
            &["response"],
            "response rules are not part of network policy",
            notes,
        );
        for sensor in ["dlp", "waf"] {
            if let Some(at) = body.take(sensor) {
                let mut fields = at.fields()?;
                fields.leave(
                    &["settings"],
                    "data-loss and web-attack sensors are not there",
                    notes,
                );
                fields.ignore(&["status"]);
                fields.finish(notes);
            }
        }
        Ok(())
    }

    /// A group of workloads or addresses, or one that is known by name.
    fn known<'a>(&'a self, name: &GroupName, stage: &'a Stage) -> Option<&'a Group> {
        stage.groups.get(name).or_else(|| self.groups.get(name))
    }

    fn check_namespace(
        &self,
        target: &GroupName,
        meta: &Meta,
        at: &At<'_>,
        stage: &Stage,
    ) -> Result<(), Problem> {
        let Some(namespace) = &meta.namespace else {
            return Ok(());
        };
        let domain = match self.known(target, stage) {
            Some(group) => only_domain(&group.criteria),
            None if reserved::ALL.contains(&target.as_str()) => None,
            None => return Ok(()),
        };
        if domain == Some(namespace) {
            return Ok(());
        }
        Err(at.invalid(format!(
            "the target '{target}' is not of the object's namespace '{namespace}'; other targets need NvClusterSecurityRule"
        )))
    }

    fn mode(
        &self,
        at: &At<'_>,
        group: &GroupName,
        stage: &mut Stage,
        notes: &mut Notes<'_>,
    ) -> Result<(), Problem> {
        let text = at.text()?;
        if matches!(text, "" | "N/A") {
            return Ok(());
        }
        let mode: Mode = text.parse().map_err(|error| at.invalid(error))?;
        let is_service = group.as_str().starts_with("nv.");
        if !is_service && group.as_str() != reserved::NODES {
            notes.lost(
                at,
                Reason::NotCarried("only services (nv.*) and 'nodes' have a mode"),
            );
            return Ok(());
        }
        if mode == Mode::Protect {
            notes.changed(at, "NeuVector lets link-local addresses (169.254.0.0/16) pass, and ICMP unless told otherwise; in Protect both need an allow rule here");
        }
        stage.mode = Some((group.clone(), mode));
        Ok(())
    }

    fn rule(
        &self,
        at: &At<'_>,
        target: &GroupName,
        is_ingress: bool,
        stage: &mut Stage,
        names: &mut BTreeSet<String>,
        notes: &mut Notes<'_>,
    ) -> Result<(u32, Rule), Problem> {
        let mut fields = at.fields()?;
        let name = fields.need("name")?;
        if !names.insert(name.text()?.to_owned()) {
            return Err(name.problem(Reason::Conflict(format!(
                "there are two rules called '{}'",
                name.text()?
            ))));
        }
        let selector = fields.need("selector")?;
        let peer = self.group(&selector, stage, notes)?;
        let (from, to) = if is_ingress {
            (peer, target.clone())
        } else {
            (target.clone(), peer)
        };
        let ports: PortSet = match fields.take("ports") {
            Some(at) => at.text()?.parse().map_err(|error| at.invalid(error))?,
            None => PortSet::any(),
        };
        let action_at = fields.need("action")?;
        let action = match action_at.text()? {
            "allow" => Action::Allow,
            "deny" => Action::Deny,
            other => return Err(action_at.invalid(format!("'{other}' is no action: allow or deny"))),
        };
        let priority = match fields.take("priority") {
            Some(at) => {
                let number = at.number("a number from 0 to 100")?;
                if number > 100 {
                    return Err(at.invalid("a priority is a number from 0 to 100"));
                }
                number
            }
            None => 0,
        };
        let mut rule = plain_rule(from, to, ports, action);
        if let Some(list) = fields.take("applications") {
            rule.applications = applications(&list)?;
            let has = |app| rule.applications.contains(&app);
            if has(Application::COUCHBASE) && !has(Application::MEMCACHED) {
                notes.changed(
                    &list,
                    "NeuVector calls the whole memcached binary protocol Couchbase; here that is only Couchbase's own commands: name Memcached for the others",
                );
            }
        }
        fields.finish(notes);
        self.check_rule(&rule, at, stage)?;
        if action == Action::Deny
            && [&rule.from, &rule.to]
                .iter()
                .any(|end| end.as_str() == reserved::NODES)
        {
            notes.changed(
                at,
                "NeuVector never blocks traffic of nodes, it only reports; here the rule can block",
            );
        }
        Ok((priority, rule))
    }

    /// The same checks that a rule from REST meets, with groups that are only referred to taken as workloads.
    fn check_rule(&self, rule: &Rule, at: &At<'_>, stage: &Stage) -> Result<(), Problem> {
        let mut input = crate::PolicyInput::default();
        for name in [&rule.from, &rule.to] {
            let group = self.known(name, stage).cloned().unwrap_or_else(|| Group {
                name: name.clone(),
                kind: GroupKind::Container,
                origin: Some(Tier::Ground),
                comment: String::new(),
                domain: String::new(),
                criteria: Vec::new(),
            });
            input.groups.insert(name.clone(), group);
        }
        validate_rule(rule, &input).map_err(|error| at.invalid(error))
    }

    /// Reads a selector: gives the group's name, and keeps the group when it is one that is made here.
    fn group(&self, at: &At<'_>, stage: &mut Stage, notes: &mut Notes<'_>) -> Result<GroupName, Problem> {
        let mut fields = at.fields()?;
        let name_at = fields.need("name")?;
        let original = fields.take("original_name");
        let text = match &original {
            Some(at) if !at.text()?.is_empty() => at.text()?,
            _ => name_at.text()?,
        };
        let name = GroupName::try_new(text).map_err(|error| name_at.invalid(error))?;
        let comment = match fields.take("comment") {
            Some(at) => at.text()?.to_owned(),
            None => String::new(),
        };
        let referral = match fields.take("name_referral") {
            Some(at) => at.bool()?,
            None => false,
        };
        let criteria_at = fields.take("criteria");
        let criteria = match &criteria_at {
            Some(at) => criteria(at, notes)?,
            None => Vec::new(),
        };
        metrics(&mut fields, notes)?;
        fields.finish(notes);
        if reserved::ALL.contains(&text) {
            return Ok(name);
        }
        if ["fed.", "Host:", "Workload:", "nv.ip."]
            .iter()
            .any(|prefix| text.starts_with(prefix))
        {
            return Err(name_at.invalid(format!("groups like '{text}' cannot be made from a file")));
        }
        if referral && criteria.is_empty() {
            if self.known(&name, stage).is_none() && !self.referred.contains_key(&name) {
                let text =
                    format!("'{name}' is used by name only: a group of that name must be there already");
                let note = Note {
                    document: Some(notes.document),
                    object: notes.object.clone(),
                    path: at.path.clone(),
                    place: Some(at.node.place),
                    ..Note::general(Severity::Changed, Reason::Differs(text))
                };
                stage.referred.entry(name.clone()).or_insert(note);
            }
            return Ok(name);
        }
        let group = make_group(name.clone(), comment, criteria, at)?;
        match self.known(&name, stage) {
            Some(known) if known.criteria != group.criteria => {
                return Err(at.problem(Reason::Conflict(format!(
                    "the group '{name}' has other criteria before this place"
                ))));
            }
            Some(_) => {}
            None => {
                let noted = criteria_at.as_ref().unwrap_or(at);
                for text in differences(&group) {
                    notes.changed(noted, text);
                }
                stage.groups.insert(name.clone(), group);
            }
        }
        Ok(name)
    }

    /// Everything, rules by priority and then as they came.
    pub(crate) fn finish(
        mut self,
        notes: &mut Vec<Note>,
    ) -> (BTreeMap<GroupName, Group>, Vec<Rule>, BTreeMap<GroupName, Mode>) {
        for (name, note) in self.referred {
            if !self.groups.contains_key(&name) {
                notes.push(note);
            }
        }
        self.rules
            .sort_by_key(|(priority, _)| std::cmp::Reverse(*priority));
        let rules = self.rules.into_iter().map(|(_, rule)| rule).collect();
        (self.groups, rules, self.modes)
    }
}

/// Session and bandwidth limits of groups, which nv does not have.
fn metrics(fields: &mut Fields<'_>, notes: &mut Notes<'_>) -> Result<(), Problem> {
    for key in ["mon_metric", "grp_sess_cur", "grp_sess_rate", "grp_band_width"] {
        if let Some(at) = fields.take(key)
            && !matches!(at.text()?, "0" | "false" | "")
        {
            notes.lost(
                &at,
                Reason::NotCarried("limits of sessions and bandwidth are not there"),
            );
        }
    }
    Ok(())
}

fn applications(at: &At<'_>) -> Result<Vec<Application>, Problem> {
    let mut found = Vec::new();
    for item in at.items()? {
        let name = item.text()?;
        if name.eq_ignore_ascii_case("any") {
            continue;
        }
        match name.parse() {
            Ok(app) if app != Application::UNKNOWN => found.push(app),
            _ => return Err(item.invalid(format!("unknown application '{name}'"))),
        }
    }
    Ok(found)
}

fn criteria(at: &At<'_>, notes: &mut Notes<'_>) -> Result<Vec<Criterion>, Problem> {
    let mut found: Vec<Criterion> = Vec::new();
    let mut seen = BTreeSet::new();
    for item in at.items()? {
        let mut fields = item.fields()?;
        let key = fields.need("key")?.text()?.to_owned();
        let value = match fields.take("value") {
            Some(at) => at.text()?.to_owned(),
            None => String::new(),
        };
        let op_at = fields.need("op")?;
        let op: CriterionOp = op_at.text()?.parse().map_err(|error| op_at.invalid(error))?;
        fields.finish(notes);
        let criterion = Criterion { key, value, op };
        if !seen.insert(criterion.clone()) {
            return Err(item.problem(Reason::Conflict("the same criterion is there twice".to_owned())));
        }
        found.push(criterion);
    }
    if let Some(domain) = only_domain(&found).map(str::to_owned)
        && !domain.is_empty()
    {
        let end = format!(".{domain}");
        for criterion in found.iter_mut().filter(|c| is_service_value(c)) {
            if let Some(service) = criterion
                .value
                .strip_suffix(&end)
                .filter(|text| !matches!(*text, "" | "any"))
            {
                criterion.value = service.to_owned();
            }
        }
    }
    Ok(found)
}

fn make_group(
    name: GroupName,
    comment: String,
    criteria: Vec<Criterion>,
    at: &At<'_>,
) -> Result<Group, Problem> {
    if name.as_str().starts_with("nv.") {
        return service_group(name, comment, &criteria, at);
    }
    let is_address = criteria.iter().any(|criterion| criterion.key == "address");
    let group = Group {
        name,
        kind: if is_address {
            GroupKind::Address
        } else {
            GroupKind::Container
        },
        origin: Some(Tier::Ground),
        comment,
        domain: String::new(),
        criteria,
    };
    validate_group(&group).map_err(|error| at.invalid(error))?;
    Ok(group)
}

/// The learned group of a service: its criteria must be its name's.
fn service_group(
    name: GroupName,
    comment: String,
    criteria: &[Criterion],
    at: &At<'_>,
) -> Result<Group, Problem> {
    let mut service = None;
    let mut domain = None;
    for criterion in criteria {
        let place = match criterion.key.as_str() {
            "service" => &mut service,
            "domain" => &mut domain,
            other => {
                return Err(at.invalid(format!(
                    "'{name}' is a service's group: its keys are service and domain, not '{other}'"
                )));
            }
        };
        if criterion.op != CriterionOp::Equal || !is_literal(&criterion.value) {
            return Err(at.invalid(format!(
                "'{name}' is a service's group: '{}' takes '=' and no pattern",
                criterion.key
            )));
        }
        if place.replace(criterion.value.as_str()).is_some() {
            return Err(at.invalid(format!("'{}' is there twice", criterion.key)));
        }
    }
    let (service, domain) = (service.unwrap_or_default(), domain.unwrap_or_default());
    if service.is_empty() || service_group_name(service, domain) != name.as_str() {
        return Err(at.invalid(format!(
            "'{name}' needs the criteria service = SERVICE.DOMAIN and domain = DOMAIN of its name"
        )));
    }
    let equal = |key: &str, value: &str| Criterion {
        key: key.to_owned(),
        value: value.to_owned(),
        op: CriterionOp::Equal,
    };
    Ok(Group {
        kind: GroupKind::Container,
        origin: Some(Tier::Learned),
        comment,
        domain: domain.to_owned(),
        criteria: vec![equal("service", service), equal("domain", domain)],
        name,
    })
}
