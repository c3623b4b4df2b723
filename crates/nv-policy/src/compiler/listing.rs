//! Where a workload finds the groups that it may be in.

use nv_types::{GroupName, Workload};

use super::domains::Vx;
use super::members::{Gx, Listed, Members};
use crate::criteria::value;
use crate::group::Body;
use crate::input::{PolicyInput, service_of_group};

impl Members {
    /// Where those that may be in a group find it.
    pub(super) fn list(&mut self, input: &PolicyInput, number: Gx) {
        let slot = &self.groups[number as usize];
        let Body::Workloads(selector) = &slot.body else {
            return;
        };
        let own = input.groups.get(&slot.name).and_then(service_of_group);
        let service = own.map(|(service, domain)| {
            let mode = |name: &GroupName| input.service_mode(name);
            self.domains.service_number(service, domain, mode)
        });
        let listed = match (service, selector.anchor()) {
            (Some(service), _) => {
                self.domains.service_mut(service).own = Some(number);
                Listed::Service(service)
            }
            (None, Some((key, values))) => {
                let places = self.anchored.entry(key.to_owned()).or_default();
                for value in values {
                    places.entry(value.to_owned()).or_default().push(number);
                }
                Listed::Selector
            }
            (None, None) => {
                self.scanned.insert(number);
                Listed::Selector
            }
        };
        self.groups[number as usize].listed = listed;
    }

    pub(super) fn unlist(&mut self, number: Gx) {
        let slot = &mut self.groups[number as usize];
        match std::mem::replace(&mut slot.listed, Listed::No) {
            Listed::No => return,
            Listed::Service(service) => {
                self.domains.service_mut(service).own = None;
                self.domains.forget_unused(service);
                return;
            }
            Listed::Selector => {}
        }
        let Body::Workloads(selector) = &self.groups[number as usize].body else {
            return;
        };
        let Some((key, values)) = selector.anchor() else {
            self.scanned.remove(&number);
            return;
        };
        let Some(places) = self.anchored.get_mut(key) else {
            return;
        };
        for value in values {
            if let Some(list) = places.get_mut(value) {
                list.retain(|listed| *listed != number);
                if list.is_empty() {
                    places.remove(value);
                }
            }
        }
        if places.is_empty() {
            self.anchored.remove(key);
        }
    }

    /// Writes the groups that a workload is in, sorted.
    pub(super) fn groups_of(&self, workload: &Workload, service: Vx, groups: &mut Vec<Gx>) {
        groups.clear();
        groups.push(self.containers);
        groups.extend(self.domains.service(service).own);
        let holds = |number: &Gx| match &self.groups[*number as usize].body {
            Body::Workloads(selector) => selector.matches(workload),
            Body::Absent | Body::Reserved | Body::Broken | Body::Addresses(_) => false,
        };
        for (key, places) in &self.anchored {
            if let Some(value) = value(workload, key)
                && let Some(list) = places.get(value.as_ref())
            {
                groups.extend(list.iter().copied().filter(holds));
            }
        }
        groups.extend(self.scanned.iter().copied().filter(holds));
        groups.sort_unstable();
        groups.dedup();
    }
}
