//! The sandbox's helper for this room's tests, whose own binaries have a test harness for a `main`; the real helper is
//! the `rbuild` binary itself. With `run|terminal ROOT SCRIPT` it is also a small builder that tests can kill or put on
//! a terminal.

use std::process::ExitCode;

use rbuild_executor::sandbox::{Io, Output, ProcessSpec, RootFs, Settings, Stdin, init_if_asked, run};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    init_if_asked();
    let args: Vec<_> = std::env::args().skip(1).collect();
    let [mode, root, script] = args.as_slice() else {
        eprintln!("usage: run|terminal ROOT SCRIPT");
        return ExitCode::FAILURE;
    };
    let args = ["/bin/sh", "-c", script].map(String::from).to_vec();
    let mut spec = ProcessSpec::new(RootFs::Tree { path: root.into() }, args);
    spec.env = vec!["PATH=/bin".into()];
    let output = if mode == "terminal" { Output::Terminal } else { Output::Inherit };
    let io = Io { stdin: Stdin::Inherit, output, forward_signals: true };
    let runtime = tokio::runtime::Runtime::new().expect("a test machine has threads and descriptors to spare");
    let finished = runtime.block_on(async {
        let settings = Settings::of_this_process()?;
        run(&settings, &spec, io, &CancellationToken::new()).await
    });
    match finished {
        Ok(finished) => ExitCode::from(finished.exit.code() as u8),
        Err(error) => {
            eprintln!("{error}: {error:?}");
            ExitCode::FAILURE
        }
    }
}
