//! The committed instruction counts: their text, and what differs from them.
//!
//! In: the text of `benches/instructions.txt`, and counts. Out: a text, or a verdict on every case in words. Deliberately
//! absent: files and valgrind, which are [`crate::instructions`]'.
//!
//! ```text
//! # a comment
//! # with rustc 1.95.0 (59807616e 2026-04-14)      what the counts depend on beside the code, a line each
//! gzip 312904421                                  a case and its instructions; sorted by name, each name once
//! ```

use std::collections::BTreeMap;

use thiserror::Error;

/// Who is so many per cent above or below the baseline is told of.
pub const TOLERANCE_PERCENT: u64 = 3;

const HEAD: &str = "\
# Instructions of the hot paths of a build (benches/micro/cases.rs), as valgrind's callgrind counts them.
# `make instructions` compares within 3 %; `make instructions-update` writes this file.
";
const WITH: &str = "# with ";

/// Counts, and what they depend on beside the code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baseline {
    /// Compilers, libraries, valgrind and the kind of machine, a line each.
    pub with: Vec<String>,
    /// Instructions by case.
    pub counts: BTreeMap<String, u64>,
}

/// What is wrong with a baseline's text.
#[derive(Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum BaselineError {
    #[error("line {number} is not a name and a number above 0: `{line}`")]
    Line { number: usize, line: String },
    #[error("line {number}: `{name}` is not sorted behind `{before}`")]
    Order { number: usize, name: String, before: String },
}

impl Baseline {
    /// Reads a text. Names must be sorted, so that two updates never differ in order.
    pub fn read(text: &str) -> Result<Self, BaselineError> {
        let mut baseline = Self::default();
        for (at, line) in text.lines().enumerate() {
            let number = at + 1;
            if let Some(with) = line.strip_prefix(WITH) {
                baseline.with.push(with.to_owned());
            }
            if line.starts_with('#') {
                continue;
            }
            let parsed = line.split_once(' ').and_then(|(name, count)| Some((name, count.parse().ok()?)));
            let Some((name, count @ 1..)) = parsed else {
                return Err(BaselineError::Line { number, line: line.to_owned() });
            };
            let name = name.to_owned();
            if let Some((before, _)) = baseline.counts.last_key_value().filter(|(before, _)| **before >= name) {
                return Err(BaselineError::Order { number, name, before: before.clone() });
            }
            baseline.counts.insert(name, count);
        }
        Ok(baseline)
    }

    /// The text of it.
    pub fn write(&self) -> String {
        let with = self.with.iter().map(|with| format!("{WITH}{with}\n"));
        let counts = self.counts.iter().map(|(name, count)| format!("{name} {count}\n"));
        format!("{HEAD}{}{}", with.collect::<String>(), counts.collect::<String>())
    }

    /// A case's row.
    pub fn row(&self, name: &str, now: Option<u64>) -> Row {
        Row { name: name.to_owned(), baseline: self.counts.get(name).copied(), now }
    }
}

/// A case, as it was and as it is.
pub struct Row {
    /// The case.
    pub name: String,
    /// Its instructions in the baseline, if it is there.
    pub baseline: Option<u64>,
    /// Its instructions now, if there still is such a case.
    pub now: Option<u64>,
}

impl Row {
    /// A line of the table.
    pub fn line(&self) -> String {
        let count = |count: Option<u64>| count.map_or("-".to_owned(), thousands);
        let change = self.baseline.zip(self.now).map_or("-".to_owned(), |(before, now)| per_cent(before, now));
        format!("{:<16} {:>16} {:>16} {change:>10}", self.name, count(self.baseline), count(self.now))
    }

    /// What is wrong with it, and what to do; nothing if it is as it was.
    pub fn complaint(&self) -> Option<String> {
        let name = &self.name;
        let (before, now) = match (self.baseline, self.now) {
            (Some(before), Some(now)) => (before, now),
            (None, _) => {
                return Some(format!(
                    "`{name}` has no baseline\n  help: `make instructions-update` makes it; commit it with the case"
                ));
            }
            (_, None) => {
                return Some(format!(
                    "`{name}` is in the baseline, and no case\n  help: `make instructions-update` takes it out"
                ));
            }
        };
        let (of_before, of_now) = (u128::from(before), u128::from(now) * 100);
        let help = if of_now > of_before * u128::from(100 + TOLERANCE_PERCENT) {
            "find out why (valgrind --tool=callgrind, callgrind_annotate); if it is meant, accept it with\n  \
             `make instructions-update`, and say in the commit what is bought with it"
        } else if of_now < of_before * u128::from(100 - TOLERANCE_PERCENT) {
            "the baseline can be lowered: make instructions-update"
        } else {
            return None;
        };
        Some(format!(
            "`{name}` takes {} instructions, the baseline says {}: {}, {:.3} times as many\n  help: {help}",
            thousands(now),
            thousands(before),
            per_cent(before, now),
            now as f64 / before as f64,
        ))
    }
}

