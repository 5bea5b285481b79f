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
    // Of others alone, sticky means as little as set-id.
    if permissions.contains('t') && (who[0] || who[1]) {
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    use super::*;

    // But for the sticky bit, and for what `X` sees after an earlier clause: there chmods differ.
    #[test]
    fn letters_do_what_chmod_does() {
        let dir = tempfile::tempdir().unwrap();
        let olds = [0o000, 0o644, 0o755, 0o600, 0o711, 0o4755, 0o2755, 0o777, 0o6750, 0o6077];
        let path = |is_dir: bool, old: u32| dir.path().join(format!("{is_dir}-{old:o}"));
        for (is_dir, old) in [false, true].into_iter().flat_map(|is_dir| olds.map(|old| (is_dir, old))) {
            let path = path(is_dir, old);
            if is_dir { fs::create_dir(path).unwrap() } else { fs::write(path, "").unwrap() }
        }
        for text in [
            "u=rwX,go=rX",
            "a+X",
            "+x",
            "-x",
            "=r",
            "=",
            "a=",
            "u=,g=,o=",
            "go-rwx",
            "ug+w,o-r",
            "u+s",
            "g+s",
            "ug+s",
            "a+s",
            "o+s",
            "u-s",
            "g-s",
            "a-s",
            "u=rws",
            "g=rxs",
            "u=rwx",
            "g=rx",
            "o=",
            "g=u",
            "o=g",
            "u=o",
            "g+u",
            "o-u",
            "a=u",
            "go=u",
            "u=rw,g=u,o=g",
            "u+r-w",
            "u=r+w-x",
            "a=rX,u+w",
            "u=X",
            "o+X,o-X",
            "ugo=rw",
            "uu+x",
            "u+xx",
            "g=s",
            "+s",
        ] {
            let change = ModeChange::new(&CopyMode::Symbolic(text.into())).unwrap();
            let mut all = Vec::new();
            for (is_dir, old) in [false, true].into_iter().flat_map(|is_dir| olds.map(|old| (is_dir, old))) {
                fs::set_permissions(path(is_dir, old), fs::Permissions::from_mode(old)).unwrap();
                all.push((is_dir, old));
            }
            let script = "umask 0; cd \"$1\" && exec chmod -- \"$2\" *";
            let status = Command::new("sh").args(["-c", script, "sh"]).arg(dir.path()).arg(text).status();
            assert!(status.unwrap().success(), "{text}");
            for (is_dir, old) in all {
                let expected = fs::metadata(path(is_dir, old)).unwrap().permissions().mode() & 0o7777;
                let got = change.apply(old, is_dir);
                assert_eq!(got, expected, "{text} on {old:o}, directory: {is_dir}: {got:o}, chmod says {expected:o}");
            }
        }
    }

    #[test]
    fn sticky_is_set_for_all_and_kept_unless_all_are_said() {
        for (text, old, expected) in [
            ("+t", 0o755, 0o1755),
            ("a+t", 0o755, 0o1755),
            ("u+t", 0o755, 0o1755),
            ("o+t", 0o755, 0o755),
            ("-t", 0o1777, 0o777),
            ("a-t", 0o1777, 0o777),
            ("u=rwX,go=rX", 0o1777, 0o1755),
            ("a=rx", 0o1777, 0o555),
            ("a=rwxt", 0o700, 0o1777),
            ("a=rwxst", 0o700, 0o7777),
        ] {
            let change = ModeChange::new(&CopyMode::Symbolic(text.into())).unwrap();
            assert_eq!(change.apply(old, false), expected, "{text} on {old:o}");
        }
    }

    #[test]
    fn what_says_nothing_is_refused() {
        for text in ["", "x", "u", "u=q", "u+rw,", ",u+r", "z+r", "u=ug", "u=gr", "755x", "u r", "u+r g+r"] {
            assert!(ModeChange::new(&CopyMode::Symbolic(text.into())).is_err(), "{text}");
        }
        assert!(ModeChange::new(&CopyMode::Bits(0o10000)).is_err());
        assert_eq!(ModeChange::new(&CopyMode::Bits(0o7777)).unwrap().apply(0, true), 0o7777);
    }
}
