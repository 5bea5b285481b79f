//! Steps of other architectures by the way that this kernel has: since Linux 6.7 a user namespace with handlers of its
//! own, before that the emulator in front of the command (seen in the virtual machine of `tests/vm`).

use rbuild_executor::emulate::arch::{ALL, STATUS};
use solver::op::{Op, Platform};

use crate::exec::{Bench, exec};
use crate::support::Collected;

/// Whether namespaces of this kernel have handlers of their own.
fn has_private_handlers() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(7))
}

#[tokio::test]
async fn a_foreign_step_runs_by_the_way_that_the_kernel_has_and_that_is_told_once() {
    let bench = Bench::new();
    for name in ["arm64", "s390x", "riscv64"] {
        let arch = ALL.iter().find(|arch| arch.name == name).expect("it is known");
        // Of the layer of a store that nobody else has.
        let path = bench.own_tree(&bench.base).expect("it has files").join("bin/trial");
        std::fs::write(&path, arch.program()).expect("the store is ours");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("it is ours");
        let platform = Platform { os: "linux".into(), architecture: name.into(), ..Platform::default() };
        let log = Collected::default();
        for args in [&["/bin/trial"][..], &["trial", "a word"]] {
            let mut step = exec("");
            step.args = args.iter().map(|word| word.to_string()).collect();
            step.valid_exit_codes = vec![STATUS];
            let op = Op::Exec(Box::new(step));
            let ran = bench.run_for(Some(platform.clone()), op, vec![bench.base.clone()], &log).await;
            ran.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        let way = if has_private_handlers() { "in a user namespace" } else { "is put in front of the commands" };
        let notices = log.notices.lock().expect("nobody panicked").clone();
        assert!(matches!(&notices[..], [one] if one.contains(way) && one.contains(name)), "{notices:?}");
    }
}
