//! `--chmod`: octal numbers and chmod(1)'s language.
//!
//! In: `u=rwX,go=rX`. Out: a function from old permission bits to new ones. A clause without `u`, `g`, `o`, `a` means
//! all three: a build has no umask. `X` looks at the bits as they were before the whole change, as POSIX says.

use solver::op::CopyMode;

/// Bits of one class, by position.
const SHIFTS: [(char, u32); 3] = [('u', 6), ('g', 3), ('o', 0)];

/// A mode that says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a mode: octal digits up to 7777 are expected, or chmod's letters, like `u=rwX,go=rX`")]
pub struct ModeError {
    /// The mode as written.
    pub text: String,
}

/// How permission bits change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModeChange(Vec<Clause>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Clause {
    Exactly(u32),
    Change { who: [bool; 3], operator: char, permissions: String },
}

impl ModeChange {
    /// Reads a mode.
    pub fn new(mode: &CopyMode) -> Result<Self, ModeError> {
        match mode {
            CopyMode::Bits(bits) if *bits <= 0o7777 => Ok(Self(vec![Clause::Exactly(*bits)])),
            CopyMode::Bits(bits) => Err(ModeError { text: format!("{bits:o}") }),
            CopyMode::Symbolic(text) => symbolic(text).map(Self).ok_or_else(|| ModeError { text: text.clone() }),
        }
    }

    /// The new bits.
    pub fn apply(&self, old: u32, is_dir: bool) -> u32 {
        let executable = is_dir || old & 0o111 != 0;
        self.0.iter().fold(old, |mode, clause| match clause {
            Clause::Exactly(bits) => *bits,
            Clause::Change { who, operator, permissions } => {
                change(mode, is_dir, executable, *who, *operator, permissions)
            }
        })
    }
}

fn symbolic(text: &str) -> Option<Vec<Clause>> {
    let mut clauses = Vec::new();
    for clause in text.split(',') {
        let operators = clause.find(['+', '-', '='])?;
        let (classes, mut rest) = clause.split_at(operators);
        let mut who = [false; 3];
        for class in classes.chars() {
            match class {
                'u' => who[0] = true,
                'g' => who[1] = true,
                'o' => who[2] = true,
                'a' => who = [true; 3],
                _ => return None,
            }
        }
        if classes.is_empty() {
            who = [true; 3];
        }
        while let Some(operator) = rest.chars().next() {
            let after = &rest[1..];
            let end = after.find(['+', '-', '=']).unwrap_or(after.len());
            let permissions = &after[..end];
            let copies = permissions.chars().all(|c| "ugo".contains(c)) && permissions.len() == 1;
            if !copies && !permissions.chars().all(|c| "rwxXst".contains(c)) {
                return None;
            }
            clauses.push(Clause::Change { who, operator, permissions: permissions.to_owned() });
            rest = &after[end..];
        }
    }
    Some(clauses)
}

fn change(mode: u32, is_dir: bool, executable: bool, who: [bool; 3], operator: char, permissions: &str) -> u32 {
    let mut bits = 0;
    let mut affected = 0;
    for (chosen, (_, shift)) in who.iter().zip(SHIFTS) {
        if !chosen {
            continue;
        }
        affected |= 0o7 << shift;
        for permission in permissions.chars() {
            bits |= match permission {
                'r' => 0o4 << shift,
                'w' => 0o2 << shift,
                'x' => 0o1 << shift,
                'X' if executable => 0o1 << shift,
                // The class that is copied from.
                class => SHIFTS
                    .iter()
                    .find(|(name, _)| *name == class)
                    .map_or(0, |(_, from)| ((mode >> from) & 0o7) << shift),
            };
        }
    }
    let special = [(who[0] && permissions.contains('s'), 0o4000), (who[1] && permissions.contains('s'), 0o2000)];
    bits |= special.iter().filter(|(set, _)| *set).map(|(_, bit)| bit).sum::<u32>();
    if permissions.contains('t') {
        bits |= 0o1000;
    }
    if who[0] {
        affected |= 0o4000;
    }
    if who[1] {
        affected |= 0o2000;
    }
    if who == [true; 3] {
        affected |= 0o1000;
    }
    match operator {
        '+' => mode | bits,
        '-' => mode & !bits,
        // Like chmod(1), a directory keeps its special bits unless they are named.
        _ if is_dir => (mode & !(affected & 0o777)) | bits,
        _ => (mode & !affected) | bits,
    }
}
