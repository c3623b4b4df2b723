//! Who says to have an address.

use super::members::Wx;

/// Those that claim an address.
#[derive(Debug)]
pub(super) enum Claim {
    One(Wx),
    Several(Vec<Wx>),
}

impl Claim {
    pub(super) fn all(&self) -> &[Wx] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Several(list) => list,
        }
    }

    pub(super) fn add(&mut self, member: Wx) {
        match self {
            Self::One(one) => *self = Self::Several(vec![*one, member]),
            Self::Several(list) => list.push(member),
        }
    }

    /// Takes one away; whether nobody is left.
    pub(super) fn remove(&mut self, member: Wx) -> bool {
        match self {
            Self::One(one) => *one == member,
            Self::Several(list) => {
                list.retain(|claim| *claim != member);
                list.is_empty()
            }
        }
    }
}
