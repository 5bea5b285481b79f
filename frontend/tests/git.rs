//! Addresses of git repositories, row by row: what they mean, and what is refused.

use proptest::prelude::*;
use rbuild_frontend::git::{self, GitRef};

/// The reference as `remote [reference] [:subdir] [options]`, or the message it is refused with.
fn show(found: Option<Result<GitRef, git::GitRefError>>) -> String {
    match found {
        None => "no".into(),
        Some(Err(error)) => {
            assert!(!error.help().is_empty());
            format!("error: {error}")
        }
        Some(Ok(found)) => {
            let mut out = found.remote;
            let mut add = |prefix: &str, value: Option<String>| {
                if let Some(value) = value {
                    out.push_str(&format!(" {prefix}{value}"));
                }
            };
            add("", found.reference);
            add(":", found.subdir);
            add("commit ", found.commit);
            add("keep ", found.keep_git_dir.map(|b| b.to_string()));
            add("submodules ", found.submodules.map(|b| b.to_string()));
            add("times of the commit", found.mtime_commit.then(String::new));
            add("by commit ", found.fetch_by_commit.map(|b| b.to_string()));
            out
        }
    }
}

fn check(text: &str, expected: &str) {
    assert_eq!(show(git::parse(text, false)), expected, "{text}");
}

const FULL: &str = "0123456789abcdef0123456789abcdef01234567";

#[test]
fn what_is_a_git_address_and_what_is_none() {
    check("https://example.com/", "no");
    check("https://example.com/foo", "no");
    check("https://example.com/foo.git", "https://example.com/foo.git");
    check("http://example.com/foo.git", "http://example.com/foo.git");
    check("HTTPS://example.com/foo.git", "https://example.com/foo.git");
    check("https://example.com/foo.git/", "no");
    check("https://example.com/foo.git.bar", "no");
    check("https://example.com/foo.git:#branch", "no");
    check("https://example.com/foo%2Egit", "https://example.com/foo%2Egit");
    check("https://example.com", "no");
    check("https://example.git", "no");
    check("git://example.com/foo", "git://example.com/foo");
    check("ssh://git@example.com/foo", "ssh://git@example.com/foo");
    check("ssh://git@example.com:2222/foo.git", "ssh://git@example.com:2222/foo.git");
    check("ssh://[::1]:22/foo", "ssh://[::1]:22/foo");
    check("https://user:word@example.com/foo.git", "https://user:word@example.com/foo.git");
    check("git@example.com:team/foo", "git@example.com:team/foo");
    check("git@example.com:team/foo.git", "git@example.com:team/foo.git");
    check("deploy@example.com:foo.git", "deploy@example.com:foo.git");
    check("git@example.com:/srv/foo", "git@example.com:/srv/foo");
    check("example.com:foo.git", "no");
    check("example.com/team/foo.git", "no");
    check("github.com/team/foo", "no");
    check("./foo.git", "no");
    check("../foo.git", "no");
    check("/srv/foo.git", "no");
    check("./git@example.com:foo", "no");
    check(".git", "no");
    check("", "no");
    check("file:///srv/foo.git", "no");
    check("ftp://example.com/foo.git", "no");
    check("git+ssh://example.com/foo", "no");
    check("foo bar", "no");
    check("C:\\dir", "no");
}

#[test]
fn the_old_form_is_for_contexts_only() {
    let check = |text: &str, expected: &str| assert_eq!(show(git::parse(text, true)), expected, "{text}");
    check("github.com/team/foo", "https://github.com/team/foo");
    check("github.com/team/foo#main", "https://github.com/team/foo main");
    check("github.com/team/foo?tag=v1", "https://github.com/team/foo refs/tags/v1");
    check("github.com/", "error: the path of this git address is missing");
    check("gitlab.com/team/foo", "no");
    check("https://github.com/team/foo", "no");
    check("github.com", "no");
}

