//! Layers are compressed while later steps still run.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{Context, Store};

/// How many blobs the store has.
fn blobs(store: &Store) -> usize {
    std::fs::read_dir(store.root().join("blobs/sha256")).map_or(0, |entries| entries.flatten().count())
}

#[test]
fn a_layer_is_compressed_while_a_later_step_runs() {
    let store = Store::with_busybox();
    // The second step cannot begin before somebody writes its secret.
    let fifo = store.path("fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status().expect("mkfifo runs");
    assert!(made.success());
    let context = Context::new(
        "FROM busybox\nRUN head -c 3000000 /dev/urandom > /big\n\
         RUN --mount=type=secret,id=go cat /run/secrets/go > /dev/null && echo done > /done\n",
    );
    let check = |options: &[&str]| {
        let (secret, file) = (format!("id=go,src={}", fifo.display()), store.path("app.tar"));
        let output = format!("type=oci,dest={}", file.display());
        let words = ["--no-cache", "--secret", &secret, "-o", &output];
        let mut command = store.build_command(&context, words.iter().chain(options));
        let before = blobs(&store);
        let mut child = command.stderr(Stdio::null()).spawn().expect("the binary starts");
        let began = Instant::now();
        while blobs(&store) == before {
            assert!(child.try_wait().expect("it can be asked").is_none(), "it ended before its last step could");
            assert!(began.elapsed() < Duration::from_secs(60), "{options:?}: no blob while the last step waits");
            std::thread::sleep(Duration::from_millis(5));
        }
        std::fs::write(&fifo, "go").expect("the step reads it");
        assert!(child.wait().expect("it ends").success());
    };
    check(&[]);
    check(&["--source-date-epoch", "1600000000"]);
}
