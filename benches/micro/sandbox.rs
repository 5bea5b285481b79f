//! How long it takes to start a step: `true` in a sandbox without a network. Needs root and Debian's busybox-static.
//!
//! What of that is the kernel's is told by the bench `step`.

use std::fs;
use std::path::Path;

use executor::sandbox::spec::Upper;
use executor::sandbox::{
    Descriptors, Exit, Io, Network, Output, Overlay, ProcessSpec, RootFs, Settings, Stdin, run_with,
};
use solver::seam::{LogSink, Stream};
use tokio_util::sync::CancellationToken;

use crate::cases::{Scratch, Work};

/// A step that does nothing, on one layer.
pub fn start(scratch: &Scratch) -> Work {
    let directory = scratch.path("");
    let tree = directory.join("layers/base");
    for name in ["bin", "etc", "proc", "sys", "dev"] {
        fs::create_dir_all(tree.join(name)).expect("a folder");
    }
    fs::copy("/bin/busybox", tree.join("bin/true")).expect("the package busybox-static is installed");
    for name in ["hosts", "resolv.conf"] {
        fs::write(tree.join("etc").join(name), "").expect("a file");
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let settings = Settings::of_this_process().expect("root");
    Box::new(move || {
        let overlay = Overlay {
            layers_dir: directory.join("layers"),
            lowers: vec!["base".into()],
            upper: Some(fresh(&directory)),
        };
        let mut spec = ProcessSpec::new(RootFs::Overlay(overlay), vec!["/bin/true".into()]);
        spec.network = Network::None;
        let io = Io { stdin: Stdin::Null, output: Output::Log(&Nowhere), forward_signals: false };
        let (descriptors, cancel) = (Descriptors::default(), CancellationToken::new());
        let ran = runtime.block_on(run_with(&settings, &spec, io, &descriptors, &cancel));
        assert_eq!(ran.expect("a working sandbox").exit, Exit::Code(0));
    })
}

/// New upper and work directories, as a step's draft has.
fn fresh(directory: &Path) -> Upper {
    let upper = Upper { dir: directory.join("upper"), work: directory.join("work") };
    for path in [&upper.dir, &upper.work] {
        if path.exists() {
            fs::remove_dir_all(path).expect("the last step is over");
        }
        fs::create_dir(path).expect("a folder");
    }
    upper
}

struct Nowhere;

impl LogSink for Nowhere {
    fn write(&self, _: Stream, _: &[u8]) {}
    fn progress(&self, _: &str, _: u64, _: Option<u64>, _: bool) {}
    fn notice(&self, _: &str) {}
}