fn per_cent(before: u64, now: u64) -> String {
    format!("{:+.2} %", (now as f64 - before as f64) * 100.0 / before as f64)
}

/// 1234567 as 1,234,567.
fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::CASES;

    #[test]
    fn the_committed_baseline_has_every_counted_case_and_no_other() {
        let baseline = Baseline::read(include_str!("../instructions.txt")).expect("it is committed");
        let mut cases: Vec<&str> = CASES.iter().filter(|case| case.is_counted).map(|case| case.name).collect();
        cases.sort();
        assert_eq!(baseline.counts.keys().map(String::as_str).collect::<Vec<_>>(), cases);
        assert_eq!(baseline.write(), include_str!("../instructions.txt"));
    }

    #[test]
    fn a_text_is_read_as_it_was_written_and_refused_otherwise() {
        let baseline = Baseline {
            with: vec!["rustc 1".into(), "glibc 2".into()],
            counts: [("gzip".into(), 7), ("keys".into(), u64::MAX)].into(),
        };
        assert_eq!(Baseline::read(&baseline.write()), Ok(baseline));
        let check = |text: &str, expected: &str| {
            let error = Baseline::read(text).expect_err(text);
            assert_eq!(error.to_string(), expected, "{text}");
        };
        check("gzip", "line 1 is not a name and a number above 0: `gzip`");
        check("# x\ngzip -1", "line 2 is not a name and a number above 0: `gzip -1`");
        // Nothing is 3 % above nothing.
        check("gzip 0", "line 1 is not a name and a number above 0: `gzip 0`");
        check("gzip 1\n\nkeys 2", "line 2 is not a name and a number above 0: ``");
        check("keys 1\ngzip 1", "line 2: `gzip` is not sorted behind `keys`");
        check("keys 1\nkeys 1", "line 2: `keys` is not sorted behind `keys`");
    }

    #[test]
    fn more_and_fewer_than_three_per_cent_are_told_of_with_what_to_do() {
        let check = |baseline: Option<u64>, now: Option<u64>, expected: &[&str]| {
            let complaint = Row { name: "keys".into(), baseline, now }.complaint();
            assert_eq!(complaint.is_some(), !expected.is_empty(), "{baseline:?} {now:?} {complaint:?}");
            for words in expected {
                let complaint = complaint.as_deref().unwrap_or_default();
                assert!(complaint.contains(words), "{baseline:?} {now:?}: {complaint}");
            }
        };
        check(Some(1_000_000), Some(1_000_000), &[]);
        check(Some(1_000_000), Some(1_030_000), &[]);
        check(Some(1_000_000), Some(970_000), &[]);
        check(
            Some(1_000_000),
            Some(1_030_001),
            &["`keys` takes 1,030,001 instructions, the baseline says 1,000,000: +3.00 %", "accept it with"],
        );
        check(Some(1_000_000), Some(2_500_000), &["+150.00 %, 2.500 times as many", "make instructions-update"]);
        check(
            Some(1_000_000),
            Some(969_999),
            &["-3.00 %, 0.970 times", "the baseline can be lowered: make instructions-update"],
        );
        check(Some(u64::MAX), Some(u64::MAX), &[]);
        check(None, Some(1), &["`keys` has no baseline", "make instructions-update"]);
        check(Some(1), None, &["`keys` is in the baseline, and no case"]);
    }

    #[test]
    fn a_row_shows_both_counts_and_the_change() {
        let row = Row { name: "keys".into(), baseline: Some(1_000), now: Some(12_345_678) };
        assert_eq!(row.line(), "keys                        1,000       12,345,678 +1234467.80 %");
        let row = Row { name: "keys".into(), baseline: None, now: Some(999) };
        assert_eq!(row.line(), "keys                            -              999          -");
    }
}
