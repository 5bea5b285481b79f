//! Claims to keys: one at a time has one, however many want it; what is left behind is swept.

use std::sync::atomic::{AtomicUsize, Ordering};

use solver::seam::CacheStore as _;

use crate::support::{key, place};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
}

#[test]
fn a_claim_is_had_once_and_given_back() {
    let place = place();
    // Two handles, as two builds in one process have them.
    let (one, two) = (place.open(), place.open());
    let flight = one.try_claim(&key("k")).unwrap().expect("nobody has it");
    for store in [&one, &two] {
        assert!(store.try_claim(&key("k")).unwrap().is_none(), "it is had");
        assert!(store.try_claim(&key("other")).unwrap().is_some(), "another key is free");
    }
    drop(flight);
    assert_eq!(place.names("flights"), [] as [&str; 0]);
    assert!(two.try_claim(&key("k")).unwrap().is_some(), "it was given back");
}

#[test]
fn of_many_who_wait_one_at_a_time_has_the_claim() {
    const WAITING: usize = 16;
    const EACH: usize = 20;
    let place = place();
    let store = place.open();
    let (inside, all) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..WAITING {
            scope.spawn(|| {
                for _ in 0..EACH {
                    let flight = runtime().block_on(store.claim(&key("k"))).unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two have it");
                    all.fetch_add(1, Ordering::SeqCst);
                    inside.fetch_sub(1, Ordering::SeqCst);
                    drop(flight);
                }
            });
        }
    });
    assert_eq!(all.into_inner(), WAITING * EACH);
    assert_eq!(place.names("flights"), [] as [&str; 0]);
}

#[test]
fn who_gives_up_waiting_leaves_the_claim_to_others() {
    let place = place();
    let store = place.open();
    let flight = store.try_claim(&key("k")).unwrap().expect("nobody has it");
    let wanted = key("k");
    runtime().block_on(async {
        for _ in 0..8 {
            let mut claim = Box::pin(store.claim(&wanted));
            let waits =
                std::future::poll_fn(|context| std::task::Poll::Ready(claim.as_mut().poll(context).is_pending()));
            assert!(waits.await, "it is had");
        }
    });
    drop(flight);
    // Whoever gave up may have the lock for an instant; then it is free.
    drop(runtime().block_on(store.claim(&key("k"))).unwrap());
    drop(runtime().block_on(store.claim(&key("k"))).unwrap());
}

#[test]
fn what_dead_processes_left_is_swept_and_what_is_had_stays() {
    let place = place();
    let store = place.open();
    let flight = store.try_claim(&key("k")).unwrap().expect("nobody has it");
    std::fs::write(place.root.join("flights").join(key("dead").to_string()), "").unwrap();
    drop(place.open());
    assert_eq!(place.names("flights"), [key("k").to_string()]);
    assert!(store.try_claim(&key("k")).unwrap().is_none(), "sweeping takes nothing from anybody");
    drop(flight);
}
