//! What is told of how an image was made: a statement with SLSA provenance v1 in the terms of BuildKit's build type.
//!
//! In: [`Told`]. Out: JSON. `mode=min` tells the sources of the image, when it was made and in which frame; `mode=max`
//! also build arguments, labels, the Dockerfile and the names (never the values) of secrets. Addresses lose what may be
//! a credential. With `SOURCE_DATE_EPOCH` no times are told, so that the same build is told of in the same bytes.
//! in-toto statement v0.1, slsa.dev/provenance/v1, BuildKit docs/attestations/slsa-definitions.md.
//!
//! Deliberately absent: the graph (`llbDefinition`), and an id of the build. Nobody vouches for any of it: see
//! `docs/provenance.md`.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oci::model::{Descriptor, Platform, Reference};
use serde_json::{Map, Value, json};
use solver::graph::Vertex;
use solver::op::{ExecOp, MountKind, NetworkMode, Op, SourceOp, attr};

use super::Told;
use crate::engine::context::remote;
use crate::options::context::{DockerfileFrom, Place, masked};

/// What the statement holds.
pub const PREDICATE: &str = "https://slsa.dev/provenance/v1";
const STATEMENT: &str = "https://in-toto.io/Statement/v0.1";
const BUILD_TYPE: &str = "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md";

/// The statement about the image of `platform` whose manifest is `manifest`, under all of `names`.
pub fn statement(told: &Told<'_>, platform: &Platform, manifest: &Descriptor, names: &[Reference]) -> Value {
    let digest = json!({ "sha256": manifest.digest.hex() });
    let mut subjects: Vec<Value> =
        names.iter().map(|name| json!({ "name": purl(name, Some(platform)), "digest": digest })).collect();
    if subjects.is_empty() {
        subjects.push(json!({ "name": "_", "digest": digest }));
    }
    let vertices = told.vertices(platform);
    json!({
        "_type": STATEMENT,
        "predicateType": PREDICATE,
        "subject": subjects,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "configSource": told.config_source(),
                    "request": told.request(platform, &vertices),
                },
                "internalParameters": { "builderPlatform": told.machine.to_string() },
                "resolvedDependencies": dependencies(&vertices),
            },
            "runDetails": {
                "builder": { "id": told.asked.builder_id },
                "metadata": told.metadata(&vertices),
            },
        },
    })
}

impl Told<'_> {
    /// What takes part in the image of a platform.
    fn vertices(&self, platform: &Platform) -> Vec<&Vertex> {
        let image = self.plans.images.iter().find(|image| image.platform == *platform);
        let beneath = image.and_then(|image| image.output.edge).map(|edge| self.plans.graph.beneath(edge));
        let beneath = beneath.unwrap_or_default();
        self.plans.graph.iter().filter(|(id, ..)| beneath.contains(id)).map(|(_, vertex, _)| vertex).collect()
    }

    /// Where the Dockerfile is from; the address only of what is not a place of the machine.
    fn config_source(&self) -> Value {
        let input = &self.options.input;
        let (uri, path) = match (&input.dockerfile, &input.context) {
            (DockerfileFrom::Http(url), _) => (Some(masked(url)), None),
            (DockerfileFrom::Usual | DockerfileFrom::Path(_), Place::Git(git)) => (Some(remote::shown(git)), Some(())),
            (DockerfileFrom::Usual | DockerfileFrom::Path(_), Place::Http(url)) => (Some(masked(url)), Some(())),
            (DockerfileFrom::Stdin, _) => (None, None),
            _ => (None, Some(())),
        };
        let mut source = Map::new();
        source.extend(uri.map(|uri| ("uri".to_owned(), json!(uri))));
        source.extend(path.map(|()| ("path".to_owned(), json!(self.dockerfile.name))));
        source.into()
    }

    /// What was asked of the frontend.
    fn request(&self, platform: &Platform, vertices: &[&Vertex]) -> Value {
        let input = &self.options.input;
        let mut args = BTreeMap::from([("platform".to_owned(), platform.to_string())]);
        args.extend(input.target.clone().map(|target| ("target".to_owned(), target)));
        let mut request = json!({ "frontend": "dockerfile.v0" });
        let locals = vertices.iter().filter_map(|vertex| match &vertex.op {
            Op::Source(source) if source.scheme() == "local" => Some(source.reference()),
            _ => None,
        });
        let mut locals: BTreeSet<&str> = locals.collect();
        if matches!(input.context, Place::Path(_) | Place::Theirs(_)) {
            locals.insert("dockerfile");
        }
        request["locals"] = locals.into_iter().map(|name| json!({ "name": name })).collect();
        if self.asked.is_full {
            let arg = |(name, value): (&String, &String)| (format!("build-arg:{name}"), value.clone());
            args.extend(input.build_args.iter().map(arg));
            args.extend(self.options.labels.iter().map(|(name, value)| (format!("label:{name}"), value.clone())));
            let (secrets, agents) = asked_for(vertices);
            request["secrets"] = named(secrets);
            request["ssh"] = named(agents);
        }
        request["args"] = json!(args);
        request
    }

    fn metadata(&self, vertices: &[&Vertex]) -> Value {
        let mut metadata = json!({
            "buildkit_hermetic": vertices.iter().all(|vertex| is_hermetic(&vertex.op)),
            "buildkit_completeness": {
                "request": self.asked.is_full,
                "resolvedDependencies": vertices.iter().all(|vertex| is_pinned(&vertex.op)),
            },
            "buildkit_reproducible": self.asked.reproducible,
        });
        if self.plans.outputs().all(|output| output.epoch.is_none()) {
            metadata["startedOn"] = json!(self.began.to_string());
            metadata["finishedOn"] = json!(jiff::Timestamp::now().to_string());
        }
        if self.asked.is_full {
            let data = STANDARD.encode(self.dockerfile.text.as_bytes());
            let info = json!({ "filename": self.dockerfile.name, "language": "Dockerfile", "data": data });
            metadata["buildkit_metadata"] = json!({ "source": { "infos": [info] } });
        }
        metadata
    }
}

