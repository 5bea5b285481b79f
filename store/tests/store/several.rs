//! Names that mean images for several platforms.

use oci::model::{Digest, Index, Platform, Reference};
use rbuild_store::{ImageRecord, Store, StoreError, StoredIndex, Wish};
use solver::seam::ResultId;

use crate::support::{Place, built, image, index, name, place, time};

/// An image for a platform whose one layer is in the store.
fn member(store: &Store, platform: &str) -> ImageRecord {
    let top = built(store, None, platform);
    ImageRecord { platform: platform.parse().unwrap(), ..image(store, platform, Some(&top)) }
}

/// `multi:1`, an index of these platforms of which the first `here` are in the store.
fn tagged(store: &Store, platforms: &[&str], here: usize) -> StoredIndex {
    let all: Vec<ImageRecord> = platforms.iter().map(|platform| member(store, platform)).collect();
    let document = index(&all.iter().collect::<Vec<_>>());
    store.tag_index(&name("multi:1"), &document, &all[..here]).unwrap();
    StoredIndex { document, members: all[..here].to_vec() }
}

fn served(store: &Store, name: &Reference, wanted: &str) -> Option<String> {
    store.image_for(name, &wanted.parse().unwrap()).unwrap().map(|image| image.platform.to_string())
}

#[test]
fn a_name_means_an_index_with_the_images_that_are_here() {
    let place = place();
    let tagged = tagged(&place.open(), &["linux/s390x", "linux/arm64", "linux/amd64", "linux/riscv64"], 3);
    let store = place.open();
    let app = name("multi:1");
    assert_eq!(store.index_of(&app).unwrap(), Some(tagged.clone()));
    let [s390x, arm64, amd64] = &tagged.members[..] else { panic!("three") };
    let native = tagged.members.iter().find(|member| member.platform.serves(&Platform::native())).unwrap();
    assert_eq!(store.image(&app).unwrap().as_ref(), Some(native), "one image is asked for");
    assert_eq!(store.images().unwrap(), [(app.clone(), native.clone())], "a name is listed once");
    assert_eq!(store.nameless_images().unwrap(), []);
    for member in [s390x, arm64, amd64] {
        assert_eq!(store.image_names(&member.manifest.digest).unwrap(), std::slice::from_ref(&app));
        assert_eq!(store.image_for(&app, &member.platform).unwrap().as_ref(), Some(member));
    }
    assert_eq!(served(&store, &app, "linux/riscv64"), None, "named, but not here");
    assert_eq!(served(&store, &app, "linux/amd64/v3").as_deref(), Some("linux/amd64"));
    assert_eq!(served(&store, &name("multi:2"), "linux/amd64"), None);
    assert_eq!(store.index_of(&name("multi:2")).unwrap(), None);
}

#[test]
fn what_the_index_says_of_a_platform_counts() {
    let place = place();
    let store = place.open();
    // Two configs that do not say their variant: the index does.
    let plain = |text: &str| ImageRecord { platform: "linux/arm/v7".parse().unwrap(), ..image(&store, text, None) };
    let (v6, v7) = (plain("six"), plain("seven"));
    let mut document: Index = serde_json::from_str(&index(&[&v6, &v7])).unwrap();
    document.manifests[0].platform = Some("linux/arm/v6".parse().unwrap());
    let document = serde_json::to_string(&document).unwrap();
    store.tag_index(&name("multi:1"), &document, &[v6.clone(), v7.clone()]).unwrap();
    let id =
        |wanted: &str| store.image_for(&name("multi:1"), &wanted.parse().unwrap()).unwrap().map(|image| image.config);
    assert_eq!((id("linux/arm/v6"), id("linux/arm/v7")), (Some(v6.config), Some(v7.config)));
    assert_eq!(id("linux/arm/v5"), None);
    // One that stands in an index within is for what its config says.
    let outer = index(&[&v6]);
    store.tag_index(&name("multi:2"), &outer, &[v6, member(&store, "linux/arm64")]).unwrap();
    assert_eq!(served(&store, &name("multi:2"), "linux/arm64").as_deref(), Some("linux/arm64"));
    // A name of one image serves what that runs on.
    store.tag(&name("one:1"), &v7).unwrap();
    assert_eq!(served(&store, &name("one:1"), "linux/arm/v8").as_deref(), Some("linux/arm/v7"));
    assert_eq!(served(&store, &name("one:1"), "linux/amd64"), None);
}

