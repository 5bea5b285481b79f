//! Builds of the past, as people name them: which build is meant, which of its steps.
//!
//! In: words. Out: entries and places, or failures with advice. Deliberately absent: printing.

use solver::explain::Place;
use store::history::{Build, Entry, Head, Outcome};
use store::{Store, StoreError};

use super::{Failure, words};

/// Builds that one failure lists at most.
const CANDIDATES_MAX: usize = 8;

/// What a list of builds is narrowed down to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// How it ended.
    Status(Outcome),
    /// The directory of its context.
    Dir(String),
    /// A name that it gave.
    Tag(String),
}

impl Filter {
    /// Understands `NAME=VALUE`.
    ///
    /// # Errors
    /// With what there is.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = |message: String| {
            Failure::new(message).help("filters are `status=failed`, `dir=DIR` and `tag=NAME`, and may be given again")
        };
        match text.split_once('=') {
            Some(("status", value)) => {
                let all = [Outcome::Ok, Outcome::Failed, Outcome::Canceled, Outcome::Interrupted, Outcome::Running];
                let found = all.into_iter().find(|outcome| outcome.name() == value);
                found.map(Self::Status).ok_or_else(|| {
                    wrong(format!("`--filter status={value}`: there is no such status"))
                        .help("it is one of ok, failed, canceled, interrupted, running")
                })
            }
            Some(("dir", value)) => {
                let path = std::fs::canonicalize(value).or_else(|_| std::path::absolute(value));
                Ok(Self::Dir(path.map_or_else(|_| value.to_owned(), |path| path.to_string_lossy().into_owned())))
            }
            Some(("tag", value)) => {
                let name = value.parse::<oci::model::Reference>();
                Ok(Self::Tag(name.map_or_else(|_| value.to_owned(), |name| name.familiar())))
            }
            Some((name, _)) => Err(wrong(format!("`--filter {text}`: there is no filter `{name}`"))),
            None => Err(wrong(format!("`--filter {text}` has no value"))),
        }
    }

    fn takes(&self, head: &Head) -> bool {
        match self {
            Self::Status(outcome) => head.outcome == *outcome,
            Self::Dir(dir) => head.context == *dir,
            Self::Tag(name) => head.tags.contains(name),
        }
    }
}

/// The builds that all filters take, the latest first.
///
/// # Errors
/// When the store cannot be read.
pub fn list(store: &Store, filters: &[Filter]) -> Result<Vec<Entry>, Failure> {
    let entries = store.builds().map_err(|error| words::store(&error))?;
    Ok(entries.into_iter().filter(|entry| filters.iter().all(|filter| filter.takes(&entry.head))).collect())
}

/// The build that `text` means: `last`, an id, or the beginning of one.
///
/// # Errors
/// When there is none, or several.
pub fn find(store: &Store, text: &str) -> Result<Entry, Failure> {
    let entries = list(store, &[])?;
    let nothing = || Failure::new("there is no build in the history").help("every `rbuild build` is recorded there");
    if entries.is_empty() {
        return Err(nothing());
    }
    if text == "last" {
        return entries.into_iter().next().ok_or_else(nothing);
    }
    let mut found: Vec<Entry> = entries.into_iter().filter(|entry| entry.head.id.starts_with(text)).collect();
    match found.len() {
        0 => Err(Failure::new(format!("there is no build `{text}` in the history"))
            .help("`rbuild history ls` lists all; older ones are forgotten")),
        1 => Ok(found.remove(0)),
        _ => {
            let ids: Vec<&str> = found.iter().take(CANDIDATES_MAX).map(|entry| entry.head.id.as_str()).collect();
            let more = if found.len() > CANDIDATES_MAX { ", …" } else { "" };
            Err(Failure::new(format!("`{text}` stands for several builds: {}{more}", ids.join(", ")))
                .help("give more letters of the id"))
        }
    }
}

/// A build with its steps.
///
/// # Errors
/// When it is gone or damaged.
pub fn open(store: &Store, entry: &Entry) -> Result<Build, Failure> {
    let build = store.build(entry).map_err(|error| words::store(&error))?;
    build.ok_or_else(|| Failure::new(format!("the record of the build `{}` cannot be read", entry.head.id)))
}