#[test]
fn a_known_repository_needs_no_ending() {
    let check = |text: &str, expected: &str| assert_eq!(show(git::parse_known(text)), expected, "{text}");
    check("https://example.com/foo", "https://example.com/foo");
    check("https://example.com/foo#main", "https://example.com/foo main");
    check("https://example.com", "error: the path of this git address is missing");
    check("foo", "no");
}

#[test]
fn fragments_name_a_reference_and_a_directory() {
    check("https://example.com/foo.git#deadbeef", "https://example.com/foo.git deadbeef");
    check("https://example.com/foo.git#release/1.2", "https://example.com/foo.git release/1.2");
    check("https://example.com/foo.git#refs/pull/1/head", "https://example.com/foo.git refs/pull/1/head");
    check("https://example.com/foo.git#a/b:c/d", "https://example.com/foo.git a/b :c/d");
    check("https://example.com/foo.git#:dir", "https://example.com/foo.git :dir");
    check("https://example.com/foo.git#main:", "https://example.com/foo.git main");
    check("https://example.com/foo.git#", "https://example.com/foo.git");
    check("https://example.com/foo.git#:", "https://example.com/foo.git");
    check("https://example.com/foo.git#main:/", "https://example.com/foo.git main");
    check("https://example.com/foo.git#main:/a//./b/", "https://example.com/foo.git main :a/b");
    check("https://example.com/foo.git#main:a/../b", "https://example.com/foo.git main :b");
    check("https://example.com/foo.git#ma%69n:a%20b", "https://example.com/foo.git main :a b");
    check("git@example.com:foo#main:dir", "git@example.com:foo main :dir");
    check("git://example.com/foo#v1", "git://example.com/foo v1");
}

#[test]
fn queries_say_more() {
    let remote = "https://example.com/foo.git";
    let check = |query: &str, expected: &str| {
        let expected = if expected.starts_with("error") { expected.to_owned() } else { format!("{remote}{expected}") };
        assert_eq!(show(git::parse(&format!("{remote}?{query}"), false)), expected, "{query}");
    };
    check("", "");
    check("ref=v1.0.0&subdir=/dir", " v1.0.0 :dir");
    check("ref=main", " main");
    check("tag=v1", " refs/tags/v1");
    check("tag=refs/tags/v1", " refs/tags/v1");
    check("branch=dev/x", " refs/heads/dev/x");
    check("branch=refs/heads/x", " refs/heads/x");
    check("subdir=dir#v1", " v1 :dir");
    check("ref=v1#v1", " v1");
    check("ref=v1#:dir", " v1 :dir");
    check("subdir=dir#main:dir", " main :dir");
    check("commit=ABCD", " abcd commit abcd");
    check("checksum=abcd1234&ref=main", " main commit abcd1234");
    check("commit=abcd&checksum=abcd", " abcd commit abcd");
    check("keep-git-dir", " keep true");
    check("keep-git-dir=", " keep true");
    check("keep-git-dir=0", " keep false");
    check("submodules=false", " submodules false");
    check("submodules", " submodules true");
    check("mtime=checkout", "");
    check("mtime=commit", " times of the commit");
    check(&format!("fetch-by-commit&commit={FULL}&ref=main"), &format!(" main commit {FULL} by commit true"));
    check("fetch-by-commit=false", " by commit false");
    check("subdir=a+b%2Fc", " :a b/c");

    check("ref=v1#v2", "error: this git address asks for `v2` and for `v1`");
    check("ref=v1&tag=v1", "error: this git address asks for `v1` and for `refs/tags/v1`");
    check("tag=v1&branch=v1", "error: this git address asks for `refs/heads/v1` and for `refs/tags/v1`");
    check("tag=v1&tag=v1", "error: this git address asks for `tag=v1` and for `tag=v1`");
    check("subdir=a#main:b", "error: this git address asks for `b` and for `a`");
    check("commit=abcd&checksum=abce", "error: this git address asks for `abce` and for `abcd`");
    check("invalid=1", "error: a git address has no option `invalid`");
    check("Ref=1", "error: a git address has no option `Ref`");
    check("ref=", "error: `` is no value of the git option `ref`");
    check("ref", "error: `` is no value of the git option `ref`");
    check("subdir=", "error: `` is no value of the git option `subdir`");
    check("mtime=now", "error: `now` is no value of the git option `mtime`");
    check("submodules=maybe", "error: `maybe` is no value of the git option `submodules`");
    check("commit=abc", "error: `abc` is no value of the git option `commit`");
    check("checksum=main", "error: `main` is no value of the git option `checksum`");
    check("fetch-by-commit", "error: `true` is no value of the git option `fetch-by-commit`");
    check("fetch-by-commit&commit=abcd", "error: `true` is no value of the git option `fetch-by-commit`");
    check("ref=%zz", "error: the query of this git address has a malformed `%`");
}

