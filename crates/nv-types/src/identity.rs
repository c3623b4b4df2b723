//! Classes of peers by number.

/// The equivalence class of all peers that are in exactly the same groups and in the same mode.
///
/// Numbers are made by the policy compiler and mean something only inside one [`PolicyImage`](crate::PolicyImage).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(transparent)
)]
pub struct Identity(pub u32);

impl Identity {
    /// Wildcard on the peer side of a pair; never an address's identity.
    pub const ANY: Self = Self(0);
    /// Bits below the kind.
    const NUMBER_BITS: u32 = 29;

    /// The identity of a kind (0 to 7) with this number; number 0 is the wildcard of the kind.
    #[must_use]
    pub const fn of_kind(kind: u32, number: u32) -> Self {
        Self(kind << Self::NUMBER_BITS | (number & ((1 << Self::NUMBER_BITS) - 1)))
    }

    /// Number within its kind.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0 & ((1 << Self::NUMBER_BITS) - 1)
    }

    /// Its kind, 0 to 7.
    #[must_use]
    pub const fn kind(self) -> usize {
        (self.0 >> Self::NUMBER_BITS) as usize
    }

    /// The wildcard for identities of this one's kind; that of kind 0 is [`Identity::ANY`].
    #[inline(always)]
    #[must_use]
    pub const fn any_of_kind(self) -> Self {
        Self(self.0 >> Self::NUMBER_BITS << Self::NUMBER_BITS)
    }
}
