//! The ways of four registries that everybody uses, as far as a client meets them: how they ask for proof, where blobs
//! come from, what they make of chunks, mounts and tags, and in which words they refuse. Written down from their
//! documentation and from what people reported of them; their hosts are on loopback here.
//!
//! | | proof | blobs | chunks | mounts | of its own |
//! |---|---|---|---|---|---|
//! | ECR | Basic, user `AWS` | signed address elsewhere | 201, only the first is kept | 202, unless switched on | repositories are made beforehand; tags may be immutable, even for what they name |
//! | GHCR | token, anonymous for public ones | signed address elsewhere | 416 above 4 MiB | done | 403 for who may not write |
//! | Harbor | token of `/service/token` | itself | done | 401 when the neighbour is no project | projects are made beforehand; quotas; cookies |
//! | Docker Hub | token of another host | signed address elsewhere | done | done | pulls are limited: 429, said in headers |

use std::sync::Arc;

use super::{Auth, Chunks, DigestOf, Registry, Response, blob};

/// Whose ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    Ecr,
    Ghcr,
    Harbor,
    Hub,
}

/// All of them.
pub const PROFILES: [Profile; 4] = [Profile::Ecr, Profile::Ghcr, Profile::Harbor, Profile::Hub];

/// A registry with what belongs to it.
pub struct Hosted {
    pub registry: Arc<Registry>,
    /// Where its blobs come from, if not from itself.
    pub storage: Option<Registry>,
    /// Who gives tokens, if not the registry's own host.
    pub tokens: Option<Registry>,
}

/// Chunks of at most 4 MiB.
const GHCR_CHUNK_MAX: usize = 4 << 20;
const GHCR_TOO_LARGE: &str = "the request body is too large and exceeds the maximum permissible limit of 4.00MiB";
const HUB_LIMITED: &str =
    "You have reached your unauthenticated pull rate limit. https://www.docker.com/increase-rate-limit";

impl Profile {
    /// The name that this registry wants of who logs in with a password of its own.
    pub fn user(self) -> &'static str {
        if self == Self::Ecr { "AWS" } else { "builder" }
    }

    /// Starts one that knows the profile's user with this password, and this project or repository.
    pub fn start(self, digest: DigestOf, password: &str, repository: &str) -> Hosted {
        let registry = Arc::new(Registry::start(digest));
        let realm = |host: String, path: &str| format!("http://{host}{path}");
        let mut hosted = Hosted { registry: registry.clone(), storage: None, tokens: None };
        registry.know_user(self.user(), password);
        match self {
            Self::Ecr => registry.require(Auth::Basic("AWS".into(), password.into())),
            Self::Ghcr => {
                registry.require(Auth::Bearer { realm: realm(registry.host(), "/token"), service: "ghcr.io".into() });
            }
            Self::Harbor => registry.require(Auth::Bearer {
                realm: realm(registry.host(), "/service/token"),
                service: "harbor-registry".into(),
            }),
            Self::Hub => {
                // Another port of the same machine, as another host of the same company.
                let tokens = Registry::start(digest);
                tokens.give_tokens_of(&registry);
                let realm = realm(tokens.host(), "/token");
                registry.require(Auth::Bearer { realm, service: "registry.docker.io".into() });
                hosted.tokens = Some(tokens);
            }
        }
        registry.take_chunks(match self {
            Self::Ecr => Chunks { status: 201, only_first: true, ..Chunks::default() },
            Self::Ghcr => Chunks { max: Some((GHCR_CHUNK_MAX, 416, GHCR_TOO_LARGE)), ..Chunks::default() },
            Self::Harbor | Self::Hub => Chunks::default(),
        });
        registry.allow_mounts(self != Self::Ecr);
        self.guard(&registry, repository);
        if self != Self::Harbor {
            hosted.storage = Some(storage(&registry));
        }
        hosted
    }

    /// What it refuses, after proof was given.
    fn guard(self, registry: &Registry, repository: &str) {
        let mine = repository.to_owned();
        match self {
            Self::Ecr => registry.guard(move |request, to| {
                let missing = to != mine && matches!(request.method.as_str(), "POST" | "PUT" | "PATCH");
                missing.then(|| {
                    let words = format!(
                        "The repository with name '{to}' does not exist in the registry with id '123456789012'"
                    );
                    Response::error(404, "NAME_UNKNOWN", &words)
                })
            }),
            Self::Harbor => registry.guard(move |request, to| {
                let project = |name: &str| name.split('/').next().unwrap_or_default().to_owned();
                let unknown = |name: &str| project(name) != project(&mine);
                if let Some(from) = request.param("from").filter(|from| unknown(from)) {
                    let words = format!("project {} not found", project(&from));
                    return Some(Response::error(401, "UNAUTHORIZED", &words));
                }
                unknown(to).then(|| Response::error(404, "NOT_FOUND", &format!("project {} not found", project(to))))
            }),
            Self::Ghcr | Self::Hub => {}
        }
    }
}

