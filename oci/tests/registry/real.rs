//! Against Debian's `docker-registry`, with `oci-client` as the one who checks: what rbuild pushes it pulls, and the
//! reverse.

use std::process::{Child, Command, Stdio};

use oci_client::client::{ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::manifest::OciImageManifest;
use oci_client::secrets::RegistryAuth;
use rbuild_oci::registry::{Credential, Credentials, Secret};

use super::*;

/// `bob:open sesame`, as htpasswd's bcrypt has it.
const HTPASSWD: &str = "bob:$2b$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW\n";

/// A registry of its own, gone with this value.
struct RealRegistry {
    child: Child,
    host: String,
    _dir: tempfile::TempDir,
}

impl RealRegistry {
    /// Waits until it answers.
    async fn start(protected: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().display();
        // Between this and the registry's own bind the port could be lost; then it exits, and the next one is tried.
        for _ in 0..5 {
            let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let host = format!("127.0.0.1:{port}");
            let auth = if protected {
                std::fs::write(dir.path().join("htpasswd"), HTPASSWD).unwrap();
                format!("auth:\n  htpasswd:\n    realm: test\n    path: {root}/htpasswd\n")
            } else {
                String::new()
            };
            let config = format!(
                "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {root}/data\nhttp:\n  addr: {host}\n{auth}"
            );
            let path = dir.path().join("config.yml");
            std::fs::write(&path, config).unwrap();
            let mut child = Command::new("docker-registry")
                .arg("serve")
                .arg(&path)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("the package `docker-registry` is installed");
            let answers = || std::net::TcpStream::connect(&host).is_ok();
            let deadline = std::time::Instant::now() + Duration::from_secs(30);
            while child.try_wait().unwrap().is_none() && std::time::Instant::now() < deadline {
                if answers() {
                    return Self { child, host, _dir: dir };
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            child.kill().ok();
            child.wait().unwrap();
        }
        panic!("`docker-registry` does not answer");
    }

    fn name(&self, rest: &str) -> Reference {
        format!("{}/{rest}", self.host).parse().unwrap()
    }

    fn client(&self, credential: Option<Credential>) -> Client {
        let credentials = credential.into_iter().fold(Credentials::none(), |all, one| all.with(&self.host, one));
        Client::new(Settings { credentials, ..Settings::default() }).unwrap()
    }
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn oracle() -> oci_client::Client {
    oci_client::Client::new(ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() })
}

fn bob(password: &str) -> Credential {
    Credential::Password { username: "bob".into(), password: Secret::new(password) }
}

/// An image whose layer is larger than any buffer on the way.
fn large() -> Image {
    let mut state = 1_u64;
    let bytes = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    });
    Image::with_layer(bytes.take(5 << 20).collect(), "amd64", "")
}

/// Pushes with rbuild and pulls with rbuild and the oracle; then the reverse.
async fn round_trip(registry: &RealRegistry, client: &Client, auth: &RegistryAuth) {
    let image = large();
    let reference = registry.name("team/app:1");
    let digest = push(client, &reference, &image).await.unwrap();
    assert_eq!(digest, Digest::of(&image.manifest));
    let (resolved, _) = resolve(client, &reference).await.unwrap();
    assert_eq!((resolved.manifest_bytes, resolved.config_bytes), (image.manifest.clone(), image.config.clone()));
    fetch(client, &reference, &image).await.unwrap();
    // Again: nothing is missing. Under another name: mounted.
    push(client, &reference, &image).await.unwrap();
    let what = image.to_push(std::slice::from_ref(&reference));
    push_image(client, &registry.name("team/copy:1"), &what, &image.store(), &|_, _| {}).await.unwrap();

    for name in ["team/app:1", "team/copy:1"] {
        let theirs: oci_client::Reference = registry.name(name).to_string().parse().unwrap();
        let pulled = oracle().pull(&theirs, auth, vec![media_type::OCI_LAYER]).await.unwrap();
        assert_eq!(pulled.digest.as_deref(), Some(digest_of(&image.manifest).as_str()));
        assert_eq!(pulled.config.data, image.config);
        assert_eq!(
            pulled.layers.iter().map(|layer| layer.data.to_vec()).collect::<Vec<_>>(),
            std::slice::from_ref(&image.layer)
        );
    }

    let image = Image::new("theirs");
    let layers = [ImageLayer::new(image.layer.clone(), media_type::OCI_LAYER.into(), None)];
    let config = Config::new(image.config.clone(), media_type::OCI_CONFIG.into(), None);
    let manifest = OciImageManifest::build(&layers, &config, None);
    let reference = registry.name("theirs:1");
    oracle().push(&reference.to_string().parse().unwrap(), &layers, config, auth, Some(manifest)).await.unwrap();
    let (resolved, _) = resolve(client, &reference).await.unwrap();
    assert_eq!(resolved.config_bytes, image.config);
    fetch(client, &reference, &image).await.unwrap();
    // What is pinned is found by digest.
    resolve(client, &registry.name("theirs").with_digest(resolved.manifest.digest)).await.unwrap();
}

#[tokio::test]
async fn docker_registry_open_to_all() {
    let registry = RealRegistry::start(false).await;
    let client = registry.client(None);
    round_trip(&registry, &client, &RegistryAuth::Anonymous).await;
    let result = resolve(&client, &registry.name("nope:1")).await;
    check("404", result, Err(&["nope:1` is not found: MANIFEST_UNKNOWN: manifest unknown"]));
    // The registry itself sees that bytes are wrong.
    let image = Image::new("a");
    let mut what = image.to_push(&[]);
    what.manifest.media_type = "text/plain".into();
    let result = push_image(&client, &registry.name("app:1"), &what, &image.store(), &|_, _| {}).await;
    check("media type", result, Err(&["PUT", "/v2/app/manifests/1` was answered with 4"]));
}

#[tokio::test]
async fn docker_registry_with_passwords() {
    let registry = RealRegistry::start(true).await;
    let auth = RegistryAuth::Basic("bob".into(), "open sesame".into());
    round_trip(&registry, &registry.client(Some(bob("open sesame"))), &auth).await;
    let result = resolve(&registry.client(None), &registry.name("team/app:1")).await;
    check("nobody", result, Err(&["wants credentials", "help: rbuild found no credentials"]));
    let result = push(&registry.client(Some(bob("wrong"))), &registry.name("app:1"), &Image::new("a")).await;
    check(
        "wrong",
        result,
        Err(&["wants credentials", "the credentials of `bob` from the command line were not accepted"]),
    );
}
