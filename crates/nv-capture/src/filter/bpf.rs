//! Classic BPF (McCanne, Jacobson 1993; Linux `Documentation/networking/filter.rst`): instructions, the checks
//! that the kernel makes before it takes a program, and an interpreter with the kernel's meaning.

use std::fmt;

/// Most instructions of a program (`BPF_MAXINSNS`).
pub const MAX_INSTRUCTIONS: usize = 4096;
/// Words of scratch memory (`BPF_MEMWORDS`).
pub(super) const MEMORY: u32 = 16;
/// Absolute offsets from here on are not packet bytes but the kernel's own facts (`SKF_AD_OFF` and below).
const SPECIAL: u32 = 0xffe0_0000;

pub(super) mod op {
    //! Opcodes, by the names that `linux/bpf_common.h` gives their parts.
    pub(crate) const LD_W: u16 = 0x20;
    pub(crate) const LD_H: u16 = 0x28;
    pub(crate) const LD_B: u16 = 0x30;
    pub(crate) const LD_W_IND: u16 = 0x40;
    pub(crate) const LD_H_IND: u16 = 0x48;
    pub(crate) const LD_B_IND: u16 = 0x50;
    pub(crate) const LD_LEN: u16 = 0x80;
    pub(crate) const LD_IMM: u16 = 0x00;
    pub(crate) const LD_MEM: u16 = 0x60;
    pub(crate) const LDX_IMM: u16 = 0x01;
    pub(crate) const LDX_MEM: u16 = 0x61;
    pub(crate) const LDX_LEN: u16 = 0x81;
    pub(crate) const LDX_MSH: u16 = 0xb1;
    pub(crate) const ST: u16 = 0x02;
    pub(crate) const STX: u16 = 0x03;
    pub(crate) const ADD: u16 = 0x04;
    pub(crate) const SUB: u16 = 0x14;
    pub(crate) const MUL: u16 = 0x24;
    pub(crate) const DIV: u16 = 0x34;
    pub(crate) const OR: u16 = 0x44;
    pub(crate) const AND: u16 = 0x54;
    pub(crate) const LSH: u16 = 0x64;
    pub(crate) const RSH: u16 = 0x74;
    pub(crate) const NEG: u16 = 0x84;
    pub(crate) const MOD: u16 = 0x94;
    pub(crate) const XOR: u16 = 0xa4;
    /// Added to an ALU or jump code: the operand is X.
    pub(crate) const X: u16 = 0x08;
    pub(crate) const JA: u16 = 0x05;
    pub(crate) const JEQ: u16 = 0x15;
    pub(crate) const JGT: u16 = 0x25;
    pub(crate) const JGE: u16 = 0x35;
    pub(crate) const JSET: u16 = 0x45;
    pub(crate) const RET: u16 = 0x06;
    pub(crate) const RET_A: u16 = 0x16;
    pub(crate) const TAX: u16 = 0x07;
    pub(crate) const TXA: u16 = 0x87;
}

/// One instruction, as `struct sock_filter` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// Instructions to skip when the condition holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

impl Instruction {
    pub(super) const fn plain(code: u16, k: u32) -> Self {
        Self {
            code,
            jt: 0,
            jf: 0,
            k,
        }
    }
}

/// Why a program is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidProgram {
    /// No instruction, or more than [`MAX_INSTRUCTIONS`].
    #[error("a program has 1 to {MAX_INSTRUCTIONS} instructions, not {0}")]
    Length(usize),
    /// An instruction that does not exist, reads past the scratch memory, divides by zero or jumps out.
    #[error("instruction {at}: {problem}")]
    Instruction {
        /// Place.
        at: usize,
        /// What is wrong.
        problem: &'static str,
    },
    /// The text of a program, as `tcpdump -ddd` prints it, is not one.
    #[error("line {0} is not an instruction")]
    Text(usize),
}

/// A checked program: it ends, stays within itself and within its memory.
#[derive(Clone, PartialEq, Eq)]
pub struct Program(Vec<Instruction>);

impl Program {
    /// Takes instructions after the checks of the kernel's `bpf_check_classic`.
    ///
    /// # Errors
    /// [`InvalidProgram`] that names the instruction.
    pub fn new(code: Vec<Instruction>) -> Result<Self, InvalidProgram> {
        if code.is_empty() || code.len() > MAX_INSTRUCTIONS {
            return Err(InvalidProgram::Length(code.len()));
        }
        for (at, instruction) in code.iter().enumerate() {
            check(*instruction, code.len() - 1 - at)
                .map_err(|problem| InvalidProgram::Instruction { at, problem })?;
        }
        Ok(Self(code))
    }

