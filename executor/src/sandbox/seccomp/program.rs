//! From the facts to a program for the kernel's filter machine (classic BPF over `struct seccomp_data`).
//!
//! In come a machine and the capabilities that a step has, out goes the program; nothing is touched. Its form:
//!
//! ```text
//!  architecture? ─► x86-64 and x32 ─► binary search of the number ─► allow | EPERM | ENOSYS | tests of the argument
//!               ├─► i386           ─► …
//!               └─► any other: EPERM
//! ```
//!
//! Neighbouring numbers with the same answer are one segment, so a call costs about eight comparisons; and the kernel,
//! which runs a new program once per number to learn which calls it always allows, is done soon. It also translates each
//! program anew for each step, so a program is short: comparisons that lead to the same answer share it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::facts::{Action, RULES, Rule, Test};
use super::numbers::{ABSENT, NEWEST, NUMBERS};

/// One instruction, as `struct sock_filter` has it. In a plan it is one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "u64", into = "u64")]
pub struct Insn {
    /// What it does.
    pub code: u16,
    /// How many instructions are skipped when its comparison holds.
    pub jt: u8,
    /// And when it does not.
    pub jf: u8,
    /// Its constant.
    pub k: u32,
}

impl From<Insn> for u64 {
    fn from(Insn { code, jt, jf, k }: Insn) -> Self {
        u64::from(code) << 48 | u64::from(jt) << 40 | u64::from(jf) << 32 | u64::from(k)
    }
}

impl From<u64> for Insn {
    fn from(number: u64) -> Self {
        Self { code: (number >> 48) as u16, jt: (number >> 40) as u8, jf: (number >> 32) as u8, k: number as u32 }
    }
}

/// Loads the word at `k` of `struct seccomp_data`.
pub const LOAD: u16 = 0x20;
/// Skips `k` instructions.
pub const JUMP: u16 = 0x05;
/// Compares: equal to `k`, greater than it, greater or equal; shares a bit with it.
pub const IF_EQUAL: u16 = 0x15;
/// See [`IF_EQUAL`].
pub const IF_ABOVE: u16 = 0x25;
/// See [`IF_EQUAL`].
pub const IF_FROM: u16 = 0x35;
/// See [`IF_EQUAL`].
pub const IF_BITS: u16 = 0x45;
/// Ends with the answer `k`.
pub const ANSWER: u16 = 0x06;

/// The answer that lets a call through: `SECCOMP_RET_ALLOW`.
pub const ALLOW: u32 = 0x7fff_0000;
/// The answer that is an error number in the lower half: `SECCOMP_RET_ERRNO`.
pub const ERRNO: u32 = 0x0005_0000;
/// What a refused call fails with.
pub const EPERM: u32 = 1;
/// What a call fails with that there shall not be.
pub const ENOSYS: u32 = 38;

/// Offsets in `struct seccomp_data`: the number, the architecture, the lower half of the first argument (our machines
/// are little-endian).
pub const NUMBER_AT: u32 = 0;
/// See [`NUMBER_AT`].
pub const ARCHITECTURE_AT: u32 = 4;
/// See [`NUMBER_AT`].
pub const ARGUMENT_AT: u32 = 16;

/// A way to call the kernel.
pub struct Abi {
    /// Column of [`NUMBERS`].
    pub column: usize,
    /// What is added to each number.
    pub base: u32,
}

/// What the kernel calls an architecture (`AUDIT_ARCH_*`), and the ways to call it as that.
pub struct Architecture {
    /// Its name for the kernel.
    pub audit: u32,
    /// Ascending by base.
    pub abis: &'static [Abi],
}

/// The bit that marks numbers of x32.
pub const X32: u32 = 0x4000_0000;

/// The architectures whose processes run on `machine`; `None` when nothing is known of it.
pub fn architectures(machine: &str) -> Option<&'static [Architecture]> {
    const X86: &[Architecture] = &[
        Architecture { audit: 0xc000_003e, abis: &[Abi { column: 0, base: 0 }, Abi { column: 1, base: X32 }] },
        Architecture { audit: 0x4000_0003, abis: &[Abi { column: 2, base: 0 }] },
    ];
    const ARM: &[Architecture] = &[
        Architecture { audit: 0xc000_00b7, abis: &[Abi { column: 3, base: 0 }] },
        Architecture { audit: 0x4000_0028, abis: &[Abi { column: 4, base: 0 }] },
    ];
    match machine {
        "x86_64" => Some(X86),
        "aarch64" => Some(ARM),
        _ => None,
    }
}

/// The program for steps on `machine` (as `std::env::consts::ARCH` has it) that have these capabilities, by kernel name
/// without `CAP_`; `None` when nothing is known of the machine.
pub fn program(machine: &str, capabilities: &[String]) -> Option<Vec<Insn>> {
    let mut program = Backwards::default();
    let mut other = program.answer(ERRNO | EPERM);
    for architecture in architectures(machine)?.iter().rev() {
        search(&segments(architecture.abis, machine, capabilities), &mut program);
        let body = program.put(Insn { code: LOAD, jt: 0, jf: 0, k: NUMBER_AT });
        other = program.compare(IF_EQUAL, architecture.audit, body, other);
    }
    program.put(Insn { code: LOAD, jt: 0, jf: 0, k: ARCHITECTURE_AT });
    program.instructions.reverse();
    Some(program.instructions)
}

/// A program that is written from its end: filter programs only jump forwards, so whatever is jumped to is there
/// already, and equal answers are shared by all that reach them.
#[derive(Default)]
struct Backwards {
    /// The last one first.
    instructions: Vec<Insn>,
    /// The answers that are there.
    answers: BTreeMap<u32, Place>,
}

