//! Build arguments: from flags, from the files of `--build-arg-file`, and from the environment.
//!
//! In come words and texts, out comes one value per name. Later flags win over earlier ones, flags over files.
//! `SOURCE_DATE_EPOCH` of the environment is taken over when no flag sets it, as other builders do.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::engine::Failure;
use crate::environment::Environment;

/// The time of everything that is built, in seconds since 1970.
pub const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";

/// All build arguments.
///
/// # Errors
/// For arguments without a name, and files that cannot be read.
pub fn build_args(
    given: &[String],
    files: &[PathBuf],
    environment: &Environment,
) -> Result<BTreeMap<String, String>, Failure> {
    let mut args = BTreeMap::new();
    if let Some(epoch) = environment.text(SOURCE_DATE_EPOCH) {
        args.insert(SOURCE_DATE_EPOCH.to_owned(), epoch);
    }
    for path in files {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::new(format!("`--build-arg-file {}` cannot be read", path.display())).note(error.to_string())
        })?;
        from_file(&text, path, environment, &mut args)?;
    }
    for text in given {
        let wrong = Failure::new(format!("`--build-arg {text}` has no name")).help("write `--build-arg NAME=VALUE`");
        set(text, environment, &mut args)?.ok_or(wrong)?;
    }
    Ok(args)
}

/// Lines of `NAME=VALUE` or `NAME`; blank ones and those that start with `#` say nothing.
fn from_file(
    text: &str,
    path: &Path,
    environment: &Environment,
    args: &mut BTreeMap<String, String>,
) -> Result<(), Failure> {
    for (index, line) in text.strip_prefix('\u{feff}').unwrap_or(text).lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = || {
            Failure::new(format!("`--build-arg-file {}`: line {} has no name", path.display(), index + 1))
                .help("write one `NAME=VALUE` per line")
        };
        set(line, environment, args)?.ok_or_else(wrong)?;
    }
    Ok(())
}

/// Sets one argument; `None` if it has no name. A bare name takes the environment's value, and is unset if that has
/// none.
fn set(text: &str, environment: &Environment, args: &mut BTreeMap<String, String>) -> Result<Option<()>, Failure> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, bare(text, environment)?),
    };
    if name.is_empty() {
        return Ok(None);
    }
    match value {
        Some(value) => args.insert(name.to_owned(), value),
        None => args.remove(name),
    };
    Ok(Some(()))
}

/// The value of a variable that a flag names without one; `None` when it is not set.
pub fn bare(name: &str, environment: &Environment) -> Result<Option<String>, Failure> {
    let value = environment.variables.get(OsStr::new(name)).map(|value| value.to_str());
    match value {
        Some(None) => Err(Failure::new(format!("the variable `{name}` is not UTF-8"))),
        value => Ok(value.flatten().map(str::to_owned)),
    }
}

