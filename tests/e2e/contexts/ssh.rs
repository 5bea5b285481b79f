//! Repositories over ssh: with the agent that was given, of a host that is known, or not at all.

use super::*;
use crate::support::ssh::{Agent, SshServer};
use crate::support::user::User;

#[test]
fn repositories_over_ssh_come_with_the_agent_that_was_given_and_from_known_hosts_alone() {
    let (home, served) = (temp_dir(), temp_dir());
    let user = User::with_home(home.path());
    let server = SshServer::start(served.path(), &user);
    let url = server.repository("app", "printf 'FROM scratch\nCOPY . /all/\n' > Dockerfile; echo a > a");
    let (agent, other) =
        (Agent::holding(&served.path().join("key"), &user), Agent::holding(&served.path().join("other-key"), &user));
    let store = Store::of(user);
    let added = Context::new(&format!("FROM scratch\nADD {url} /all/\n"));
    let named = Context::new("FROM scratch\nCOPY --from=app . /all/\n");
    let named_flag = format!("--build-context=app={url}");
    let places: [Vec<&OsStr>; 3] = [
        vec![OsStr::new(&url)],
        vec![added.path().as_os_str()],
        vec![OsStr::new(&named_flag), named.path().as_os_str()],
    ];
    for context in [&added, &named] {
        store.user().expect("it has one").give(context.path());
    }
    // Whatever is given, there is an agent with the right key.
    let build = |place: &[&OsStr], ssh: &[&str], socket: &Path| {
        // Nothing of an earlier build is of use.
        let words = ["build", "--progress=plain", "--no-cache", "-t=x:1"].iter().chain(ssh).map(OsStr::new);
        let mut command = store.command(words.chain(place.iter().copied()));
        Outcome::of(command.env("SSH_AUTH_SOCK", socket))
    };
    let forget = || {
        let git = store.root().join("git");
        if git.exists() {
            std::fs::remove_dir_all(git).expect("it is there");
        }
    };
    let with_key = format!("--ssh=default={}", served.path().join("key").display());
    for place in &places {
        let check = |ssh: &[&str], agent: &Agent, words: Option<&[&str]>| {
            forget();
            let outcome = build(place, ssh, &agent.socket);
            match words {
                None => drop(outcome.ok()),
                Some(words) => drop(outcome.fails_saying(words)),
            }
        };
        let known = |name: &str| {
            server.make_known(home.path(), name);
            store.user().expect("it has one").give(home.path());
        };
        known("host");
        let not_given: &[&str] = &["ssh agent `default` is not given", "--ssh default"];
        // What the user named may use the user's own agent; what a Dockerfile names may not.
        let unasked = if place == &places[1] { Some(not_given) } else { None };
        check(&[], &agent, unasked);
        check(&["--ssh=other"], &agent, unasked);
        check(&["--ssh=default"], &agent, None);
        check(&[&with_key], &other, None);
        check(&["--ssh=default"], &other, Some(&["Permission denied (publickey)", "ssh-add -l"]));
        // Its key is another one than it was; or it was never seen.
        known("other-host");
        check(&["--ssh=default"], &agent, Some(&["Host key verification failed", "known_hosts"]));
        std::fs::remove_file(home.path().join(".ssh/known_hosts")).expect("it is there");
        check(&["--ssh=default"], &agent, Some(&["Host key verification failed", "known_hosts"]));
        assert!(!home.path().join(".ssh/known_hosts").exists(), "a key is never learnt");
    }
}