#[test]
fn a_misspelt_option_is_recognised() {
    let check = |query: &str, expected: &str| {
        let error = git::parse(&format!("https://x.io/a.git?{query}"), false).unwrap().unwrap_err();
        assert_eq!(error.help(), expected, "{query}");
    };
    check("brnach=x", "did you mean `branch`?");
    check("submodule=1", "did you mean `submodules`?");
    check("keepgitdir=1", "did you mean `keep-git-dir`?");
    check(
        "x=1",
        "the options are `ref`, `tag`, `branch`, `subdir`, `checksum`, `commit`, `keep-git-dir`, `submodules`, \
         `mtime`, `fetch-by-commit`",
    );
}

#[test]
fn what_could_run_a_program_or_leave_the_tree_is_refused() {
    let dash = "starts with `-` and could be read as an option";
    check("ext::sh -c id", "error: `ext::` would make git run a helper program");
    check("ext::https://example.com/foo.git", "error: `ext::` would make git run a helper program");
    check("fd::17", "error: `fd::` would make git run a helper program");
    check("ssh://-oProxyCommand=x/foo", &format!("error: the host of this git address {dash}"));
    check("ssh://-x@example.com/foo", &format!("error: the user of this git address {dash}"));
    check("ssh://%2Dx@example.com/foo", &format!("error: the user of this git address {dash}"));
    check("-x@example.com:foo", &format!("error: the user of this git address {dash}"));
    check("git@-x:foo", &format!("error: the host of this git address {dash}"));
    check("git@example.com:-x", &format!("error: the path of this git address {dash}"));
    check("https://example.com/foo.git#-x", &format!("error: the reference of this git address {dash}"));
    check("https://example.com/foo.git#%2Dx", &format!("error: the reference of this git address {dash}"));
    check("https://example.com/foo.git#--upload-pack=x", &format!("error: the reference of this git address {dash}"));
    check("https://example.com/foo.git#+x", "error: the reference of this git address starts with `+`");
    let character = "error: the reference of this git address holds a character that no reference has";
    for reference in ["a b", "a~1", "a^{}", "a*", "a[b", "a\\b", "a%00"] {
        check(&format!("https://example.com/foo.git#{reference}"), character);
    }
    let name = "error: the reference of this git address is not a name of git";
    for reference in ["a..b", "@{1}", "a.", "/a", "a/", "a//b", ".a", "a/.b", "a.lock"] {
        check(&format!("https://example.com/foo.git#{reference}"), name);
    }
    let out = "error: the directory of this git address leads out of the repository";
    for directory in ["..", "../x", "a/../../b", "/../x", "%2E%2E/x"] {
        check(&format!("https://example.com/foo.git#main:{directory}"), out);
    }
    check("https://example.com/foo.git#:a%0Ab", "error: the directory of this git address holds a control character");
    check("https://example.com/a%00.git", "error: the path of this git address holds a control character");
    check("https://example.com/a\n.git", "error: the path of this git address holds a control character");
    check("https://example.com/a%.git", "no");
    check("git://example.com/a%", "error: the path of this git address has a malformed `%`");
    check("git://exa mple.com/a", "error: the host of this git address is malformed");
    check("git://exa;mple/a", "error: the host of this git address is not a host name");
    check("git://[zz]/a", "error: the host of this git address is not an IPv6 address");
    check("git:///a", "error: the host of this git address is empty");
    check("git://example.com", "error: the path of this git address is missing");
    check("git://example.com/", "error: the path of this git address is missing");
    check("git://example.com:x/a", "error: the port of this git address is not a number");
    check("git://example.com:70000/a", "error: the port of this git address is not a number");
    check("git@example.com:", "error: the path of this git address is missing");
    check("@example.com:foo", "error: the user of this git address is empty");
    check("git@:foo", "error: the host of this git address is empty");
}