/// What `--source-date-epoch` and `--timestamp`, which mean the same here, ask for.
///
/// # Errors
/// When they ask for two times, or `--build-arg` for another one.
pub fn set_epoch(
    args: &mut BTreeMap<String, String>,
    given: &[String],
    source_date_epoch: Option<i64>,
    timestamp: Option<i64>,
) -> Result<(), Failure> {
    let (flag, epoch) = match (source_date_epoch, timestamp) {
        (None, None) => return Ok(()),
        (Some(epoch), Some(other)) if epoch != other => {
            return Err(
                Failure::new("`--source-date-epoch` and `--timestamp` ask for two times").help("keep one of them")
            );
        }
        (Some(epoch), _) => ("--source-date-epoch", epoch.to_string()),
        (None, Some(epoch)) => ("--timestamp", epoch.to_string()),
    };
    let said = given.iter().any(|text| text.split('=').next() == Some(SOURCE_DATE_EPOCH));
    match args.get(SOURCE_DATE_EPOCH) {
        Some(other) if said && *other != epoch => {
            Err(Failure::new(format!("`{flag}` and `--build-arg {SOURCE_DATE_EPOCH}` ask for two times"))
                .help("keep one of them"))
        }
        _ => {
            args.insert(SOURCE_DATE_EPOCH.to_owned(), epoch);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment {
            variables: variables.iter().map(|(name, value)| (name.into(), value.into())).collect(),
            ..Environment::default()
        }
    }

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn files_of_arguments_are_read_line_by_line() {
        let check = |text: &str, expected: &[(&str, &str)]| {
            let mut args = BTreeMap::new();
            let environment = environment(&[("SET", "from env")]);
            from_file(text, Path::new("x"), &environment, &mut args).expect(text);
            assert_eq!(args, map(expected), "{text:?}");
        };
        check("", &[]);
        check("A=1\nB=2", &[("A", "1"), ("B", "2")]);
        check("\u{feff}A=1\r\n\r\n  # no\n  B = x y \n", &[("A", "1"), ("B ", " x y")]);
        check("A=#1\nA=2\n", &[("A", "2")]);
        check("SET\nUNSET\n", &[("SET", "from env")]);
        check("A=\"quotes stay\"", &[("A", "\"quotes stay\"")]);
        let failure = from_file("A=1\n=2\n", Path::new("x"), &environment(&[]), &mut BTreeMap::new());
        assert!(failure.expect_err("no name").problems[0].message.contains("line 2 has no name"));
    }

    #[test]
    fn flags_win_over_files_and_files_over_the_environment() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("args");
        std::fs::write(&file, "A=file\nB=file\nSOURCE_DATE_EPOCH=2\n").expect("it is ours");
        let check = |given: &[&str], files: &[&Path], expected: &[(&str, &str)]| {
            let given: Vec<String> = given.iter().map(|text| (*text).to_owned()).collect();
            let files: Vec<PathBuf> = files.iter().map(|path| path.to_path_buf()).collect();
            let args = build_args(&given, &files, &environment(&[("SOURCE_DATE_EPOCH", "1")])).expect("valid");
            assert_eq!(args, map(expected), "{given:?}");
        };
        check(&[], &[], &[("SOURCE_DATE_EPOCH", "1")]);
        check(&["SOURCE_DATE_EPOCH=3"], &[], &[("SOURCE_DATE_EPOCH", "3")]);
        check(&["SOURCE_DATE_EPOCH="], &[], &[("SOURCE_DATE_EPOCH", "")]);
        check(&["A=flag"], &[&file], &[("A", "flag"), ("B", "file"), ("SOURCE_DATE_EPOCH", "2")]);
        let failure = build_args(&[], &[dir.path().join("absent")], &environment(&[])).expect_err("no such file");
        assert!(failure.problems[0].message.contains("cannot be read"), "{failure:?}");
    }

    #[test]
    fn one_time_is_asked_for_or_none() {
        let check = |given: &[&str], epoch: Option<i64>, timestamp: Option<i64>, expected: Option<&str>| {
            let given: Vec<String> = given.iter().map(|text| (*text).to_owned()).collect();
            let mut args = build_args(&given, &[], &environment(&[("SOURCE_DATE_EPOCH", "1")])).expect("valid");
            let set = set_epoch(&mut args, &given, epoch, timestamp);
            let found = set.ok().and_then(|()| args.get(SOURCE_DATE_EPOCH).cloned());
            assert_eq!(found.as_deref(), expected, "{given:?} {epoch:?} {timestamp:?}");
        };
        check(&[], None, None, Some("1"));
        check(&[], Some(7), None, Some("7"));
        check(&[], None, Some(0), Some("0"));
        check(&[], Some(7), Some(7), Some("7"));
        check(&[], Some(7), Some(8), None);
        check(&["SOURCE_DATE_EPOCH=7"], Some(7), None, Some("7"));
        check(&["SOURCE_DATE_EPOCH=7"], Some(8), None, None);
    }
}