/// Names of secrets and agents, and whether all who ask for one can do without.
type Names<'v> = BTreeMap<&'v str, bool>;

fn asked_for<'v>(vertices: &[&'v Vertex]) -> (Names<'v>, Names<'v>) {
    let (mut secrets, mut agents) = (Names::new(), Names::new());
    let add = |names: &mut Names<'v>, id: &'v str, optional: bool| *names.entry(id).or_insert(true) &= optional;
    for vertex in vertices {
        let Op::Exec(exec) = &vertex.op else { continue };
        let ExecOp { mounts, secret_env, .. } = &**exec;
        for mount in mounts {
            match &mount.kind {
                MountKind::Secret { id, optional, .. } => add(&mut secrets, id, *optional),
                MountKind::Ssh { id, optional, .. } => add(&mut agents, id, *optional),
                _ => {}
            }
        }
        for secret in secret_env {
            add(&mut secrets, &secret.id, secret.optional);
        }
    }
    (secrets, agents)
}

fn named(names: Names<'_>) -> Value {
    let one = |(id, optional)| if optional { json!({ "id": id, "optional": true }) } else { json!({ "id": id }) };
    names.into_iter().map(one).collect()
}

/// All that came from elsewhere, each once.
fn dependencies(vertices: &[&Vertex]) -> Vec<Value> {
    let mut found = BTreeMap::new();
    for vertex in vertices {
        if let Op::Source(source) = &vertex.op
            && let Some((uri, digest)) =
                dependency(source, vertex.platform.as_ref().map(executor::emulate::platform_of).as_ref())
        {
            found.insert(uri, digest);
        }
    }
    let one = |(uri, digest): (String, Option<(&str, String)>)| match digest {
        Some((kind, hex)) => json!({ "uri": uri, "digest": { kind: hex } }),
        None => json!({ "uri": uri }),
    };
    found.into_iter().map(one).collect()
}