#[test]
fn a_source_is_the_same_repository_by_every_scheme() {
    let check = |text: &str, expected: &str| {
        let source = git::parse(text, false).unwrap().unwrap().source();
        let attrs: Vec<String> = source.attrs.iter().map(|(name, value)| format!(" {name}={value}")).collect();
        assert_eq!(format!("{}{}", source.identifier, attrs.concat()), expected, "{text}");
    };
    check("https://u:p@x.io/a.git", "git://x.io/a.git git.fullurl=https://u:p@x.io/a.git");
    check("ssh://git@x.io:22/a.git", "git://x.io:22/a.git git.fullurl=ssh://git@x.io:22/a.git");
    check("git@x.io:a.git#v1", "git://x.io/a.git#v1 git.fullurl=git@x.io:a.git");
    check("git@x.io:/srv/a", "git://x.io/srv/a git.fullurl=git@x.io:/srv/a");
    check("git://x.io/a#:dir", "git://x.io/a#:dir git.fullurl=git://x.io/a");
    check("git://x.io/a#v:dir", "git://x.io/a#v:dir git.fullurl=git://x.io/a");
    check(
        &format!("git://x.io/a?commit={FULL}&keep-git-dir&submodules=0&mtime=commit&fetch-by-commit&branch=b"),
        &format!(
            "git://x.io/a#refs/heads/b git.checksum={FULL} git.fetchbycommit=true git.fullurl=git://x.io/a \
             git.keepgitdir=true git.mtime=commit git.skipsubmodules=true"
        ),
    );
}

proptest! {
    #[test]
    fn no_text_panics_and_nothing_hostile_comes_through(
        text in r"(git|ssh|https|ext)?(://|@|::|:)?[-a-z.%@:/#?&=+ \[\]\x00-\x1f]{0,60}",
        context in any::<bool>(),
    ) {
        if let Some(Ok(found)) = git::parse(&text, context) {
            prop_assert!(!found.remote.starts_with('-') && !found.remote.chars().any(char::is_control));
            for part in [&found.reference, &found.subdir].into_iter().flatten() {
                prop_assert!(!part.is_empty() && !part.chars().any(char::is_control));
                prop_assert!(part.split('/').all(|name| name != ".."));
            }
            prop_assert!(!found.reference.as_deref().unwrap_or_default().starts_with('-'));
            let identifier = found.source().identifier;
            prop_assert!(identifier.starts_with("git://"));
        }
    }
}

#[test]
fn a_long_address_takes_no_longer_than_its_length() {
    for piece in ["a/", "../", "%41", "&ref=a", ":", "@", "#", "?", "::", "://"] {
        let text = format!("https://example.com/a.git#{}", piece.repeat(1 << 18));
        let _ = git::parse(&text, true);
        let _ = git::parse(&piece.repeat(1 << 18), true);
        let _ = git::parse(&format!("git://x.io/a?{}", piece.repeat(1 << 18)), true);
    }
}
