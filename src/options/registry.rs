//! `--creds`: a name and a password for the one registry that the user names, to push to or to pull from.
//!
//! Other builders give them to every registry that a build meets, those of a Dockerfile included. Here they go where the
//! user said that something is to be pushed, so that no Dockerfile decides who gets them.

use std::collections::BTreeSet;

use oci::model::Reference;
use oci::registry::{Credential, Secret};

use super::output::{Output, Surroundings, parse};
use crate::cli::BuildArgs;
use crate::engine::Failure;

const LOGIN: &str = "`rbuild login REGISTRY`, with `--authfile FILE` for this command alone, serves all registries";

/// The registry that a build pushes to and its credential, if there is one.
///
/// # Errors
/// When it is not clear which registry is meant, or there is no password.
pub fn credential(args: &BuildArgs) -> Result<Option<(String, Credential)>, Failure> {
    let Some(creds) = &args.creds.creds else { return Ok(None) };
    let names = pushed(args)?;
    let registries: BTreeSet<&str> = names.iter().map(Reference::registry).collect();
    let mut registries = registries.into_iter();
    let (Some(registry), None) = (registries.next(), registries.next()) else {
        return Err(Failure::new(
            "`--creds` is for the one registry that is pushed to, with `--push` and `-t`, or with `name=` in `-o`",
        )
        .help(LOGIN));
    };
    Ok(Some((registry.to_owned(), of(creds)?)))
}

/// The one of these registries and the credential for it, if there is one. `which` says in words which registry is meant.
///
/// # Errors
/// When there are none or several, or there is no password.
pub fn credential_of(
    creds: Option<&str>,
    registries: &[String],
    which: &str,
) -> Result<Option<(String, Credential)>, Failure> {
    let Some(creds) = creds else { return Ok(None) };
    let mut registries: Vec<&String> = registries.iter().collect();
    registries.sort_unstable();
    registries.dedup();
    match registries[..] {
        [registry] => Ok(Some((registry.clone(), of(creds)?))),
        _ => Err(Failure::new(format!("`--creds` is for the one registry {which}")).help(LOGIN)),
    }
}

/// The registry of an image that the user names and the credential for it, if there is one.
///
/// # Errors
/// When there is no password.
pub fn credential_for(creds: Option<&str>, image: &Reference) -> Result<Option<(String, Credential)>, Failure> {
    creds.map(|creds| Ok((image.registry().to_owned(), of(creds)?))).transpose()
}

/// `USER:PASSWORD`. The value is never shown: it may be the password alone.
fn of(creds: &str) -> Result<Credential, Failure> {
    let (username, password) = creds.split_once(':').unwrap_or((creds, ""));
    if username.is_empty() || password.is_empty() {
        return Err(Failure::new("`--creds` needs a name and a password: `--creds USER:PASSWORD`").help(LOGIN));
    }
    Ok(Credential::Password { username: username.to_owned(), password: Secret::new(password) })
}

/// The names that go to registries.
fn pushed(args: &BuildArgs) -> Result<Vec<Reference>, Failure> {
    // Only names are looked at; what else may be wrong with an output is said where it is made.
    let around = Surroundings { stdout_terminal: false, several: false, may_delete: true };
    let mut names = Vec::new();
    let mut is_image = false;
    for text in args.outputs.iter().filter_map(|text| text.to_str()) {
        let Output::Image(image) = parse(text, around)?.output else { continue };
        is_image = true;
        if image.push.is_none() && !args.push {
            continue;
        }
        names.extend(if image.form.names.is_empty() { args.tags.clone() } else { image.form.names });
    }
    if args.push && !is_image {
        names.extend(args.tags.iter().cloned());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(creds: Option<&str>, tags: &[&str], push: bool, want: Result<Option<&str>, &str>) {
        check_with(creds, tags, push, &[], want);
    }

    fn check_with(creds: Option<&str>, tags: &[&str], push: bool, outputs: &[&str], want: Result<Option<&str>, &str>) {
        let mut args = BuildArgs { push, ..BuildArgs::default() };
        args.tags = tags.iter().map(|tag| tag.parse().expect("the name of an image")).collect();
        args.outputs = outputs.iter().map(Into::into).collect();
        args.creds.creds = creds.map(str::to_owned);
        compare(credential(&args), want);
    }

    fn compare(found: Result<Option<(String, Credential)>, Failure>, want: Result<Option<&str>, &str>) {
        match (found, want) {
            (Ok(found), Ok(want)) => {
                let shown = found.map(|(registry, credential)| match credential {
                    Credential::Password { username, password } => {
                        format!("{registry} {username} {}", password.expose())
                    }
                    other => panic!("{other:?}"),
                });
                assert_eq!(shown.as_deref(), want);
            }
            (Err(failure), Err(want)) => {
                assert!(failure.problems[0].message.contains(want), "{failure:?}");
                assert!(!format!("{failure:?}").contains("s3cret"), "{failure:?}");
            }
            (got, want) => panic!("{got:?}, {want:?}"),
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

    #[test]
    fn outputs_that_push_say_which_registry_is_meant() {
        let one = Err("the one registry that is pushed to");
        let check = |tags: &[&str], push: bool, outputs: &[&str], want| {
            check_with(Some("bob:pw"), tags, push, outputs, want);
        };
        check(&[], false, &["type=registry,name=r.example/a"], Ok(Some("r.example bob pw")));
        check(&[], false, &["type=image,name=r.example/a,push=true"], Ok(Some("r.example bob pw")));
        check(&["r.example/a"], false, &["type=registry"], Ok(Some("r.example bob pw")));
        // A name of an output beats `-t`, and is pushed there only.
        check(&["q.example/a"], false, &["type=registry,name=r.example/a"], Ok(Some("r.example bob pw")));
        check(&["q.example/a"], true, &["type=image,name=r.example/a"], Ok(Some("r.example bob pw")));
        check(&["r.example/a"], true, &["type=oci,dest=x,name=q.example/a"], Ok(Some("r.example bob pw")));
        check(&["r.example/a"], false, &["type=image,name=q.example/a"], one);
        check(&[], false, &["type=oci,dest=x,name=q.example/a"], one);
        check(&[], false, &["type=registry,\"name=r.example/a,q.example/a\""], one);
        check(&["r.example/a"], false, &["type=registry", "type=registry,name=q.example/a"], one);
        check(&["r.example/a"], true, &["type=nonsense"], Err("the type `nonsense` is not supported"));
    }

    #[test]
    fn credentials_for_an_image_go_to_its_registry() {
        let check = |creds, image: &str, want| {
            compare(credential_for(creds, &image.parse().expect("the name of an image")), want);
        };
        check(None, "r.example/a", Ok(None));
        check(Some("bob:pw"), "r.example:5000/a/b:1", Ok(Some("r.example:5000 bob pw")));
        check(Some("bob:pw"), "debian", Ok(Some("docker.io bob pw")));
        check(Some("s3cret"), "debian", Err("needs a name and a password"));
    }
}