#[test]
fn names_move_between_indexes_and_images() {
    let place = place();
    let store = place.open();
    let app = name("multi:1");
    let first = tagged(&store, &["linux/amd64", "linux/arm64"], 2);
    let later: Vec<ImageRecord> =
        first.members.iter().map(|member| ImageRecord { created: time(99), top: None, ..member.clone() }).collect();
    store.tag_index(&app, &first.document, &later).unwrap();
    assert_eq!(store.index_of(&app).unwrap().as_ref(), Some(&first), "the same index again changes nothing");
    let other = image(&store, "plain", None);
    store.tag(&app, &other).unwrap();
    assert_eq!((store.index_of(&app).unwrap(), store.image(&app).unwrap()), (None, Some(other.clone())));
    assert_eq!(store.nameless_images().unwrap().len(), 2, "the members are nameless, not gone");
    store.tag_index(&app, &first.document, &later).unwrap();
    let again = store.index_of(&app).unwrap().unwrap();
    assert_eq!((again.document, again.members.len(), again.members[0].created), (first.document, 2, time(99)));
    // The image that stands for an index is not the index.
    let main = store.image(&app).unwrap().unwrap();
    store.tag(&app, &main).unwrap();
    assert_eq!((store.index_of(&app).unwrap(), store.image(&app).unwrap()), (None, Some(main)));
}

#[test]
fn a_name_is_taken_away_with_all_that_it_meant() {
    let place = place();
    let store = place.open();
    let app = name("multi:1");
    let all = tagged(&store, &["linux/amd64", "linux/arm64"], 2);
    assert!(store.untag(&app).unwrap() && !store.untag(&app).unwrap());
    assert_eq!((store.image(&app).unwrap(), store.index_of(&app).unwrap()), (None, None));
    assert_eq!(store.nameless_images().unwrap().len(), 2);
    store.tag_index(&app, &all.document, &all.members).unwrap();
    store.tag(&name("other:1"), &all.members[1]).unwrap();
    assert_eq!(store.remove_image(&all.members[1].manifest.digest).unwrap(), [app.clone(), name("other:1")]);
    assert_eq!((store.images().unwrap(), store.index_of(&app).unwrap()), (vec![], None));
    assert_eq!(store.nameless_images().unwrap(), all.members[..1], "the other member is known still");
    assert_eq!(place.names("images").len(), 1);
}

#[test]
fn people_find_indexes_by_name_digest_and_its_beginning() {
    let place = place();
    let store = place.open();
    let all = tagged(&store, &["linux/amd64", "linux/arm64"], 2);
    let digest = all.digest();
    let native = store.image(&name("multi:1")).unwrap().unwrap();
    for text in ["multi:1", &digest.to_string(), &digest.hex(), &digest.hex()[..12]] {
        let found = store.find_image(text).unwrap().unwrap_or_else(|| panic!("{text}"));
        assert_eq!((found.index.as_ref(), found.image), (Some(&all), native.clone()), "{text}");
        assert_eq!((found.names, found.name.is_some()), (vec![name("multi:1")], text == "multi:1"), "{text}");
    }
    let member = store.find_image(&all.members[1].config.hex()[..12]).unwrap().unwrap();
    assert_eq!((member.index, member.image), (None, all.members[1].clone()), "one image of it");
    assert_eq!(member.names, [name("multi:1")]);
}

#[test]
fn what_is_no_index_gets_no_name() {
    let place = place();
    let store = place.open();
    let one = image(&store, "one", None);
    let refused = |document: &str, members: &[ImageRecord]| {
        let error = store.tag_index(&name("multi:1"), document, members).unwrap_err();
        assert!(matches!(error, StoreError::BadRecord { .. }), "{error}");
        assert_eq!(store.images().unwrap(), []);
    };
    refused("", std::slice::from_ref(&one));
    refused("{}", std::slice::from_ref(&one));
    refused(&index(&[&one]), &[]);
    refused(&format!("{}{}", index(&[&one]), " ".repeat(4 << 20)), &[one]);
}

#[test]
fn collection_leaves_every_member_of_a_name_and_takes_them_when_it_is_gone() {
    let place = place();
    let all = tagged(&place.open(), &["linux/amd64", "linux/arm64", "linux/s390x"], 3);
    let store = place.open();
    let census = store.prune(&Wish { all: true, ..Wish::default() }, false).unwrap();
    assert_eq!(census.gone, []);
    assert_eq!((place.names("layers").len(), place.names("blobs/sha256").len()), (3, 6));
    let holders = store.usage().unwrap().things;
    assert!(holders.iter().filter(|thing| thing.kind == rbuild_store::Kind::Image).all(|thing| thing.held.is_some()));
    assert_eq!(store.index_of(&name("multi:1")).unwrap(), Some(all));
    store.untag(&name("multi:1")).unwrap();
    drop(store);
    let store = place.open();
    store.prune(&Wish::default(), false).unwrap();
    assert_eq!(
        (place.names("layers").len(), place.names("blobs/sha256").len(), place.names("images").len()),
        (0, 0, 0)
    );
}

