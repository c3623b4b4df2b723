//! Comparisons of values.

use super::super::ast::{Arith, Base, Family, Relation};
use super::super::bpf::{MAX_INSTRUCTIONS, MEMORY, op};
use super::super::names::{ICMP6, IP6};
use super::{Label, Out, TooComplex};

impl Out {
    pub(super) fn compare(
        &mut self,
        left: &Arith,
        relation: Relation,
        right: &Arith,
        yes: Label,
        no: Label,
    ) -> Result<(), TooComplex> {
        // What an offset counts from must be there, before anything is read.
        self.presence(left, no);
        self.presence(right, no);
        let (code, holds, fails) = match relation {
            Relation::Eq => (op::JEQ, yes, no),
            Relation::Ne => (op::JEQ, no, yes),
            Relation::Gt => (op::JGT, yes, no),
            Relation::Le => (op::JGT, no, yes),
            Relation::Ge => (op::JGE, yes, no),
            Relation::Lt => (op::JGE, no, yes),
        };
        if let Arith::Const(k) = right {
            self.value(left)?;
            self.jump(code, *k, holds, fails);
        } else {
            self.two_values(left, right)?;
            self.jump(code | op::X, 0, holds, fails);
        }
        Ok(())
    }

    fn presence(&mut self, arith: &Arith, no: Label) {
        match arith {
            Arith::Const(_) | Arith::Len => {}
            Arith::Neg(inner) => self.presence(inner, no),
            // Not that of the right one: libpcap has it so, and a filter must mean the same here. Who mixes protocols
            // says `tcp and …` before it.
            Arith::Op { left, .. } => self.presence(left, no),
            Arith::Load {
                base, shift, index, ..
            } => {
                self.presence(index, no);
                match *base {
                    Base::Link => {}
                    Base::Network(kind) => {
                        self.both(no, |out, next, no| out.link_proto(kind, *shift, next, no));
                    }
                    Base::Transport(proto) => {
                        self.both(no, |out, next, no| {
                            out.ip_proto(Family::V4, proto, *shift, next, no)
                        });
                        self.first_fragment(self.network(*shift), no);
                    }
                    Base::Icmp6 => {
                        self.both(no, |out, next, no| out.link_proto(IP6, *shift, next, no));
                        self.plain(op::LD_B, self.network(*shift) + 6);
                        self.both(no, |out, next, no| out.jump(op::JEQ, u32::from(ICMP6), next, no));
                    }
                }
            }
        }
    }

    /// Puts `left` in A and `right` in X.
    fn two_values(&mut self, left: &Arith, right: &Arith) -> Result<(), TooComplex> {
        self.value(left)?;
        let word = self.hold()?;
        self.value(right)?;
        self.plain(op::TAX, 0);
        self.plain(op::LD_MEM, word);
        self.held -= 1;
        Ok(())
    }

    /// Puts A in a scratch word.
    fn hold(&mut self) -> Result<u32, TooComplex> {
        let word = self.held;
        if word >= MEMORY {
            return Err(TooComplex);
        }
        self.plain(op::ST, word);
        self.held += 1;
        Ok(word)
    }

    /// Puts the value in A.
    fn value(&mut self, arith: &Arith) -> Result<(), TooComplex> {
        if self.lines.len() > MAX_INSTRUCTIONS {
            return Err(TooComplex);
        }
        match arith {
            Arith::Const(k) => self.plain(op::LD_IMM, *k),
            Arith::Len => self.plain(op::LD_LEN, 0),
            Arith::Neg(inner) => {
                self.value(inner)?;
                self.plain(op::NEG, 0);
            }
            Arith::Op { code, left, right } => {
                if let Arith::Const(k) = **right {
                    self.value(left)?;
                    self.plain(*code, k);
                } else {
                    self.two_values(left, right)?;
                    self.plain(*code | op::X, 0);
                }
            }
            Arith::Load {
                base,
                shift,
                index,
                size,
            } => self.load(*base, *shift, index, *size)?,
        }
        Ok(())
    }

    fn load(&mut self, base: Base, shift: u32, index: &Arith, size: u8) -> Result<(), TooComplex> {
        let (absolute, indirect) = match size {
            1 => (op::LD_B, op::LD_B_IND),
            2 => (op::LD_H, op::LD_H_IND),
            _ => (op::LD_W, op::LD_W_IND),
        };
        let start = match base {
            Base::Link => 0,
            Base::Network(_) => self.network(shift),
            Base::Icmp6 => self.network(shift) + 40,
            Base::Transport(_) => {
                let network = self.network(shift);
                match index {
                    Arith::Const(k) => {
                        self.plain(op::LDX_MSH, network);
                        self.plain(indirect, network + k);
                    }
                    index => {
                        self.value(index)?;
                        let word = self.hold()?;
                        self.plain(op::LDX_MSH, network);
                        self.plain(op::LD_MEM, word);
                        self.held -= 1;
                        self.plain(op::ADD | op::X, 0);
                        self.plain(op::TAX, 0);
                        self.plain(indirect, network);
                    }
                }
                return Ok(());
            }
        };
        match index {
            Arith::Const(k) => self.plain(absolute, start + k),
            index => {
                self.value(index)?;
                self.plain(op::TAX, 0);
                self.plain(indirect, start);
            }
        }
        Ok(())
    }
}