    /// Reads the form of `tcpdump -ddd`: a count, then one instruction a line as four decimal numbers.
    ///
    /// # Errors
    /// [`InvalidProgram`].
    pub fn from_decimal(text: &str) -> Result<Self, InvalidProgram> {
        let mut code = Vec::new();
        for (line, text) in text.lines().enumerate().skip(1) {
            let wrong = InvalidProgram::Text(line + 1);
            let numbers: Vec<u32> = text
                .split_whitespace()
                .map(str::parse)
                .collect::<Result<_, _>>()
                .map_err(|_| wrong.clone())?;
            let [a, jt, jf, k] = numbers[..] else {
                return Err(wrong);
            };
            let (Ok(operation), Ok(jt), Ok(jf)) = (u16::try_from(a), u8::try_from(jt), u8::try_from(jf))
            else {
                return Err(wrong);
            };
            code.push(Instruction {
                code: operation,
                jt,
                jf,
                k,
            });
        }
        Self::new(code)
    }

    /// Its instructions.
    #[must_use]
    pub fn instructions(&self) -> &[Instruction] {
        &self.0
    }

    /// Bytes of the packet to keep, 0 to leave it: what the kernel would say. `wire_len` is its length on the wire.
    /// A load past the end of `data` leaves the packet, as in the kernel.
    #[must_use]
    pub fn run(&self, data: &[u8], wire_len: u32) -> u32 {
        Machine {
            data,
            wire_len,
            a: 0,
            x: 0,
            memory: [0; MEMORY as usize],
        }
        .run(&self.0)
        .unwrap_or(0)
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One instruction a line, as `tcpdump -ddd` prints them, without the count.
impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for i in &self.0 {
            writeln!(f, "{} {} {} {}", i.code, i.jt, i.jf, i.k)?;
        }
        Ok(())
    }
}

/// `left`: instructions after this one.
fn check(instruction: Instruction, left: usize) -> Result<(), &'static str> {
    let Instruction { code, jt, jf, k } = instruction;
    match code {
        op::LD_W | op::LD_H | op::LD_B | op::LD_W_IND | op::LD_H_IND | op::LD_B_IND => {}
        op::LD_LEN | op::LD_IMM | op::LDX_IMM | op::LDX_LEN | op::LDX_MSH => {}
        op::LD_MEM | op::LDX_MEM | op::ST | op::STX if k >= MEMORY => return Err("no such memory word"),
        op::LD_MEM | op::LDX_MEM | op::ST | op::STX => {}
        op::DIV | op::MOD if k == 0 => return Err("division by zero"),
        op::LSH | op::RSH if k > 31 => return Err("shift by more than 31 bits"),
        op::ADD | op::SUB | op::MUL | op::DIV | op::MOD | op::OR | op::AND | op::XOR => {}
        op::LSH | op::RSH | op::NEG | op::TAX | op::TXA => {}
        code if code & op::X != 0 && alu(code & !op::X).is_some() => {}
        op::JA => {
            if usize::try_from(k).map_or(true, |k| k >= left) {
                return Err("jump out of the program");
            }
        }
        code if is_jump(code) => {
            if usize::from(jt) >= left || usize::from(jf) >= left {
                return Err("jump out of the program");
            }
        }
        op::RET | op::RET_A => return Ok(()),
        _ => return Err("no such operation"),
    }
    if left == 0 {
        return Err("the program does not end with a return");
    }
    Ok(())
}

const fn is_jump(code: u16) -> bool {
    matches!(code & !op::X, op::JEQ | op::JGT | op::JGE | op::JSET)
}

/// The operation of an ALU code without its operand bit; `None` inside when the result is undefined.
fn alu(code: u16) -> Option<fn(u32, u32) -> Option<u32>> {
    Some(match code {
        op::ADD => |a, b| Some(a.wrapping_add(b)),
        op::SUB => |a, b| Some(a.wrapping_sub(b)),
        op::MUL => |a, b| Some(a.wrapping_mul(b)),
        op::DIV => u32::checked_div,
        op::MOD => u32::checked_rem,
        op::OR => |a, b| Some(a | b),
        op::AND => |a, b| Some(a & b),
        op::XOR => |a, b| Some(a ^ b),
        op::LSH => |a, b| Some(a.checked_shl(b).unwrap_or(0)),
        op::RSH => |a, b| Some(a.checked_shr(b).unwrap_or(0)),
        _ => return None,
    })
}

/// Applies an ALU operation to constants, as the compiler folds them.
pub(super) fn fold(code: u16, a: u32, b: u32) -> Option<u32> {
    alu(code)?(a, b)
}

struct Machine<'a> {
    data: &'a [u8],
    wire_len: u32,
    a: u32,
    x: u32,
    memory: [u32; MEMORY as usize],
}

