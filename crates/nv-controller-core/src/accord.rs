//! What the controller does of its own accord: groups and modes of new services, rules from what Discover sees.

use nv_policy::{Observation, PolicyInput, RuleChange, StoredMode, StoredOrder, encode, learn};
use nv_types::{GroupName, Mode, Rule, Timestamp, keys};

use crate::controller::{Controller, Plan};
use crate::promotion::{self, Standing, Step};

/// Most services whose standing one plan changes.
const MODES_MAX: usize = 64;
/// Time to wait after a plan that was not written, in nanoseconds.
const RETRY: u64 = 2_000_000_000;

/// What the last plan was about, and when the next one may come.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    last: Option<Accord>,
    retry: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug)]
enum Accord {
    Services,
    Learned,
    Modes,
}

impl Controller {
    /// When [`Controller::poll_plan`] will have something, if nothing else happens.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let services = (!self.new_services.is_empty()).then_some(Timestamp(0));
        let modes = self.promotions.timeout(self.state.input());
        let due = services.or_else(|| self.learner.due().into_iter().chain(modes).min())?;
        Some(due.max(self.pace.retry.unwrap_or_default()))
    }

    /// What the controller wants written of its own accord: groups and modes of new services, learned rules.
    ///
    /// The plan before it counts as written unless [`Controller::plan_failed`] was called.
    #[must_use]
    pub fn poll_plan(&mut self, now: Timestamp) -> Option<Plan> {
        if self.pace.retry.is_some_and(|retry| now < retry) {
            return None;
        }
        self.pace = Pace::default();
        self.learner.forget();
        if let Some(plan) = self.plan_services() {
            self.pace.last = Some(Accord::Services);
            return Some(plan);
        }
        if let Some(gathered) = self.learner.poll(now) {
            let still = gathered
                .into_iter()
                .filter(|observation| self.still_learns(observation));
            let observations: Vec<Observation> = still.collect();
            if let Some(plan) = self.plan_learned(&observations, now) {
                self.learner.keep(observations);
                self.pace.last = Some(Accord::Learned);
                return Some(plan);
            }
        }
        let plan = self.plan_modes(now)?;
        self.pace.last = Some(Accord::Modes);
        Some(plan)
    }

    /// Services that go on to the next mode by themselves, and since when the others are in theirs.
    fn plan_modes(&mut self, now: Timestamp) -> Option<Plan> {
        let steps = self.promotions.due(self.state.input(), now);
        let mut plan = Plan::default();
        for (group, step) in steps.into_iter().take(MODES_MAX) {
            let standing = match step {
                Step::Note(standing) => standing,
                Step::Promote { to, after } => {
                    let key = keys::mode(&group);
                    let Ok(value) = encode(&key, &StoredMode { mode: to }) else {
                        continue;
                    };
                    plan.conditions
                        .push((key.clone(), self.revisions.get(&key).copied()));
                    plan.puts.push((key, value));
                    let quiet = if to == Mode::Protect {
                        " without a violation"
                    } else {
                        ""
                    };
                    plan.summary.push(format!(
                        "service {group}: {to} by itself, after {after} seconds{quiet}"
                    ));
                    Standing {
                        mode: to,
                        since: now,
                        violated: Timestamp(0),
                    }
                }
            };
            if let Some((key, value)) = promotion::stored(&group, &standing) {
                plan.conditions
                    .push((key.clone(), self.revisions.get(&key).copied()));
                plan.puts.push((key, value));
            }
        }
        (!plan.is_empty()).then_some(plan)
    }

    /// The plan of the last [`Controller::poll_plan`] was not written: it comes again, made anew, a moment later.
    pub fn plan_failed(&mut self, now: Timestamp) {
        let Some(last) = self.pace.last.take() else {
            return;
        };
        let retry = Timestamp(now.0.saturating_add(RETRY));
        match last {
            Accord::Services => self.find_new_services(),
            Accord::Learned => self.learner.again(retry),
            Accord::Modes => {}
        }
        self.pace.retry = Some(retry);
    }

    fn plan_services(&mut self) -> Option<Plan> {
        let wanted = std::mem::take(&mut self.new_services);
        let input = self.state.input();
        let mut copy = PolicyInput::default();
        let mut plan = Plan::default();
        for workload in input.workloads.values() {
            let Some(name) = workload.service_group().filter(|name| wanted.contains(name)) else {
                continue;
            };
            if copy.add_service_group(workload).is_none() {
                continue;
            }
            let Some(group) = copy.groups.get(&name) else {
                continue;
            };
            let (group_key, mode_key) = (keys::group(&name), keys::mode(&name));
            let mode = input.settings.new_service_mode;
            let is_stored = |key: &str| self.revisions.contains_key(key);
            let has_group = is_stored(&group_key);
            if !has_group && let Ok(value) = encode(&group_key, group) {
                plan.conditions.push((group_key.clone(), None));
                plan.puts.push((group_key, value));
            }
            // A mode that was set before its service came, or came back, stays.
            if !is_stored(&mode_key)
                && let Ok(value) = encode(&mode_key, &StoredMode { mode })
            {
                plan.conditions.push((mode_key.clone(), None));
                plan.puts.push((mode_key, value));
            }
            plan.summary.push(if has_group {
                format!("service {name} has no mode: {mode}")
            } else {
                format!("service {name} found: {mode}")
            });
        }
        (!plan.is_empty()).then_some(plan)
    }

    /// Whether both ends are in Discover now: what is reported late, of a flow from before, must not open what has been closed since.
    fn still_learns(&self, observation: &Observation) -> bool {
        let input = self.state.input();
        let mode = |group: &GroupName| {
            let own = input.modes.get(group).copied()?;
            Some(if group.as_str() == nv_types::reserved::NODES {
                own
            } else {
                input.service_mode(group)
            })
        };
        let (client, server) = (mode(&observation.from), mode(&observation.to));
        nv_types::effective_mode(client, server, input.settings.contention) == Some(Mode::Discover)
    }

    fn plan_learned(&self, observations: &[Observation], now: Timestamp) -> Option<Plan> {
        let input = self.state.input();
        let changes = learn(input, observations, now);
        let mut plan = Plan::default();
        let mut order = self.state.order();
        let touch = |key: &String| (key.clone(), self.revisions.get(key).copied());
        for change in changes {
            match change {
                RuleChange::Put(rule) => {
                    let key = keys::rule(rule.id);
                    let Ok(value) = encode(&key, &rule) else { continue };
                    if !order.contains(&rule.id) {
                        order.push(rule.id);
                    }
                    plan.summary.push(learned_words(&rule));
                    plan.conditions.push(touch(&key));
                    plan.puts.push((key, value));
                }
                RuleChange::Delete(id) => {
                    let key = keys::rule(id);
                    order.retain(|known| *known != id);
                    plan.summary.push(format!(
                        "learned rule {id} deleted: its ports have been identified"
                    ));
                    plan.conditions.push(touch(&key));
                    plan.deletes.push(key);
                }
            }
        }
        if plan.is_empty() {
            return None;
        }
        if order != self.state.order() {
            let key = keys::ORDER.to_owned();
            let value = encode(&key, &StoredOrder { rules: order }).ok()?;
            plan.conditions.push(touch(&key));
            plan.puts.push((key, value));
        }
        Some(plan)
    }
}

fn learned_words(rule: &Rule) -> String {
    let apps: Vec<_> = rule.applications.iter().map(|app| app.name()).collect();
    format!(
        "rule {} learned: {} -> {} {} {}",
        rule.id,
        rule.from,
        rule.to,
        rule.ports,
        apps.join(",")
    )
    .trim_end()
    .to_owned()
}