/// The step that `text` means: `#4` or `4` as in plain output, `build 2/5`, `:12`, or words of its name.
///
/// # Errors
/// When there is none, or several.
pub fn step(build: &Build, text: &str) -> Result<usize, Failure> {
    let named = build.steps.iter().enumerate().filter(|(_, step)| !step.name.is_empty());
    let number = text.strip_prefix('#').unwrap_or(text).parse::<usize>().ok();
    let line = text.strip_prefix(':').and_then(|line| line.parse::<usize>().ok());
    let found: Vec<usize> = if let Some(number) = number {
        named.filter(|(_, step)| step.number == Some(number)).map(|(place, _)| place).collect()
    } else if let Some(line) = line {
        named.filter(|(_, step)| step.line == Some(line)).map(|(place, _)| place).collect()
    } else if let Some((stage, number, of)) = stage_and_number(text) {
        let fits = |name: &str| {
            Place::of(name).is_some_and(|place| {
                place.stage.eq_ignore_ascii_case(stage) && place.number == number && of.is_none_or(|of| of == place.of)
            })
        };
        named.filter(|(_, step)| fits(&step.name)).map(|(place, _)| place).collect()
    } else {
        let wanted = text.to_lowercase();
        named.filter(|(_, step)| step.name.to_lowercase().contains(&wanted)).map(|(place, _)| place).collect()
    };
    // One instruction may be several operations: the last is the one that has its result.
    let exact = found.iter().copied().find(|place| build.steps[*place].name == text);
    match (exact, &found[..]) {
        (Some(place), _) => Ok(place),
        (None, [place]) => Ok(*place),
        (None, []) => Err(Failure::new(format!("the build `{}` has no step `{text}`", build.head.id))
            .help("steps are named `#4`, `build 2/5`, `:12` for a line of the Dockerfile, or by words of their name")),
        (None, [.., last]) if line.is_some() || stage_and_number(text).is_some() => Ok(*last),
        (None, several) => {
            let names: Vec<String> =
                several.iter().take(CANDIDATES_MAX).map(|place| build.steps[*place].name.clone()).collect();
            let more = several.len().saturating_sub(names.len());
            let more = if more > 0 { format!(", and {more} more") } else { String::new() };
            Err(Failure::new(format!("`{text}` stands for several steps: {}{more}", names.join("; ")))
                .help("give more of its name, or its number like `#4`"))
        }
    }
}

/// `build 2/5`, `2/5`.
fn stage_and_number(text: &str) -> Option<(&str, usize, Option<usize>)> {
    let (stage, count) = text.rsplit_once(' ').unwrap_or(("", text));
    let (number, of) = count.split_once('/')?;
    Some((stage.trim(), number.parse().ok()?, Some(of.parse().ok()?)))
}

/// Throws the records of builds away, and returns the ids of those that are gone and of those that run.
///
/// # Errors
/// When the store cannot be changed.
pub fn forget(store: &Store, entries: &[Entry]) -> Result<(Vec<String>, Vec<String>), Failure> {
    let (mut gone, mut running) = (Vec::new(), Vec::new());
    for entry in entries {
        match store.forget_build(entry).map_err(|error: StoreError| words::store(&error))? {
            true => gone.push(entry.head.id.clone()),
            false => running.push(entry.head.id.clone()),
        }
    }
    Ok((gone, running))
}

#[cfg(test)]
mod tests {
    use store::history::StepRecord;

    use super::*;

    #[test]
    fn a_step_is_found_by_number_place_line_and_words() {
        let step = |number: usize, line: usize, name: &str| StepRecord {
            number: Some(number),
            line: Some(line),
            name: name.into(),
            ..StepRecord::default()
        };
        let steps = vec![
            step(1, 1, "[build 1/2] FROM a"),
            step(3, 4, "[build 2/2] RUN make"),
            step(2, 6, "[final 1/3] FROM b"),
            step(4, 7, "[final 2/3] COPY --link a /"),
            step(5, 7, "[final 2/3] LINK COPY --link a /"),
            step(6, 9, "[final 3/3] RUN make install"),
        ];
        let build = Build { head: Head::new("/x".into(), "linux/amd64".into()), steps };
        let check = |text: &str, expected: Result<usize, &str>| {
            let found = super::step(&build, text).map_err(|failure| failure.problems[0].message.clone());
            let id = &build.head.id;
            assert_eq!(found, expected.map_err(|message| message.replace("ID", id)), "{text}");
        };
        check("#3", Ok(1));
        check("3", Ok(1));
        check("9", Err("the build `ID` has no step `9`"));
        check("build 2/2", Ok(1));
        check("BUILD 2/2", Ok(1));
        check("final 2/3", Ok(4));
        check(":4", Ok(1));
        check(":7", Ok(4));
        check(":8", Err("the build `ID` has no step `:8`"));
        check("make install", Ok(5));
        check("[build 2/2] RUN make", Ok(1));
        check(
            "link",
            Err("`link` stands for several steps: [final 2/3] COPY --link a /; [final 2/3] LINK COPY --link a /"),
        );
        check("nothing", Err("the build `ID` has no step `nothing`"));
    }

    #[test]
    fn filters_are_understood_or_refused_with_advice() {
        let check = |text: &str, expected: Result<Filter, &str>| {
            let found = Filter::parse(text).map_err(|failure| failure.problems[0].message.clone());
            assert_eq!(found, expected.map_err(str::to_owned), "{text}");
        };
        check("status=failed", Ok(Filter::Status(Outcome::Failed)));
        check("tag=docker.io/library/app", Ok(Filter::Tag("app:latest".into())));
        check("dir=/no/such", Ok(Filter::Dir("/no/such".into())));
        check("status=bad", Err("`--filter status=bad`: there is no such status"));
        check("since=1", Err("`--filter since=1`: there is no filter `since`"));
        check("failed", Err("`--filter failed` has no value"));
    }
}
