//! Sixteen processes on one store: every step runs once, everybody gets the same, nobody is told that something is
//! locked. Steps tell a server of ours that they run. More rounds with `RBUILD_SOAK_SECONDS`.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Instant;

use crate::support::fake::{Fake, Reply};
use crate::support::{Context, Outcome, Seed, Store, soak};

/// When nobody soaks.
const SECONDS: u64 = 15;
const PROCESSES: usize = 16;
/// Different Dockerfiles in a round: each shares its beginning with the others, and is built by several processes.
const KINDS: usize = 4;

/// A Dockerfile of that kind whose steps nobody has run before. Each step says once that it runs.
fn dockerfile(server: &Fake, round: usize, kind: usize) -> String {
    let step = |name: &str| {
        let address = &server.address;
        format!("RUN wget -q -O /dev/null http://{address}/{round}/{name} && echo {round}-{name} > /{name}\n")
    };
    let shared = step("first") + &step("second");
    let other = format!("FROM busybox AS other\n{}", step("aside"));
    let own = step(&format!("third-{kind}")) + "COPY f /f\nCOPY --from=other /aside /copied\n";
    let last = step(&format!("last-{kind}"));
    format!("{other}FROM busybox\n{shared}{own}{last}")
}

#[test]
fn sixteen_processes_run_each_step_once_and_agree() {
    let server = Fake::start(|_| Reply::new(200, "counted"));
    let store = Store::with_busybox();
    let mut seed = Seed::new(3);
    let (until, mut round) = (Instant::now() + soak(SECONDS), 0);
    while round == 0 || Instant::now() < until {
        let before = server.requests().len();
        let contexts: Vec<Context> = (0..KINDS)
            .map(|kind| Context::new(&dockerfile(&server, round, kind)).file("f", format!("{round} {kind}")))
            .collect();
        let mut running = Vec::new();
        for process in 0..PROCESSES {
            let kind = process % KINDS;
            let file = store.path(&format!("iid-{process}"));
            let mut command = store
                .build_command(&contexts[kind], ["--network=host".as_ref(), "--iidfile".as_ref(), file.as_os_str()]);
            if seed.below(2) == 0 {
                command.arg("--jobs=1");
            }
            let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
            running.push((kind, file, std::thread::spawn(move || child.wait_with_output())));
        }
        let mut ids: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        for (kind, file, child) in running {
            let output = child.join().expect("it only waits").expect("it is our child");
            let outcome = Outcome::from_output(format!("round {round}, Dockerfile {kind}"), &output);
            outcome.ok().never_says(&["locked"]);
            let id = std::fs::read_to_string(&file).expect("`--iidfile` was asked for");
            ids.entry(kind).or_default().push(id);
        }
        for (kind, ids) in &ids {
            assert!(ids.iter().all(|id| *id == ids[0]), "round {round}, Dockerfile {kind}: {ids:?}");
        }
        let mut ran: BTreeMap<String, usize> = BTreeMap::new();
        for request in &server.requests()[before..] {
            *ran.entry(request.path.clone()).or_default() += 1;
        }
        let expected = 3 + 2 * KINDS;
        assert!(ran.len() == expected && ran.values().all(|count| *count == 1), "round {round}: {ran:?}");
        assert_eq!(store.drafts(), Vec::<std::ffi::OsString>::new(), "round {round}");
        round += 1;
    }
    println!("{round} rounds of {PROCESSES} processes");
}