/// Where an instruction is: how many stand behind it.
type Place = usize;

impl Backwards {
    fn put(&mut self, insn: Insn) -> Place {
        self.instructions.push(insn);
        self.instructions.len() - 1
    }

    /// How many instructions the next one skips to get there.
    fn distance(&self, to: Place) -> usize {
        self.instructions.len() - 1 - to
    }

    fn answer(&mut self, value: u32) -> Place {
        if let Some(&place) = self.answers.get(&value).filter(|&&place| self.distance(place) <= NEAR) {
            return place;
        }
        let place = self.put(Insn { code: ANSWER, jt: 0, jf: 0, k: value });
        self.answers.insert(value, place);
        place
    }

    fn compare(&mut self, code: u16, k: u32, holds: Place, fails: Place) -> Place {
        let fails = self.nearer(fails);
        let holds = self.nearer(holds);
        let skip = |to| u8::try_from(self.distance(to)).expect("one more than near fits into a byte");
        self.put(Insn { code, jt: skip(holds), jf: skip(fails), k })
    }

    /// The place itself, or that of a jump to it.
    fn nearer(&mut self, to: Place) -> Place {
        match self.distance(to) {
            ..=NEAR => to,
            distance => self.put(Insn { code: JUMP, jt: 0, jf: 0, k: distance as u32 }),
        }
    }
}

/// So far a comparison skips, and a jump may still be put between: 255 is the most.
const NEAR: usize = 254;

/// What is answered to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Decision {
    Answer(u32),
    /// Allowed when any test passes, else refused.
    Tests(Vec<Test>),
}

/// Decisions from a number up to the next one's, for all numbers, ascending.
type Segments = Vec<(u32, Decision)>;

fn segments(abis: &[Abi], machine: &str, capabilities: &[String]) -> Segments {
    let mut segments = Segments::new();
    let mut add = |start: u32, decision: Decision| {
        if segments.last().is_none_or(|(_, last)| *last != decision) {
            segments.push((start, decision));
        }
    };
    for abi in abis {
        let refused = || Decision::Answer(ERRNO | EPERM);
        let absent = || Decision::Answer(ERRNO | ENOSYS);
        let newest = abi.base + NEWEST;
        let mut next = abi.base;
        for (number, decision) in decisions(abi, machine, capabilities) {
            if next < number && next <= newest {
                add(next, refused());
            }
            if newest + 1 < number && next <= newest + 1 {
                add(newest + 1, absent());
            } else if next < number && next > newest {
                add(next, absent());
            }
            add(number, decision);
            next = number + 1;
        }
        if next <= newest {
            add(next, refused());
        }
        add(next.max(newest + 1), absent());
    }
    segments
}

/// What the rules say of the numbers that they name.
fn decisions(abi: &Abi, machine: &str, capabilities: &[String]) -> BTreeMap<u32, Decision> {
    let has = |capability: &str| capabilities.iter().any(|name| name == capability);
    let mut decisions = BTreeMap::new();
    for rule in RULES {
        let Rule { action, machines, with, without, test, names } = *rule;
        let holds =
            (machines.is_empty() || machines.contains(&machine)) && with.is_none_or(has) && !without.is_some_and(has);
        if !holds {
            continue;
        }
        for name in names {
            let Ok(row) = NUMBERS.binary_search_by_key(name, |(name, _)| name) else { continue };
            let number = match NUMBERS[row].1[abi.column] {
                ABSENT => continue,
                number => abi.base + number as u32,
            };
            let known = decisions.remove(&number);
            decisions.insert(number, combined(known, action, test));
        }
    }
    decisions
}

/// What holds when one more rule speaks of a call.
fn combined(known: Option<Decision>, action: Action, test: Option<Test>) -> Decision {
    match (known, action, test) {
        (Some(Decision::Answer(ALLOW)), ..) | (_, Action::Allow, None) => Decision::Answer(ALLOW),
        (Some(Decision::Tests(mut tests)), Action::Allow, Some(test)) => {
            tests.push(test);
            Decision::Tests(tests)
        }
        (_, Action::Allow, Some(test)) => Decision::Tests(vec![test]),
        (_, Action::Absent, _) => Decision::Answer(ERRNO | ENOSYS),
    }
}

/// Writes the search for the segment of the number that is loaded, and what is done there.
fn search(segments: &[(u32, Decision)], program: &mut Backwards) -> Place {
    let [(_, decision)] = segments else {
        let (below, from) = segments.split_at(segments.len() / 2);
        let start = from[0].0;
        let from = search(from, program);
        let below = search(below, program);
        return program.compare(IF_FROM, start, from, below);
    };
    match decision {
        Decision::Answer(value) => program.answer(*value),
        Decision::Tests(tests) => {
            let allowed = program.answer(ALLOW);
            let mut otherwise = program.answer(ERRNO | EPERM);
            for test in tests.iter().rev() {
                otherwise = match *test {
                    Test::Below(k) => program.compare(IF_FROM, k, otherwise, allowed),
                    Test::Is(k) => program.compare(IF_EQUAL, k, allowed, otherwise),
                    Test::Above(k) => program.compare(IF_ABOVE, k, allowed, otherwise),
                    Test::Clear(k) => program.compare(IF_BITS, k, otherwise, allowed),
                };
            }
            program.put(Insn { code: LOAD, jt: 0, jf: 0, k: ARGUMENT_AT })
        }
    }
}
