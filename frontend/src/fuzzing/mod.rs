//! What each fuzz target does with its input: the same code runs under the fuzzer (`fuzz/`) and, on the stored inputs
//! of `testdata/fuzz/<target>/`, as ordinary tests (`corpus`).
//!
//! In come bytes. Nothing comes out; what must hold of every input is asserted, the work included: it is counted, and
//! bounded by the length of the input. Absent from the product.

#[cfg(test)]
mod corpus;

mod dockerfile;

use crate::expand::{Budget, Lookup, NoVariables, Rules, expand, expand_words};
use crate::instr::duration;
use crate::lower::values;
use crate::{heredoc, meter};

pub use dockerfile::{check, lexer, plan};

/// A target: its name, what it does, and the folders of `testdata/fuzz` that hold inputs for it.
pub type Target = (&'static str, fn(&[u8]), &'static [&'static str]);

/// All targets. Those that read a whole Dockerfile share their inputs.
pub const TARGETS: &[Target] = &[
    ("lexer", lexer, &["lexer", "plan", "check"]),
    ("plan", plan, &["lexer", "plan", "check"]),
    ("check", check, &["lexer", "plan", "check"]),
    ("words", words, &["words"]),
    ("ignore", ignore, &["ignore"]),
    ("git_ref", git_ref, &["git_ref"]),
];

/// What one expansion may cost here.
const BUDGET: u64 = 1 << 20;

/// Asserts that the work takes at most so many steps.
fn bounded(most: u64, work: impl FnOnce()) {
    let steps = meter::count(work);
    assert!(steps <= most, "{steps} steps, and {most} are enough");
}

/// A few variables of every kind.
struct Variables;

impl Lookup for Variables {
    fn value(&self, name: &str) -> Option<&str> {
        Some(match name {
            "A" => "alpha",
            "B" => "a*b?c\\d}e/f'g\"h",
            "E" => "",
            "L" => concat!("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab"),
            "P" => "/usr/local/lib/libfoo.so.1",
            "S" => " two  words\t",
            "U" => "äöü\nß",
            "1" | "@" | "#" => "x",
            _ => return None,
        })
    }
}

/// Cutting into words, expanding under the rules of every place, and what else is read from a single word.
pub fn words(data: &[u8]) {
    let text = &*String::from_utf8_lossy(data);
    let describe = Rules { keep_quotes: true, keep_unset: true, ..Rules::ordinary('\\') };
    let rules = [
        Rules::ordinary('\\'),
        Rules::ordinary('`'),
        describe,
        Rules { keep_escapes: true, ..describe },
        Rules { plain_quotes: true, ..Rules::ordinary('\\') },
        Rules { form_only: true, ..Rules::ordinary('\\') },
    ];
    // Per way of reading: each character is looked at a few times, and what patterns do is paid from the budget.
    bounded(rules.len() as u64 * 4 * (32 * text.len() as u64 + BUDGET), || {
        for escape in ['\\', '`'] {
            ascending(text, &crate::words::split(text, escape));
        }
        ascending(text, &crate::words::fields(text));
        let (first, rest) = crate::words::first_field(text);
        assert!(first.end <= rest && text.is_char_boundary(rest));
        for rules in rules {
            for variables in [&NoVariables as &dyn Lookup, &Variables] {
                let whole = expand(text, rules, variables, &Budget::new(BUDGET));
                let words = expand_words(text, rules, variables, &Budget::new(BUDGET));
                assert_eq!(whole.is_ok(), words.is_ok(), "{whole:?} {words:?}");
                if let (Ok(whole), Ok((words, unset))) = (whole, words) {
                    assert_eq!(whole.unset, unset);
                    assert!(words.iter().all(|word| !word.is_empty()));
                    assert!(words.iter().map(String::len).sum::<usize>() <= whole.text.len());
                }
            }
        }
        assert!(heredoc::openings(text).iter().all(|opening| !opening.name.is_empty()));
    });
    if let Some(time) = duration::parse(text) {
        assert_eq!(duration::parse(&duration::show(time)), Some(time));
    }
    let refused = [values::owner(text).err(), values::mode(text).err(), values::ports(text).err()];
    assert!(refused.into_iter().flatten().all(|refusal| !refusal.message.is_empty()));
    std::hint::black_box((values::signal(text).is_ok(), values::size(text)));
}

/// Ranges lie in the text, one after the other, and none is empty.
fn ascending(text: &str, ranges: &[std::ops::Range<usize>]) {
    assert!(ranges.iter().all(|range| text.get(range.clone()).is_some_and(|word| !word.is_empty())), "{ranges:?}");
    assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start), "{ranges:?}");
}

/// An ignore file, a line `--`, and paths. Every way to ask whether a path is matched says the same.
pub fn ignore(data: &[u8]) {
    use solver::pattern::Patterns;

    let text = &*String::from_utf8_lossy(data);
    let (file, paths) = text.split_once("\n--\n").unwrap_or((text, "a\na/b\na/b/c.txt\n.git/config"));
    let lines = crate::parse_ignore(file);
    assert!(lines.windows(2).all(|pair| pair[0].line < pair[1].line));
    let patterns: Vec<&str> = lines.iter().map(|line| line.pattern.as_str()).collect();
    assert!(patterns.iter().all(|pattern| !pattern.is_empty()));
    let Ok(patterns) = Patterns::new(&patterns) else { return };
    for path in paths.lines() {
        // Paths of a walk: relative, without empty parts, `.` or `..`.
        let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | "." | "..")).collect();
        let mut marks = patterns.no_marks();
        for depth in 1..=parts.len() {
            let path = parts[..depth].join("/");
            let path = path.as_bytes();
            let matched = patterns.matches(path);
            assert_eq!(patterns.matched_by(path).is_some_and(|(_, pattern)| !pattern.starts_with('!')), matched);
            assert_eq!(patterns.matches_in(path, &marks), matched, "{path:?}");
            for above in 1..depth {
                let above = parts[..above].join("/");
                assert!(!matched || patterns.matches(above.as_bytes()) || patterns.may_match_beneath(above.as_bytes()));
            }
            marks = patterns.marks_beneath(path, &marks);
        }
    }
}

/// The address of a git repository: whatever is accepted is harmless to the program that gets it.
pub fn git_ref(data: &[u8]) {
    let text = &*String::from_utf8_lossy(data);
    for context in [false, true] {
        let Some(parsed) = crate::git::parse(text, context) else { continue };
        let git = match parsed {
            Ok(git) => git,
            Err(refused) => {
                assert!(!refused.to_string().is_empty() && !refused.help().is_empty());
                continue;
            }
        };
        let arguments = [Some(&git.remote), git.reference.as_ref(), git.commit.as_ref()];
        for part in arguments.into_iter().flatten() {
            assert!(!part.is_empty() && !part.starts_with('-') && !part.contains(char::is_control), "{git:?}");
        }
        // `name::rest` makes git run the program `git-remote-name`.
        let scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        assert!(!git.remote.trim_start_matches(scheme).starts_with("::"), "{git:?}");
        if let Some(subdir) = &git.subdir {
            assert!(!subdir.split('/').any(|part| matches!(part, "" | "." | "..")), "{git:?}");
            assert!(!subdir.contains(char::is_control), "{git:?}");
        }
        assert_eq!(git.source().scheme(), "git");
    }
}
