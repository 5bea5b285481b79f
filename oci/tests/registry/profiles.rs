//! A push and a pull through each of the registries that everybody uses, and what a user is told when they refuse.

use super::server::profile::{Hosted, PROFILES, Profile};
use super::*;
use rbuild_oci::registry::{Credential, Credentials, Secret};

const PASSWORD: &str = "pa:ss/word";
const CHUNK: usize = 1 << 20;

fn hosted(profile: Profile) -> (Hosted, Client, Arc<TestPace>) {
    let hosted = profile.start(digest_of, PASSWORD, "team/app");
    let (client, pace) = client_for(&hosted, Some(profile.user()));
    (hosted, client, pace)
}

fn client_for(hosted: &Hosted, user: Option<&str>) -> (Client, Arc<TestPace>) {
    client_telling(hosted, user, |_| {})
}

/// The same; `tell` hears what a person should know.
fn client_telling(
    hosted: &Hosted,
    user: Option<&str>,
    tell: impl Fn(&str) + Send + Sync + 'static,
) -> (Client, Arc<TestPace>) {
    client(|settings| {
        settings.tell = Arc::new(tell);
        if let Some(user) = user {
            let credential = Credential::Password { username: user.into(), password: Secret::new(PASSWORD) };
            settings.credentials = Credentials::none().with(&hosted.registry.host(), credential);
            // Docker Hub's is built in; here both are on loopback, under names of no company.
            let tokens = hosted.tokens.iter().map(|tokens| (hosted.registry.host(), tokens.host()));
            settings.token_servers = tokens.collect();
        }
        settings.chunk_bytes = CHUNK as u64;
    })
}

/// A layer that goes in chunks where the registry lets it.
fn large() -> Image {
    Image::with_layer((0..5 * CHUNK).map(|n| ((n * n) >> 9) as u8).collect(), "amd64", "")
}

#[tokio::test]
async fn an_image_goes_through_each_of_them_and_back() {
    for profile in PROFILES {
        let (hosted, client, _) = hosted(profile);
        let image = large();
        let reference = name(&hosted.registry, "team/app:1");
        push(&client, &reference, &image).await.unwrap_or_else(|error| panic!("{profile:?}: {}", words(&error)));
        let (resolved, _) = resolve(&client, &reference).await.unwrap();
        assert_eq!(resolved.manifest_bytes, image.manifest, "{profile:?}");
        assert_eq!(resolved.config_bytes, image.config, "{profile:?}");
        fetch(&client, &reference, &image).await.unwrap();
        let patches = hosted.registry.count("PATCH", "");
        let chunks = match profile {
            // One that counts, one that is lost; then the blob goes whole.
            Profile::Ecr => 2,
            // Chunks of a mebibyte are small enough.
            Profile::Ghcr | Profile::Harbor | Profile::Hub => 5,
        };
        assert_eq!(patches, chunks, "{profile:?}");
        if let Some(storage) = &hosted.storage {
            let read = storage.seen();
            assert!(read.len() >= 2, "{profile:?}: blobs come from the storage");
            for request in read {
                assert_eq!(request.header("authorization"), None, "{profile:?}");
                assert!(request.query.ends_with("X-Amz-Signature=s3cret%2F%2B"), "{profile:?}: {}", request.query);
            }
        }
        // A second push sends nothing, and a mount is tried where it helps.
        hosted.registry.forget();
        push(&client, &reference, &image).await.unwrap();
        assert_eq!(hosted.registry.count("POST", "") + hosted.registry.count("PATCH", ""), 0, "{profile:?}");
    }
}

#[tokio::test]
async fn chunks_above_the_limit_of_ghcr_are_given_up_for_the_whole() {
    let hosted = Profile::Ghcr.start(digest_of, PASSWORD, "team/app");
    let bob = Credential::Password { username: "builder".into(), password: Secret::new(PASSWORD) };
    let (client, _) = client(|settings| {
        settings.credentials = Credentials::none().with(&hosted.registry.host(), bob);
        settings.chunk_bytes = 5 << 20;
    });
    let image = Image::with_layer(vec![3; 11 << 20], "amd64", "");
    push(&client, &name(&hosted.registry, "team/app:1"), &image).await.unwrap();
    assert_eq!(hosted.registry.blob("team/app", &digest_of(&image.layer)), Some(image.layer.clone()));
    assert_eq!(hosted.registry.count("PATCH", ""), 1, "it says so once");
    // It is remembered: the next large blob goes whole at once.
    let image = Image::with_layer(vec![4; 11 << 20], "amd64", "");
    push(&client, &name(&hosted.registry, "team/app:2"), &image).await.unwrap();
    assert_eq!(hosted.registry.count("PATCH", ""), 1);
}