impl Machine<'_> {
    /// `None`: a load past the end, a division by zero, or a program that was not checked.
    fn run(&mut self, code: &[Instruction]) -> Option<u32> {
        let mut at = 0_usize;
        loop {
            let Instruction {
                code: operation,
                jt,
                jf,
                k,
            } = *code.get(at)?;
            at += 1;
            match operation {
                op::LD_W => self.a = self.load::<4>(k)?,
                op::LD_H => self.a = self.load::<2>(k)?,
                op::LD_B => self.a = self.load::<1>(k)?,
                op::LD_W_IND => self.a = self.load::<4>(self.x.checked_add(k)?)?,
                op::LD_H_IND => self.a = self.load::<2>(self.x.checked_add(k)?)?,
                op::LD_B_IND => self.a = self.load::<1>(self.x.checked_add(k)?)?,
                op::LD_LEN => self.a = self.wire_len,
                op::LD_IMM => self.a = k,
                op::LD_MEM => self.a = *self.word(k)?,
                op::LDX_IMM => self.x = k,
                op::LDX_LEN => self.x = self.wire_len,
                op::LDX_MEM => self.x = *self.word(k)?,
                op::LDX_MSH => self.x = (self.load::<1>(k)? & 0xf) * 4,
                op::ST => *self.word(k)? = self.a,
                op::STX => *self.word(k)? = self.x,
                op::NEG => self.a = self.a.wrapping_neg(),
                op::TAX => self.x = self.a,
                op::TXA => self.a = self.x,
                op::RET => return Some(k),
                op::RET_A => return Some(self.a),
                op::JA => at = at.checked_add(usize::try_from(k).ok()?)?,
                operation if is_jump(operation) => {
                    let other = if operation & op::X != 0 { self.x } else { k };
                    let holds = match operation & !op::X {
                        op::JEQ => self.a == other,
                        op::JGT => self.a > other,
                        op::JGE => self.a >= other,
                        _ => self.a & other != 0,
                    };
                    at += usize::from(if holds { jt } else { jf });
                }
                operation => {
                    let other = if operation & op::X != 0 { self.x } else { k };
                    self.a = fold(operation & !op::X, self.a, other)?;
                }
            }
        }
    }

    fn load<const N: usize>(&self, at: u32) -> Option<u32> {
        if at >= SPECIAL {
            return None;
        }
        let bytes: &[u8; N] = self.data.get(usize::try_from(at).ok()?..)?.first_chunk()?;
        Some(bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
    }

    fn word(&mut self, k: u32) -> Option<&mut u32> {
        self.memory.get_mut(usize::try_from(k).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_could_leave_itself_is_refused() {
        let ret = Instruction::plain(op::RET, 1);
        let bad = |code| Program::new(code).unwrap_err();
        assert_eq!(bad(vec![]), InvalidProgram::Length(0));
        assert_eq!(bad(vec![ret; 4097]), InvalidProgram::Length(4097));
        for first in [
            Instruction::plain(op::JA, 1),
            Instruction {
                code: op::JEQ,
                jt: 0,
                jf: 1,
                k: 0,
            },
            Instruction {
                code: op::JSET | op::X,
                jt: 1,
                jf: 0,
                k: 0,
            },
            Instruction::plain(op::ST, 16),
            Instruction::plain(op::DIV, 0),
            Instruction::plain(op::LSH, 32),
            Instruction::plain(0xffff, 0),
        ] {
            assert!(
                matches!(bad(vec![first, ret]), InvalidProgram::Instruction { at: 0, .. }),
                "{first:?}"
            );
        }
        assert!(matches!(
            bad(vec![Instruction::plain(op::LD_LEN, 0)]),
            InvalidProgram::Instruction { at: 0, .. }
        ));
    }

    #[test]
    fn loads_past_the_end_leave_the_packet() {
        let load = |code, k| {
            Program::new(vec![Instruction::plain(code, k), Instruction::plain(op::RET, 7)]).unwrap()
        };
        assert_eq!(load(op::LD_W, 0).run(&[1, 2, 3, 4], 4), 7);
        assert_eq!(load(op::LD_W, 1).run(&[1, 2, 3, 4], 4), 0);
        assert_eq!(load(op::LD_B, u32::MAX).run(&[1], 1), 0);
        assert_eq!(load(op::LDX_MSH, 1).run(&[1], 1), 0);
    }

    #[test]
    fn division_by_a_zero_that_is_found_at_run_time_leaves_the_packet() {
        let code = vec![
            Instruction::plain(op::LD_IMM, 8),
            Instruction::plain(op::LDX_IMM, 0),
            Instruction::plain(op::DIV | op::X, 0),
            Instruction::plain(op::RET, 1),
        ];
        assert_eq!(Program::new(code).unwrap().run(&[], 0), 0);
    }
}
