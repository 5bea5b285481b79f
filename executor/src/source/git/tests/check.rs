//! Kept repositories whose bytes changed are found, thrown away and fetched again; whole ones and busy ones are left.

use super::*;

/// Files of the one repository that is kept, by the end of their names.
fn kept(bench: &Bench, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![bench.path("store/git")];
    while let Some(folder) = todo.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else if path.to_string_lossy().ends_with(end) {
                found.push(path);
            }
        }
    }
    found
}

#[tokio::test]
async fn a_flipped_byte_in_a_kept_repository_costs_a_fetch_and_a_whole_one_nothing() {
    let bench = Bench::new();
    assert_eq!(verify(&bench.store, &bench.cancel).await.unwrap(), [], "nothing is kept, and git is not asked");
    bench.repository("a", "echo -n one >f; mkdir d; echo -n two >d/g");
    let server = bench.serve();
    let wanted = source(&server.url("/a"), "main");
    for harm in [
        |bytes: &mut Vec<u8>| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        },
        |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() - 30),
    ] {
        bench.get(&wanted).await.unwrap();
        assert_eq!(verify(&bench.store, &bench.cancel).await.unwrap(), []);
        server.asked();
        let pack = kept(&bench, ".pack").remove(0);
        let mut bytes = std::fs::read(&pack).unwrap();
        harm(&mut bytes);
        std::fs::remove_file(&pack).unwrap();
        std::fs::write(&pack, bytes).unwrap();
        let damages = verify(&bench.store, &bench.cancel).await.unwrap();
        assert_eq!(damages.len(), 1, "{damages:?}");
        assert!(damages[0].kind == store::Kind::Git && damages[0].healed.is_some(), "{damages:?}");
        assert!(!bench.path("store/git").join(&damages[0].name).exists(), "dropped");
        assert_eq!(server.asked().len(), 0, "nobody was asked");
        let (into, ..) = bench.get(&wanted).await.unwrap();
        assert_eq!(files(&into), ["d/", "d/g=two", "f=one"]);
    }
}

#[tokio::test]
async fn a_repository_in_which_somebody_works_is_left() {
    let bench = Bench::new();
    bench.repository("a", "echo -n one >f");
    let server = bench.serve();
    bench.get(&source(&server.url("/a"), "main")).await.unwrap();
    std::fs::write(&kept(&bench, ".pack")[0], "nothing like it").unwrap();
    let lock = std::fs::File::open(&kept(&bench, ".lock")[0]).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    assert_eq!(verify(&bench.store, &bench.cancel).await.unwrap(), []);
    drop(lock);
    assert_eq!(verify(&bench.store, &bench.cancel).await.unwrap().len(), 1);
}