#[tokio::test]
async fn mounts_are_asked_for_and_never_in_the_way() {
    for profile in PROFILES {
        let (hosted, client, _) = hosted(profile);
        let (image, other) = (Image::new("mounted"), Image::new("sent"));
        // Harbor answers 401 for a neighbour that is no project, ECR opens a session.
        for (neighbour, is_there) in [("other/base", false), ("team/base", true)] {
            if is_there {
                hosted.registry.put_blob(neighbour, &image.layer);
            }
            let from = name(&hosted.registry, &format!("{neighbour}:1"));
            let reference = name(&hosted.registry, if is_there { "team/app:2" } else { "team/app:1" });
            let image = if is_there { &image } else { &other };
            let pushed = push_image(&client, &reference, &image.to_push(&[from]), &image.store(), &|_, _| {}).await;
            pushed.unwrap_or_else(|error| panic!("{profile:?} {neighbour}: {}", words(&error)));
            let layer = digest_of(&image.layer);
            assert_eq!(hosted.registry.blob("team/app", &layer).as_ref(), Some(&image.layer), "{profile:?}");
            let sent = hosted.registry.seen().iter().any(|r| r.method == "PUT" && r.body == image.layer);
            assert_eq!(sent, !is_there || profile == Profile::Ecr, "{profile:?} {neighbour}");
        }
    }
}

#[tokio::test]
async fn what_they_refuse_is_said_in_their_words() {
    let push_to = async |hosted: &Hosted, client: &Client, to: &str| {
        push(client, &name(&hosted.registry, to), &Image::new("a")).await
    };
    let (ecr, client, _) = hosted(Profile::Ecr);
    let result = push_to(&ecr, &client, "team/nope:1").await;
    check("ECR", result, Err(&["POST", "NAME_UNKNOWN: The repository with name 'team/nope' does not exist"]));
    let (harbor, client, _) = hosted(Profile::Harbor);
    let result = push_to(&harbor, &client, "nope/app:1").await;
    check("Harbor", result, Err(&["NOT_FOUND: project nope not found"]));
    harbor.fill_quota();
    let result = push_to(&harbor, &client, "team/app:1").await;
    check("Harbor, full", result, Err(&["is denied: DENIED: adding 1.0 MiB", "configured upper limit"]));
    let (ghcr, client, _) = hosted(Profile::Ghcr);
    ghcr.forbid_writing();
    let result = push_to(&ghcr, &client, "team/app:1").await;
    check("GHCR", result, Err(&["POST", "is denied: DENIED: permission_denied: write_package", "of `builder`"]));
    for profile in [Profile::Ghcr, Profile::Hub, Profile::Harbor] {
        let (hosted, _, _) = hosted(profile);
        let (nobody, _) = client_for(&hosted, None);
        let result = push_to(&hosted, &nobody, "team/app:1").await;
        check("nobody", result, Err(&["wants credentials for", "help: rbuild found no credentials"]));
        // Public images need no name: a token for nobody is enough.
        let image = Image::new("public");
        image.serve(&hosted.registry, "team/app", "1");
        resolve(&nobody, &name(&hosted.registry, "team/app:1")).await.unwrap();
        fetch(&nobody, &name(&hosted.registry, "team/app:1"), &image).await.unwrap();
    }
}

#[tokio::test]
async fn a_tag_that_cannot_change_may_stay_what_it_is() {
    let (hosted, client, _) = hosted(Profile::Ecr);
    let image = Image::new("a");
    let reference = name(&hosted.registry, "team/app:1");
    push(&client, &reference, &image).await.unwrap();
    hosted.make_tags_immutable();
    push(&client, &reference, &image).await.expect("it is there already");
    let result = push(&client, &reference, &Image::new("b")).await;
    check("another", result, Err(&["PUT", "TAG_INVALID: The image tag '1' already exists"]));
    assert_eq!(hosted.registry.manifest("team/app", "1"), Some(image.manifest));
}

#[tokio::test]
async fn the_limit_of_docker_hub_is_waited_out_and_said() {
    let (hosted, ..) = hosted(Profile::Hub);
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = heard.clone();
    let tell = move |line: &str| kept.lock().unwrap().push(line.to_owned());
    let (client, pace) = client_telling(&hosted, Some(Profile::Hub.user()), tell);
    let image = Image::new("a");
    image.serve(&hosted.registry, "library/debian", "12");
    hosted.limit_pulls(1, 20);
    let reference = name(&hosted.registry, "library/debian:12");
    resolve(&client, &reference).await.unwrap();
    assert_eq!(pace.slept(), [Duration::from_secs(20)]);
    assert!(heard.lock().unwrap()[0].contains("pull rate limit"), "{heard:?}");
    hosted.limit_pulls(99, 21_600);
    let (client, pace) = client_for(&hosted, None);
    let result = resolve(&client, &reference).await;
    check("for ever", result, Err(&["429 in 6 attempts", "unauthenticated pull rate limit", "help: "]));
    assert_eq!(pace.slept(), [Duration::from_secs(60); 5], "nobody waits for six hours");
}
