//! What a group is tied to.

use nv_types::Identity;

use super::members::Rx;
use super::sets::Sx;

/// Beside the groups themselves, so that walking it touches little memory.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// Rules in force that name it as client and as server.
    pub(super) from: Vec<Rx>,
    pub(super) to: Vec<Rx>,
    /// Classes that are in it, sorted; only while it is spoken of.
    pub(super) classes: Vec<Identity>,
    /// Sets that it is in, sorted.
    pub(super) sets: Vec<Sx>,
}

impl Links {
    pub(super) const fn is_spoken(&self) -> bool {
        !self.from.is_empty() || !self.to.is_empty()
    }
}

/// Puts an item where it belongs; at the end, as a rule.
pub(super) fn insert_sorted<T: Copy + Ord>(list: &mut Vec<T>, item: T) {
    if list.last().is_none_or(|last| *last < item) {
        list.push(item);
    } else if let Err(place) = list.binary_search(&item) {
        list.insert(place, item);
    }
}

pub(super) fn remove_sorted<T: Copy + Ord>(list: &mut Vec<T>, item: T) {
    if let Ok(place) = list.binary_search(&item) {
        list.remove(place);
    }
}
