//! A tree to classic BPF. Tests come in the order in which libpcap makes them, because a load past the end of a
//! packet leaves the packet, whatever stands after it.

mod assemble;
mod primitive;
mod value;

use super::ast::Expr;
use super::bpf::{Instruction, MAX_INSTRUCTIONS, Program, op};
use crate::LinkType;

/// Kernel facts at special offsets (`linux/filter.h`): `SKF_AD_OFF` and what is added.
mod fact {
    const OFFSET: u32 = 0xffff_f000;
    pub(super) const IFINDEX: u32 = OFFSET + 8;
    pub(super) const HATYPE: u32 = OFFSET + 28;
    pub(super) const VLAN_TAG_PRESENT: u32 = OFFSET + 48;
    /// `ARPHRD_ETHER`, `ARPHRD_LOOPBACK`.
    pub(super) const ETHER: u32 = 1;
    pub(super) const LOOPBACK: u32 = 772;
}

/// Parts of a chain from which on its exit is likely to be far.
const LONG_CHAIN: usize = 8;

/// A program that would be longer than the kernel takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooComplex;

/// Where the parts of a packet are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layer {
    /// Type field and network header at these offsets, tags between them.
    Typed { kind: u32, network: u32 },
    /// Starts with the IP header.
    Raw,
}

