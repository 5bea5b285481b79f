//! A push that dies never leaves a name that means something incomplete: the builder is killed after the n-th answer of
//! the registry, whose name then means what it meant, nothing, or all of the new image.

use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;
use std::sync::{Arc, OnceLock};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::hosted::Registry;
use crate::support::one_layer::{OneLayer, digest};
use crate::support::{Context, Store, soak};

/// So many answers are followed by a death when nobody soaks, evenly among all of them.
const POINTS: usize = 12;

/// Layers of its own on a base, one of them with some megabytes that no codec makes small.
fn context() -> Context {
    let mut state = 1_u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let large: Vec<u8> = (0..3 << 20).map(|_| noise()).collect();
    Context::new("FROM busybox\nCOPY large /\nRUN echo 1 > /one\nRUN echo 2 > /two\n").file("large", large)
}

/// What the name means, if it means anything; all that belongs to it is there.
fn meaning(registry: &Registry) -> Option<Vec<u8>> {
    let manifest = registry.manifest("app", "1")?;
    let read: Value = serde_json::from_slice(&manifest).expect("a manifest is JSON");
    let layers = read["layers"].as_array().expect("a manifest has layers");
    for blob in layers.iter().chain([&read["config"]]) {
        let name = blob["digest"].as_str().expect("a descriptor has a digest");
        let bytes = registry.blob("app", name).unwrap_or_else(|| panic!("the name means an image without {name}"));
        assert_eq!((digest(&bytes).as_str(), Some(bytes.len() as u64)), (name, blob["size"].as_u64()));
    }
    Some(manifest)
}

#[test]
fn a_push_that_is_killed_leaves_the_old_image_or_none_or_all_of_the_new_one() {
    let (store, context) = (Store::with_busybox(), context());
    let push = |registry: &Registry| {
        let name = format!("{}/app:1", registry.host());
        store.build_command(&context, ["-t", &name, "--push"])
    };
    let whole = Registry::start(digest);
    assert!(push(&whole).output().expect("the binary starts").status.success());
    let (new, answers) = (meaning(&whole).expect("it was pushed"), whole.seen().len());
    assert!(answers >= POINTS, "{:?}", whole.log());
    drop(whole);
    let old = OneLayer::plain(&[0; 1024]);
    let points: Vec<usize> = match soak(0).is_zero() {
        true => (0..POINTS).map(|point| 1 + point * (answers - 1) / (POINTS - 1)).collect(),
        false => (1..=answers).collect(),
    };
    let (mut killed, mut kept, mut absent, mut complete) = (0, 0, 0, 0);
    for (number, point) in points.into_iter().enumerate() {
        let registry = Registry::start(digest);
        let before = (number % 2 == 0).then(|| {
            old.put_named(&registry, "app", "1");
            meaning(&registry).expect("it was put there")
        });
        let victim: Arc<OnceLock<Pid>> = Arc::default();
        let (pid, mut answered) = (victim.clone(), 0);
        registry.fault("", "", usize::MAX, move |_, _| {
            answered += 1;
            if answered == point {
                kill_process(*pid.wait(), Signal::KILL).expect("it waits for this answer");
            }
        });
        let mut child = push(&registry).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary starts");
        victim.set(Pid::from_child(&child)).expect("it is set once");
        killed += u32::from(child.wait().expect("it is our child").signal() == Some(9));
        match meaning(&registry) {
            None => {
                assert_eq!(before, None, "after answer {point} the name is gone");
                absent += 1;
            }
            found if found == before => kept += 1,
            found => {
                assert_eq!(found.as_ref(), Some(&new), "after answer {point} the name means something else");
                complete += 1;
            }
        }
        // The next push makes it good.
        let again = push(&registry).output().expect("the binary starts");
        assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
        assert_eq!(meaning(&registry).as_ref(), Some(&new), "after answer {point}");
    }
    println!("{killed} pushes were killed: {kept} names kept, {absent} absent, {complete} complete");
    assert!(killed >= 10 && kept > 0 && absent > 0 && complete > 0, "{killed}, {kept}, {absent}, {complete}");
}