type Sum = Option<(&'static str, String)>;

fn dependency(source: &SourceOp, platform: Option<&Platform>) -> Option<(String, Sum)> {
    match source.scheme() {
        "docker-image" | "oci-layout" => {
            let name: Reference = source.reference().parse().ok()?;
            let digest = name.digest().map(|digest| ("sha256", digest.hex().to_owned()));
            Some((purl(&name, platform), digest))
        }
        "git" => {
            let remote = source.attrs.get(attr::GIT_FULL_URL).map_or(source.reference(), String::as_str);
            let fragment = source.reference().split_once('#').map(|(_, fragment)| format!("#{fragment}"));
            let commit = source.attrs.get(attr::GIT_CHECKSUM).filter(|commit| commit.len() == 40);
            let uri = format!("{}{}", masked(remote), fragment.unwrap_or_default());
            Some((uri, commit.map(|commit| ("sha1", commit.clone()))))
        }
        "http" | "https" => {
            let checksum = source.attrs.get(attr::HTTP_CHECKSUM).and_then(|sum| sum.split_once(':'));
            let digest = checksum.and_then(|(kind, hex)| {
                let kind = ["sha256", "sha384", "sha512"].into_iter().find(|known| *known == kind)?;
                Some((kind, hex.to_owned()))
            });
            Some((masked(&source.identifier), digest))
        }
        // What lies on the machine has no address.
        _ => None,
    }
}

/// Whether it is known to the bit what it reads.
fn is_pinned(op: &Op) -> bool {
    let Op::Source(source) = op else { return is_hermetic(op) };
    dependency(source, None).is_some_and(|(_, digest)| digest.is_some())
}

/// Whether it reaches nothing that the build does not know of.
fn is_hermetic(op: &Op) -> bool {
    !matches!(op, Op::Exec(exec) if exec.network != NetworkMode::None)
}

/// `pkg:docker/debian@12?platform=linux%2Famd64`. Package URL specification, type `docker`.
fn purl(name: &Reference, platform: Option<&Platform>) -> String {
    let familiar = name.familiar();
    let path = familiar.split_once('@').map_or(familiar.as_str(), |(path, _)| path);
    let path = name.tag().and_then(|tag| path.strip_suffix(&format!(":{tag}"))).unwrap_or(path);
    let mut text = format!("pkg:docker/{path}");
    if let Some(tag) = name.tag() {
        text.push('@');
        text.push_str(tag);
    }
    let mut qualifiers = Vec::new();
    if let (None, Some(digest)) = (name.tag(), name.digest()) {
        qualifiers.push(format!("digest={digest}"));
    }
    if let Some(platform) = platform {
        qualifiers.push(format!("platform={}", platform.to_string().replace('/', "%2F")));
    }
    if !qualifiers.is_empty() {
        text.push('?');
        text.push_str(&qualifiers.join("&"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_package_urls() {
        let check = |name: &str, platform: Option<&str>, expected: &str| {
            let platform: Option<Platform> = platform.map(|text| text.parse().expect("a platform"));
            assert_eq!(purl(&name.parse().expect("a name"), platform.as_ref()), expected, "{name}");
        };
        let digest = format!("sha256:{}", "a".repeat(64));
        check("debian:12", None, "pkg:docker/debian@12");
        check("debian:12", Some("linux/arm64"), "pkg:docker/debian@12?platform=linux%2Farm64");
        check(
            "r.example:5000/team/app:1",
            Some("linux/arm/v7"),
            "pkg:docker/r.example:5000/team/app@1?platform=linux%2Farm%2Fv7",
        );
        check(&format!("debian:12@{digest}"), None, "pkg:docker/debian@12");
        check(&format!("debian@{digest}"), None, &format!("pkg:docker/debian?digest={digest}"));
    }

    #[test]
    fn sources_are_told_without_credentials_and_with_what_is_known_of_them() {
        let check = |identifier: &str, attrs: &[(&str, &str)], expected: Option<(&str, Option<(&str, &str)>)>| {
            let attrs = attrs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let found = dependency(&SourceOp { identifier: identifier.into(), attrs }, None);
            let found =
                found.as_ref().map(|(uri, sum)| (uri.as_str(), sum.as_ref().map(|(kind, hex)| (*kind, hex.as_str()))));
            assert_eq!(found, expected, "{identifier}");
        };
        let hex = "b".repeat(64);
        let commit = "c".repeat(40);
        let image = format!("docker-image://docker.io/library/debian:12@sha256:{hex}");
        check(&image, &[], Some(("pkg:docker/debian@12", Some(("sha256", &hex)))));
        check("local://context", &[], None);
        check(
            "git://h.example/a.git#main:sub",
            &[(attr::GIT_FULL_URL, "https://user:word@h.example/a.git"), (attr::GIT_CHECKSUM, &commit)],
            Some(("https://xxxxx@h.example/a.git#main:sub", Some(("sha1", &commit)))),
        );
        check("https://user:word@h.example/f?token=7", &[], Some(("https://xxxxx@h.example/f?…", None)));
        let sum = format!("sha256:{hex}");
        check(
            "https://h.example/f",
            &[(attr::HTTP_CHECKSUM, &sum)],
            Some(("https://h.example/f", Some(("sha256", &hex)))),
        );
    }
}