/// The closed index is lost and made anew of the files.
fn rebuilt(place: &Place) -> Store {
    std::fs::remove_file(place.root.join("index.db")).unwrap();
    place.open()
}

#[test]
fn an_index_comes_back_with_the_database() {
    let place = place();
    let store = place.open();
    let all = tagged(&store, &["linux/arm64", "linux/amd64"], 2);
    // Another name of a member comes and moves on: what the index needs stays.
    store.tag(&name("arm:1"), &all.members[0]).unwrap();
    store.tag(&name("arm:1"), &image(&store, "other", None)).unwrap();
    drop(store);
    let store = rebuilt(&place);
    assert_eq!(store.index_of(&name("multi:1")).unwrap(), Some(all.clone()));
    assert_eq!(store.nameless_images().unwrap(), []);
    drop(store);
    std::fs::remove_file(place.root.join("blobs/sha256").join(all.members[0].config.hex())).unwrap();
    let store = rebuilt(&place);
    assert_eq!(store.index_of(&name("multi:1")).unwrap(), None, "an index of which something is gone is none");
    assert!(store.notices().iter().any(|notice| notice.contains("`multi:1` was dropped")), "{:?}", store.notices());
    assert_eq!(store.nameless_images().unwrap(), all.members[1..]);
}

#[test]
fn a_power_loss_takes_a_name_of_which_it_took_an_image() {
    let place = place();
    let store = place.open();
    let first = member(&store, "linux/amd64");
    store.add_image(&first).unwrap();
    store.sync().unwrap();
    let late = member(&store, "linux/arm64");
    store.tag_index(&name("multi:1"), &index(&[&first, &late]), &[first.clone(), late]).unwrap();
    drop(store);
    let store = place.open_in("boot-2");
    assert_eq!((store.images().unwrap(), store.nameless_images().unwrap()), (vec![], vec![first]));
    assert!(store.notices().iter().any(|notice| notice.ends_with(": multi:1")), "{:?}", store.notices());
}

#[test]
fn verification_knows_the_files_of_an_index() {
    let place = place();
    let all = tagged(&place.open(), &["linux/arm64", "linux/amd64"], 2);
    let store = place.open();
    assert_eq!(store.verify_records().unwrap(), []);
    let named = format!("{}.json", Digest::of(name("multi:1").to_string().as_bytes()).hex());
    let member = format!("{}.json", all.members[0].manifest.digest.hex());
    for file in [&named, &member] {
        let path = place.root.join("images").join(file);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(store.verify_records().unwrap().len(), 1, "{file}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{file}");
        let text = String::from_utf8(bytes.clone()).unwrap().replace("arm64", "arm65");
        std::fs::write(&path, text).unwrap();
        assert_eq!(store.verify_records().unwrap().len(), 1, "{file}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{file}");
    }
    let users = store.users_of_layer(all.members[0].top.as_ref().unwrap()).unwrap();
    assert_eq!(users.len(), 1, "{users:?}");
    let manifest = place.root.join("blobs/sha256").join(all.members[0].manifest.digest.hex());
    std::fs::write(manifest, "x").unwrap();
    let damages = store.verify_blobs(1, &|_| {}).unwrap();
    assert!(damages[0].used_by[0].contains("multi:1"), "{damages:?}");
}

#[test]
fn a_store_of_schema_4_is_brought_up() {
    let place = place();
    let store = place.open();
    let top: ResultId = built(&store, None, "x");
    let one = image(&store, "one", Some(&top));
    store.tag(&name("app:1"), &one).unwrap();
    drop(store);
    let connection = rusqlite::Connection::open(place.root.join("index.db")).unwrap();
    let back = "DROP VIEW names; DROP TRIGGER members_went; DROP TABLE members; DROP INDEX tags_by_index;
        ALTER TABLE tags DROP COLUMN document; ALTER TABLE tags DROP COLUMN index_digest; PRAGMA user_version = 4;";
    connection.execute_batch(back).unwrap();
    drop(connection);
    let store = place.open();
    assert_eq!(store.notices(), [""; 0]);
    assert_eq!(
        (store.image(&name("app:1")).unwrap(), store.index_of(&name("app:1")).unwrap()),
        (Some(one.clone()), None)
    );
    let all = tagged(&store, &["linux/amd64"], 1);
    assert_eq!(store.index_of(&name("multi:1")).unwrap(), Some(all));
    assert_eq!(store.image_names(&one.manifest.digest).unwrap(), [name("app:1")]);
}