impl Layer {
    const fn of(link: LinkType) -> Option<Self> {
        match link {
            LinkType::ETHERNET => Some(Self::Typed {
                kind: 12,
                network: 14,
            }),
            LinkType::LINUX_SLL => Some(Self::Typed {
                kind: 14,
                network: 16,
            }),
            LinkType::LINUX_SLL2 => Some(Self::Typed { kind: 0, network: 20 }),
            LinkType::RAW | LinkType::IPV4 | LinkType::IPV6 => Some(Self::Raw),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Label(usize);

enum Line {
    Plain(Instruction),
    Jump {
        code: u16,
        k: u32,
        yes: Label,
        no: Label,
    },
    Goto(Label),
}

/// Program that keeps `keep` bytes of the packets of `expr` and leaves the others; `None` for a link type whose
/// headers are not known.
pub(super) fn program(expr: &Expr, link: LinkType, keep: u32) -> Result<Option<Program>, TooComplex> {
    let Some(layer) = Layer::of(link) else {
        return Ok(None);
    };
    let mut out = Out::new(layer, link == LinkType::ETHERNET);
    let (yes, no) = (out.label(), out.label());
    out.expr(expr, yes, no)?;
    out.end(yes, no, keep).map(Some)
}

/// Program for a packet socket: interfaces of any type are told apart by the kernel. A tag that the kernel took out
/// of the packet is not to be seen here, so such packets are kept, and judged by the caller.
pub(super) fn socket_program(expr: &Expr, skip_loopback: bool, keep: u32) -> Result<Program, TooComplex> {
    let mut out = Out::new(
        Layer::Typed {
            kind: 12,
            network: 14,
        },
        true,
    );
    let (yes, no) = (out.label(), out.label());
    if skip_loopback {
        // Index 1 in every namespace.
        out.plain(op::LD_W, fact::IFINDEX);
        let other = out.label();
        out.jump(op::JEQ, 1, no, other);
        out.place(other);
    }
    if *expr == Expr::All {
        out.goto(yes);
        return out.end(yes, no, keep);
    }
    let (untagged, raw, ethernet) = (out.label(), out.label(), out.label());
    out.plain(op::LD_W, fact::VLAN_TAG_PRESENT);
    out.jump(op::JEQ, 0, untagged, yes);
    out.place(untagged);
    out.plain(op::LD_W, fact::HATYPE);
    let not_ether = out.label();
    out.jump(op::JEQ, fact::ETHER, ethernet, not_ether);
    out.place(not_ether);
    out.jump(op::JEQ, fact::LOOPBACK, ethernet, raw);
    out.place(ethernet);
    out.expr(expr, yes, no)?;
    out.place(raw);
    out.layer = Layer::Raw;
    out.ethernet = false;
    out.expr(expr, yes, no)?;
    out.end(yes, no, keep)
}

struct Out {
    lines: Vec<Line>,
    /// Line of each label.
    labels: Vec<usize>,
    layer: Layer,
    ethernet: bool,
    /// Scratch words in use.
    held: u32,
    /// What is in A here: the load that put it there. A load that changes nothing is left out.
    here: Held,
    /// The same at each label, from all jumps to it.
    there: Vec<Held>,
}

/// What is in A.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    /// No way leads here.
    Unreached,
    /// The outcome of this load at a fixed place.
    Load(u16, u32),
    /// Anything.
    Unknown,
}

impl Held {
    fn join(self, other: Self) -> Self {
        match (self, other) {
            (Self::Unreached, known) | (known, Self::Unreached) => known,
            (a, b) if a == b => a,
            _ => Self::Unknown,
        }
    }
}

impl Out {
    const fn new(layer: Layer, ethernet: bool) -> Self {
        Self {
            lines: Vec::new(),
            labels: Vec::new(),
            layer,
            ethernet,
            held: 0,
            here: Held::Unknown,
            there: Vec::new(),
        }
    }

    fn label(&mut self) -> Label {
        self.labels.push(usize::MAX);
        self.there.push(Held::Unreached);
        Label(self.labels.len() - 1)
    }

    fn place(&mut self, label: Label) {
        let line = self.lines.len();
        if let Some(place) = self.labels.get_mut(label.0) {
            *place = line;
        }
        let there = self.there.get(label.0).copied().unwrap_or(Held::Unknown);
        self.here = self.here.join(there);
    }

    fn leads_to(&mut self, label: Label) {
        if let Some(there) = self.there.get_mut(label.0) {
            *there = there.join(self.here);
        }
    }

    fn plain(&mut self, code: u16, k: u32) {
        match code {
            op::LD_W | op::LD_H | op::LD_B => {
                let load = Held::Load(code, k);
                if self.here == load {
                    return;
                }
                self.here = load;
            }
            op::LDX_MSH | op::LDX_MEM | op::LDX_IMM | op::LDX_LEN | op::TAX | op::ST | op::STX => {}
            _ => self.here = Held::Unknown,
        }
        self.lines.push(Line::Plain(Instruction::plain(code, k)));
    }

    fn jump(&mut self, code: u16, k: u32, yes: Label, no: Label) {
        self.leads_to(yes);
        self.leads_to(no);
        self.here = Held::Unreached;
        self.lines.push(Line::Jump { code, k, yes, no });
    }

    fn goto(&mut self, label: Label) {
        self.leads_to(label);
        self.here = Held::Unreached;
        self.lines.push(Line::Goto(label));
    }

    /// Runs `first`, and `second` where `first` holds.
    fn both(&mut self, no: Label, first: impl FnOnce(&mut Self, Label, Label)) {
        let next = self.label();
        first(self, next, no);
        self.place(next);
    }

    fn expr(&mut self, expr: &Expr, yes: Label, no: Label) -> Result<(), TooComplex> {
        if self.lines.len() > MAX_INSTRUCTIONS {
            return Err(TooComplex);
        }
        match expr {
            // A word of nv is judged by the caller: nothing is left out for it.
            Expr::All | Expr::Word(_) => self.goto(yes),
            Expr::Not(inner) => self.expr(inner, no, yes)?,
            Expr::And(parts) => {
                for part in parts {
                    let next = self.label();
                    let out = self.near(parts.len(), no);
                    self.expr(part, next, out)?;
                    self.far(out, no);
                    self.place(next);
                }
                self.goto(yes);
            }
            Expr::Or(parts) => {
                for part in parts {
                    let next = self.label();
                    let out = self.near(parts.len(), yes);
                    self.expr(part, out, next)?;
                    self.far(out, yes);
                    self.place(next);
                }
                self.goto(no);
            }
            Expr::Test { test, shift } => self.test(test, *shift, yes, no)?,
        }
        Ok(())
    }

    /// Where a part of a long chain leaves it: by one long jump of its own, rather than by many.
    fn near(&mut self, parts: usize, exit: Label) -> Label {
        if parts < LONG_CHAIN { exit } else { self.label() }
    }

    fn far(&mut self, near: Label, exit: Label) {
        if near != exit {
            self.place(near);
            self.goto(exit);
        }
    }

    const fn network(&self, shift: u32) -> u32 {
        match self.layer {
            Layer::Typed { network, .. } => network + shift,
            Layer::Raw => 0,
        }
    }
}
