//! The kernel's filter machine, as far as our programs use it: so that programs for other machines can be tried here.

use super::program::{ANSWER, IF_ABOVE, IF_BITS, IF_EQUAL, IF_FROM, Insn, JUMP, LOAD};

/// The kernel takes no longer programs (`BPF_MAXINSNS`).
pub const INSTRUCTIONS_MAX: usize = 4096;

/// What a filter sees of a call: `struct seccomp_data`.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub number: u32,
    pub architecture: u32,
    pub arguments: [u64; 6],
}

impl Call {
    /// As it lies in memory on a little-endian machine.
    fn bytes(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[..4].copy_from_slice(&self.number.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.architecture.to_le_bytes());
        for (place, argument) in bytes[16..].chunks_exact_mut(8).zip(self.arguments) {
            place.copy_from_slice(&argument.to_le_bytes());
        }
        bytes
    }
}

/// Runs a program to its end: its answer, and how many instructions that took. Panics where the kernel would refuse to
/// install it: jumps out of it, unknown instructions, too many of them.
pub fn run(program: &[Insn], call: &Call) -> (u32, usize) {
    assert!(program.len() <= INSTRUCTIONS_MAX);
    let data = call.bytes();
    let (mut at, mut held, mut steps) = (0, 0_u32, 0);
    loop {
        let Insn { code, jt, jf, k } = program[at];
        at += 1;
        steps += 1;
        let branch = |holds: bool| usize::from(if holds { jt } else { jf });
        match code {
            LOAD => {
                let place = k as usize;
                assert!(place.is_multiple_of(4), "loads are aligned");
                held = u32::from_le_bytes(data[place..place + 4].try_into().expect("four bytes"));
            }
            JUMP => at += k as usize,
            IF_EQUAL => at += branch(held == k),
            IF_ABOVE => at += branch(held > k),
            IF_FROM => at += branch(held >= k),
            IF_BITS => at += branch(held & k != 0),
            ANSWER => return (k, steps),
            code => panic!("{code:#x} is no instruction of ours"),
        }
    }
}
