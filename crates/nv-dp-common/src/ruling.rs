//! What was decided of a packet, as one word.
//!
//! The kernel's verifier follows every value it knows; a decision that is an enum would make it walk the rest of the program
//! once for each variant. As a word that went through memory it is one number like any other.

use nv_types::{Decision, Reason, RuleId, Verdict};

/// A verdict, its reason, its rule, and whether unidentified payload is held meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ruling {
    /// Verdict, reason, flags: a byte each.
    code: u32,
    rule: u32,
}

const HELD: u32 = 1 << 16;
const REPORT: u32 = 1 << 17;
const BEGAN: u32 = 1 << 18;
const RECALLED: u32 = 1 << 19;

impl Ruling {
    /// No ruling: no verdict has this number.
    pub(crate) const NONE: Self = Self {
        code: u32::MAX,
        rule: 0,
    };

    #[inline(always)]
    pub(crate) const fn is_none(self) -> bool {
        self.code == Self::NONE.code
    }

    /// Was decided for another flow with the same question.
    #[inline(always)]
    pub(crate) const fn recalled(self) -> Self {
        Self {
            code: self.code | RECALLED,
            ..self
        }
    }

    #[inline(always)]
    pub(crate) const fn is_recalled(self) -> bool {
        !self.is_none() && self.code & RECALLED != 0
    }

    /// Without the note of where it came from.
    #[inline(always)]
    pub(crate) const fn plain(self) -> Self {
        Self {
            code: self.code & !RECALLED,
            ..self
        }
    }

    #[inline(always)]
    pub(crate) const fn new(verdict: Verdict, reason: Reason) -> Self {
        Self {
            code: verdict as u32 | (reason as u32) << 8,
            rule: RuleId::IMPLICIT.0,
        }
    }

    #[inline(always)]
    pub(crate) const fn of(decision: Decision) -> Self {
        Self {
            code: decision.verdict as u32 | (decision.reason as u32) << 8,
            rule: decision.rule.0,
        }
    }

    /// As one register.
    #[inline(always)]
    pub(crate) const fn pack(self) -> u64 {
        self.code as u64 | (self.rule as u64) << 32
    }

    /// See [`Ruling::pack`].
    #[inline(always)]
    pub(crate) const fn unpack(word: u64) -> Self {
        Self {
            code: (word & 0xffff_ffff) as u32,
            rule: (word >> 32) as u32,
        }
    }

    /// From the bytes of a table.
    #[inline(always)]
    pub(crate) const fn raw(verdict: u8, reason: u8, rule: u32, held: bool) -> Self {
        let held = if held { HELD } else { 0 };
        Self {
            code: verdict as u32 | (reason as u32) << 8 | held,
            rule,
        }
    }

    /// Through memory, see the module's page.
    #[inline(always)]
    pub(crate) fn opaque(self, through: impl Fn(u32) -> u32) -> Self {
        Self {
            code: through(self.code),
            rule: self.rule,
        }
    }

    #[inline(always)]
    pub(crate) const fn holding(self, held: bool) -> Self {
        Self {
            code: if held { self.code | HELD } else { self.code & !HELD },
            ..self
        }
    }

    /// To be reported as a packet without a flow.
    #[inline(always)]
    pub(crate) const fn reported(self) -> Self {
        Self {
            code: self.code | REPORT,
            ..self
        }
    }

    /// Began a flow.
    #[inline(always)]
    pub(crate) const fn began(self) -> Self {
        Self {
            code: self.code | BEGAN,
            ..self
        }
    }

    #[inline(always)]
    pub(crate) const fn with_verdict(self, verdict: Verdict) -> Self {
        Self {
            code: self.code & !0xff | verdict as u32,
            ..self
        }
    }

    #[inline(always)]
    pub(crate) const fn verdict(self) -> u8 {
        (self.code & 0xff) as u8
    }

    #[inline(always)]
    pub(crate) const fn reason(self) -> u8 {
        (self.code >> 8 & 0xff) as u8
    }

    #[inline(always)]
    pub(crate) const fn rule(self) -> u32 {
        self.rule
    }

    #[inline(always)]
    pub(crate) const fn is_held(self) -> bool {
        self.code & HELD != 0
    }

    #[inline(always)]
    pub(crate) const fn is_reported(self) -> bool {
        self.code & REPORT != 0
    }

    #[inline(always)]
    pub(crate) const fn has_begun(self) -> bool {
        self.code & BEGAN != 0
    }

    #[inline(always)]
    pub(crate) const fn is_denied(self) -> bool {
        self.verdict() == Verdict::Deny as u8
    }

    /// What becomes of the packet.
    #[inline(always)]
    pub(crate) const fn outcome(self) -> Verdict {
        if self.is_denied() {
            Verdict::Deny
        } else if self.verdict() == Verdict::Allow as u8 {
            Verdict::Allow
        } else {
            Verdict::Alert
        }
    }

    #[inline(always)]
    pub(crate) const fn is_pending(self) -> bool {
        self.reason() == Reason::Pending as u8
    }
}
