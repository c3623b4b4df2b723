//! Who is in which service and which set of groups. A member knows its place in both, so that coming and going costs the same however
//! many there are.

use super::domains::Vx;
use super::links::{insert_sorted, remove_sorted};
use super::members::{Gx, Members, Wx};

impl Members {
    pub(super) fn enter_service(&mut self, number: Wx, service: Vx) {
        let members = &mut self.domains.service_mut(service).members;
        members.push(number);
        let place = members.len() - 1;
        if let Some(slot) = self.workload_mut(number) {
            slot.service_place = u32::try_from(place).unwrap_or(u32::MAX);
        }
    }

    pub(super) fn leave_service(&mut self, number: Wx) {
        let Some((service, place)) = self
            .workload(number)
            .map(|slot| (slot.service, slot.service_place))
        else {
            return;
        };
        let members = &mut self.domains.service_mut(service).members;
        members.swap_remove(place as usize);
        let moved = members.get(place as usize).copied();
        if let Some(slot) = moved.and_then(|moved| self.workload_mut(moved)) {
            slot.service_place = place;
        }
    }

    /// A workload is in these groups now, and in no set.
    pub(super) fn enter_set(&mut self, number: Wx, groups: &[Gx]) {
        let (set, is_new) = self.sets.number(groups);
        if is_new {
            for group in groups {
                insert_sorted(&mut self.links[*group as usize].sets, set);
            }
        }
        let members = &mut self.sets.get_mut(set).members;
        members.push(number);
        let place = members.len() - 1;
        if let Some(slot) = self.workload_mut(number) {
            slot.set = set;
            slot.set_place = u32::try_from(place).unwrap_or(u32::MAX);
        }
    }

    pub(super) fn leave_set(&mut self, number: Wx) {
        let Some((set, place)) = self.workload(number).map(|slot| (slot.set, slot.set_place)) else {
            return;
        };
        let members = &mut self.sets.get_mut(set).members;
        members.swap_remove(place as usize);
        let (moved, is_empty) = (members.get(place as usize).copied(), members.is_empty());
        if let Some(slot) = moved.and_then(|moved| self.workload_mut(moved)) {
            slot.set_place = place;
        }
        if is_empty {
            let groups = std::sync::Arc::clone(&self.sets.get(set).groups);
            for group in groups.iter() {
                remove_sorted(&mut self.links[*group as usize].sets, set);
            }
            self.sets.remove(set);
        }
    }
}
