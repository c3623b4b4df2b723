//! Lines and labels to instructions.

use super::super::bpf::{Instruction, Program, op};
use super::{Label, Line, Out, TooComplex};

impl Out {
    /// Ends the program and gives every jump its distance.
    pub(super) fn end(mut self, yes: Label, no: Label, keep: u32) -> Result<Program, TooComplex> {
        self.place(yes);
        self.plain(op::RET, keep);
        self.place(no);
        self.plain(op::RET, 0);
        // Conditional jumps reach 255 instructions. One that is too far becomes three: a test and two long jumps.
        // Lengths only grow, so this ends.
        let mut long = vec![false; self.lines.len()];
        loop {
            let starts = self.starts(&long);
            let mut grown = false;
            for (at, line) in self.lines.iter().enumerate() {
                if let Line::Jump { yes, no, .. } = line
                    && let Some(is_long) = long.get_mut(at).filter(|is_long| !**is_long)
                {
                    let after = starts.get(at).copied().unwrap_or(0) + 1;
                    let far = |label: &Label| self.target(*label, &starts) - after > usize::from(u8::MAX);
                    if far(yes) || far(no) {
                        *is_long = true;
                        grown = true;
                    }
                }
            }
            if !grown {
                return self.resolve(&long, &starts);
            }
        }
    }

    /// First instruction of each line, and the end.
    fn starts(&self, long: &[bool]) -> Vec<usize> {
        let mut at = 0;
        let mut starts = Vec::with_capacity(self.lines.len() + 1);
        for (place, line) in self.lines.iter().enumerate() {
            starts.push(at);
            at += match line {
                // A jump to the next instruction is none.
                Line::Goto(label) if self.labels.get(label.0) == Some(&(place + 1)) => 0,
                Line::Jump { .. } if long.get(place) == Some(&true) => 3,
                Line::Plain(_) | Line::Jump { .. } | Line::Goto(_) => 1,
            };
        }
        starts.push(at);
        starts
    }

    fn target(&self, label: Label, starts: &[usize]) -> usize {
        let line = self.labels.get(label.0).copied().unwrap_or(usize::MAX);
        starts.get(line).copied().unwrap_or(usize::MAX)
    }

    fn resolve(&self, long: &[bool], starts: &[usize]) -> Result<Program, TooComplex> {
        let mut code = Vec::new();
        for (place, line) in self.lines.iter().enumerate() {
            let distance = |label: Label, after: usize| self.target(label, starts) - after;
            let here = code.len();
            match *line {
                Line::Plain(instruction) => code.push(instruction),
                Line::Goto(label) => {
                    if starts.get(place) != starts.get(place + 1) {
                        let k = u32::try_from(distance(label, here + 1)).map_err(|_| TooComplex)?;
                        code.push(Instruction::plain(op::JA, k));
                    }
                }
                Line::Jump {
                    code: operation,
                    k,
                    yes,
                    no,
                } if long.get(place) == Some(&true) => {
                    code.push(Instruction {
                        code: operation,
                        jt: 0,
                        jf: 1,
                        k,
                    });
                    for (label, after) in [(yes, here + 2), (no, here + 3)] {
                        let k = u32::try_from(distance(label, after)).map_err(|_| TooComplex)?;
                        code.push(Instruction::plain(op::JA, k));
                    }
                }
                Line::Jump {
                    code: operation,
                    k,
                    yes,
                    no,
                } => code.push(Instruction {
                    code: operation,
                    jt: u8::try_from(distance(yes, here + 1)).map_err(|_| TooComplex)?,
                    jf: u8::try_from(distance(no, here + 1)).map_err(|_| TooComplex)?,
                    k,
                }),
            }
        }
        Program::new(code).map_err(|_| TooComplex)
    }
}
