//! The key matrix: what makes a step run again, and what does not.
//!
//! A row builds, changes one thing, and builds again; expected are the steps that the second build had to do. Every row
//! has directories of its own names in its trees, so that rows of one store know nothing of each other.

mod cut_off;
mod forged;
mod same;
mod seen;

use std::process::Command;

use crate::support::{Context, Outcome, Store};

/// What changes between the two builds of a row.
#[derive(Clone, Copy)]
enum Change {
    /// The Dockerfile becomes this.
    Dockerfile(&'static str),
    /// A shell script runs in the context.
    Context(&'static str),
    /// The options of the first build become those of the second.
    Options(&'static [&'static str], &'static [&'static str]),
}

/// A Dockerfile, what changes, and the steps that run again, by how their names begin. `FROM busybox` with a layer of the
/// row's own is written as `BASE`.
type Row = (&'static str, Change, &'static [&'static str]);

/// Checks rows on one store. `files` is a shell script that fills the context; `ROW` is a word of the row's own.
fn check(name: &str, files: &str, rows: &[Row]) {
    let store = Store::with_busybox();
    for (i, (dockerfile, change, again)) in rows.iter().enumerate() {
        let row = format!("{name}{i}");
        let text = |dockerfile: &str| {
            let first = dockerfile.replacen("BASE", &format!("FROM busybox AS {row}\nWORKDIR /{row}\nFROM {row}"), 1);
            format!("{}\n", first.replace("BASE", &format!("FROM {row}")))
        };
        let context = Context::new(&text(dockerfile));
        shell(&context, &files.replace("ROW", &row));
        // A network of its own is half of what a build takes; only rows about networks need one.
        let other = if let Change::Dockerfile(other) = change { other } else { "" };
        let has_network = [dockerfile, other].iter().any(|text| text.contains("--network"));
        let network = if has_network { &[][..] } else { &["--network=none"][..] };
        let (first, second) = match change {
            Change::Options(first, second) => ([network, first].concat(), [network, second].concat()),
            _ => (network.to_vec(), network.to_vec()),
        };
        store.build(&context, &first).ok();
        match change {
            Change::Dockerfile(changed) => context.write("Dockerfile", text(changed)),
            Change::Context(script) => shell(&context, script),
            Change::Options(..) => {}
        }
        let built = store.build(&context, &second).ok();
        let ran = steps_done(&built);
        let as_expected = ran.len() == again.len() && ran.iter().zip(*again).all(|(ran, name)| ran.starts_with(name));
        assert!(as_expected, "{row}: done again was {ran:?}, expected {again:?}, of\n{dockerfile}\n{built}");
        // Now everything is known, however it came to be.
        let built = store.build(&context, &second).ok();
        assert_eq!(steps_done(&built), Vec::<String>::new(), "{row}: once more\n{dockerfile}\n{built}");
    }
}

/// Runs a script in the context.
fn shell(context: &Context, script: &str) {
    let output = Command::new("sh").args(["-euc", script]).current_dir(context.path()).output().expect("sh runs");
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Names of the Dockerfile's steps that were not known, in their order, base images aside.
fn steps_done(built: &Outcome) -> Vec<String> {
    let mut steps: Vec<(u32, String)> = Vec::new();
    for line in built.stderr.lines().filter_map(|line| line.strip_prefix('#')) {
        let Some((number, rest)) = line.split_once(' ') else { continue };
        let Ok(number) = number.parse() else { continue };
        if rest == "CACHED" {
            steps.retain(|(known, _)| *known != number);
        } else if let Some((place, name)) = rest.strip_prefix('[').and_then(|rest| rest.split_once("] "))
            && place.contains('/')
            && !name.starts_with("FROM ")
        {
            steps.push((number, name.to_owned()));
        }
    }
    steps.into_iter().map(|(_, name)| name).collect()
}
