//! Builds that push to and pull from registries with the ways of those that everybody uses.

use crate::support::archive::hex;
use crate::support::hosted::profile::{Hosted, PROFILES, Profile};
use crate::support::registry::log_in;
use crate::support::{Context, Store};

const PASSWORD: &str = "secret word";

fn hosted(profile: Profile) -> Hosted {
    profile.start(|bytes| format!("sha256:{}", hex(bytes)), PASSWORD, "team/app")
}

#[test]
fn a_build_is_pushed_to_and_pulled_from_each_of_them() {
    for profile in PROFILES {
        let hosted = hosted(profile);
        let host = hosted.registry.host();
        // The token server of Docker Hub is known as its own; one on loopback under another port is its host's.
        let store = Store::with_busybox();
        log_in(&store, &host, profile.user(), PASSWORD);
        let name = format!("{host}/team/app:1");
        let context = Context::new("FROM busybox\nRUN echo made > /made\n");
        store.build(&context, ["-t", &name, "--push"]).ok().never_says(&[PASSWORD]);

        let other = Store::new();
        log_in(&other, &host, profile.user(), PASSWORD);
        let on_top = Context::new(&format!("FROM {name}\nRUN echo over $(cat /made)\n"));
        let built = other.build(&on_top, ["-t", "on-top:1"]).ok().never_says(&[PASSWORD]);
        assert_eq!(built.lines_of_steps("over made"), 1, "{profile:?}: {built}");
        if let Some(storage) = &hosted.storage {
            assert!(storage.count("GET", "/signed/") >= 2, "{profile:?}: blobs come from the storage");
            assert!(storage.seen().iter().all(|request| request.header("authorization").is_none()), "{profile:?}");
        }
    }
}

#[test]
fn a_limit_that_is_waited_out_is_said_while_it_lasts() {
    let hosted = hosted(Profile::Hub);
    let host = hosted.registry.host();
    let store = Store::with_busybox();
    log_in(&store, &host, Profile::Hub.user(), PASSWORD);
    let name = format!("{host}/team/app:1");
    store.build(&Context::new("FROM busybox\nCMD [\"true\"]\n"), ["-t", &name, "--push"]).ok();
    hosted.limit_pulls(1, 3);
    let other = Store::new();
    log_in(&other, &host, Profile::Hub.user(), PASSWORD);
    let on_top = Context::new(&format!("FROM {name}\nCOPY Dockerfile /\n"));
    other.build(&on_top, ["-t", "on-top:1"]).ok().says(&["waiting 3 s", "429", "pull rate limit"]);
}