impl Hosted {
    /// From now on the tags that are there never change; not even to what they are.
    pub fn make_tags_immutable(&self) {
        let known = self.registry.tags();
        self.registry.guard(move |request, _| {
            let name = request.path.split_once("/manifests/").map(|(_, name)| name)?;
            let immutable = request.method == "PUT" && known.iter().any(|tag| tag == name);
            immutable.then(|| {
                let words = format!(
                    "The image tag '{name}' already exists in the repository and cannot be overwritten because the tag \
                     is immutable."
                );
                Response::error(400, "TAG_INVALID", &words)
            })
        });
    }

    /// The next `times` pulls of an image are too many; the registry wants to be left alone for so long.
    pub fn limit_pulls(&self, times: usize, seconds: u32) {
        self.registry.refuse("GET", "/manifests/", times, move |_, answer| {
            *answer = Response::error(429, "TOOMANYREQUESTS", HUB_LIMITED)
                .with("RateLimit-Limit", "100;w=21600")
                .with("RateLimit-Remaining", "0;w=21600")
                .with("Docker-RateLimit-Source", "127.0.0.1")
                .with("Retry-After", seconds.to_string());
        });
    }

    /// The project is full.
    pub fn fill_quota(&self) {
        self.registry.refuse("PUT", "/blobs/uploads/", usize::MAX, |_, answer| {
            let words = "adding 1.0 MiB of storage resource, which when updated to current usage of 9.5 MiB \
                         will exceed the configured upper limit of 10.0 MiB.";
            *answer = Response::error(403, "DENIED", words);
        });
    }

    /// Who asks may read and not write.
    pub fn forbid_writing(&self) {
        self.registry.refuse("POST", "/blobs/uploads/", usize::MAX, |_, answer| {
            *answer = Response::error(403, "DENIED", "permission_denied: write_package");
        });
    }
}

/// Object storage: what the registry sends its readers to. An address is good for GET alone, and whoever shows a second
/// proof beside the signature is refused.
fn storage(registry: &Registry) -> Registry {
    let storage = Registry::start(registry.shared.digest);
    let behind = registry.shared.clone();
    storage.fault("", "/signed/", usize::MAX, move |request, answer| {
        *answer = if request.header("authorization").is_some() {
            Response::new(400).body("<Error><Message>Only one auth mechanism allowed</Message></Error>")
        } else if request.param("X-Amz-Signature").as_deref() != Some("s3cret/+") || request.method != "GET" {
            Response::new(403).body("<Error><Code>SignatureDoesNotMatch</Code></Error>")
        } else {
            let digest = request.path.rsplit('/').next().unwrap_or_default();
            let state = behind.lock();
            let bytes = state.blobs.values().find_map(|blobs| blobs.get(digest));
            bytes.map_or_else(|| Response::new(404), |bytes| blob(request, bytes))
        };
    });
    let place = storage.host();
    registry.send_blobs_to(move |digest| {
        format!("http://{place}/signed/{digest}?X-Amz-Expires=600&X-Amz-Signature=s3cret%2F%2B")
    });
    storage
}
