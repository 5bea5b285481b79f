//! `--creds`: a name and a password for the one registry that is pushed to.
//!
//! Other builders give them to every registry that a build meets, those of a Dockerfile included. Here they go where the
//! user said that something is to be pushed, so that no Dockerfile decides who gets them.

use std::collections::BTreeSet;

use oci::registry::{Credential, Secret};

use crate::cli::BuildArgs;
use crate::engine::Failure;

/// The registry and its credential, if there is one.
///
/// # Errors
/// When it is not clear which registry is meant, or there is no password.
pub fn credential(args: &BuildArgs) -> Result<Option<(String, Credential)>, Failure> {
    let Some(creds) = &args.creds.creds else { return Ok(None) };
    let login = "`rbuild login REGISTRY`, with `--authfile FILE` for this command alone, serves all registries";
    let registries: BTreeSet<&str> = args.tags.iter().map(|tag| tag.registry()).filter(|_| args.push).collect();
    let mut registries = registries.into_iter();
    let (Some(registry), None) = (registries.next(), registries.next()) else {
        return Err(
            Failure::new("`--creds` is for the one registry that is pushed to, with `--push` and `-t`").help(login)
        );
    };
    // The value is never shown: it may be the password alone.
    let (username, password) = creds.split_once(':').unwrap_or((creds, ""));
    if username.is_empty() || password.is_empty() {
        return Err(Failure::new("`--creds` needs a name and a password: `--creds USER:PASSWORD`").help(login));
    }
    let credential = Credential::Password { username: username.to_owned(), password: Secret::new(password) };
    Ok(Some((registry.to_owned(), credential)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(creds: Option<&str>, tags: &[&str], push: bool, want: Result<Option<&str>, &str>) {
        let mut args = BuildArgs { push, ..BuildArgs::default() };
        args.tags = tags.iter().map(|tag| tag.parse().expect("the name of an image")).collect();
        args.creds.creds = creds.map(str::to_owned);
        match (credential(&args), want) {
            (Ok(found), Ok(want)) => {
                let shown = found.map(|(registry, credential)| match credential {
                    Credential::Password { username, password } => {
                        format!("{registry} {username} {}", password.expose())
                    }
                    other => panic!("{other:?}"),
                });
                assert_eq!(shown.as_deref(), want, "{creds:?}");
            }
            (Err(failure), Err(want)) => {
                assert!(failure.problems[0].message.contains(want), "{failure:?}");
                assert!(!format!("{failure:?}").contains("s3cret"), "{failure:?}");
            }
            (got, want) => panic!("{creds:?}: {got:?}, {want:?}"),
        }
    }

    #[test]
    fn credentials_of_one_command_are_for_the_one_registry_that_is_pushed_to() {
        check(None, &["r.example/a"], true, Ok(None));
        check(Some("bob:a:b=c@d"), &["r.example/a:1", "r.example/a:2"], true, Ok(Some("r.example bob a:b=c@d")));
        check(Some("bob:s3cret"), &["r.example/a"], false, Err("the one registry that is pushed to"));
        check(Some("bob:s3cret"), &[], true, Err("the one registry that is pushed to"));
        check(Some("bob:s3cret"), &["r.example/a", "q.example/a"], true, Err("the one registry that is pushed to"));
        check(Some("s3cret"), &["r.example/a"], true, Err("needs a name and a password"));
        check(Some(":s3cret"), &["r.example/a"], true, Err("needs a name and a password"));
    }
}
