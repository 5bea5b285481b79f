//! `--cache-from` and `--cache-to`: `type=registry,ref=host/app:cache,mode=max`, or a bare name of an image.
//!
//! In: one value of a flag, and the environment and AWS's own files for credentials of S3. Out: a [`CacheFrom`] or a [`CacheTo`], checked
//! as far as that can be without asking anybody. Credentials are [`Secret`]s, and never part of a message. Deliberately
//! absent: opening any of it ([`crate::engine`]).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use oci::layer::{Codec, Compression};
use oci::model::{Digest, Reference};
use oci::registry::Secret;
use store::remote::PATIENCE;
use store::remote::s3::credentials::Files;
use store::remote::s3::{S3Keys, S3Settings};

use super::output::fields;
use super::theirs::TheirCache;
use crate::engine::Failure;
use crate::environment::Environment;

/// Values of these keys are shown to nobody.
const SECRET_KEYS: &[&str] = &["access_key_id", "secret_access_key", "session_token"];
/// What every `--cache-to` understands.
const TO_KEYS: &[&str] = &[
    "type",
    "mode",
    "compression",
    "compression-level",
    "force-compression",
    "oci-mediatypes",
    "image-manifest",
    "ignore-error",
    "mounts",
];
const S3_KEYS: &[&str] = &[
    "bucket",
    "region",
    "name",
    "prefix",
    "blobs_prefix",
    "manifests_prefix",
    "endpoint_url",
    "access_key_id",
    "secret_access_key",
    "session_token",
    "use_path_style",
    "upload_parallelism",
    "touch_refresh",
];
/// Uploads at once, unless it is said.
const UPLOAD_PARALLELISM: usize = 4;
const UPLOAD_PARALLELISM_MAX: usize = 64;
/// Blobs are touched when they are older, unless it is said; BuildKit's number.
const TOUCH_REFRESH: Duration = Duration::from_secs(24 * 60 * 60);

/// Where a cache is, or goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CachePlace {
    /// In the config of the image that is pushed; only of `--cache-to`.
    Inline,
    /// An image of a registry.
    Registry {
        /// `ref=`.
        name: Reference,
        /// `registry.insecure=`: plain HTTP may be used.
        insecure: bool,
    },
    /// A directory: an OCI image layout.
    Local {
        /// `src=` or `dest=`.
        path: PathBuf,
        /// `tag=`; in a layout, the name of a manifest.
        tag: String,
        /// `digest=`: exactly this manifest; only of `--cache-from`.
        digest: Option<Digest>,
    },
    /// A directory of whoever asked for the build.
    Theirs(TheirCache),
    /// A bucket of an S3-compatible store.
    S3(Box<S3Settings>),
}

/// One `--cache-from`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheFrom {
    /// Where it is.
    pub place: CachePlace,
    /// `timeout=`: how long it may take for an answer, or for a transfer to move on.
    pub patience: Duration,
}

impl CacheFrom {
    /// One place per manifest: of a bucket, one per name, to be asked in this order.
    pub fn each(self) -> Vec<Self> {
        match self.place {
            CachePlace::S3(place) if place.names.len() > 1 => {
                let one = |name: &String| S3Settings { names: vec![name.clone()], ..(*place).clone() };
                let each = |name| Self { place: CachePlace::S3(Box::new(one(name))), ..self };
                place.names.iter().map(each).collect()
            }
            _ => vec![self],
        }
    }
}

/// Which results go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheMode {
    /// Those that the final result stands on.
    Min,
    /// All of the build.
    Max,
}

/// One `--cache-to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheTo {
    /// Where it goes.
    pub place: CachePlace,
    /// `timeout=`: how long it may take for an answer, or for a transfer to move on.
    pub patience: Duration,
    /// `mode=`.
    pub mode: CacheMode,
    /// `compression=` and `compression-level=`: of layers that are no blobs yet.
    pub codec: Codec,
    /// `force-compression=`: of all layers.
    pub force_compression: bool,
    /// `ignore-error=`: `Some(false)` lets a build fail whose cache cannot be sent; `None` was not said.
    pub ignore_error: Option<bool>,
    /// `mounts=`: cache mounts go too.
    pub mounts: bool,
}

/// Understands one `--cache-from`.
///
/// # Errors
/// With advice, for what no cache is.
pub fn from(text: &str, environment: &Environment) -> Result<CacheFrom, Failure> {
    let mut given = Given::read("--cache-from", text)?;
    let place = match given.kind()? {
        Kind::Inline => {
            return Err(given
                .wrong("an inline cache is read from its image")
                .help("write `--cache-from type=registry,ref=NAME`, with the name of the image that was pushed"));
        }
        Kind::Registry => given.registry()?,
        Kind::Local => given.local("src", "dest")?,
        Kind::S3 => given.s3(environment)?,
    };
    let patience = given.patience(&place)?;
    given.end(&["type"])?;
    Ok(CacheFrom { place, patience })
}

/// Understands one `--cache-to`.
///
/// # Errors
/// With advice, for what no cache is.
pub fn to(text: &str, environment: &Environment) -> Result<CacheTo, Failure> {
    let mut given = Given::read("--cache-to", text)?;
    let place = match given.kind()? {
        Kind::Inline => CachePlace::Inline,
        Kind::Registry => given.registry()?,
        Kind::Local => given.local("dest", "src")?,
        Kind::S3 => given.s3(environment)?,
    };
    if let CachePlace::Registry { name, .. } = &place
        && name.digest().is_some()
    {
        return Err(given
            .wrong("`ref` names a digest, which only the content decides")
            .help("leave out what follows `@`"));
    }
    if let CachePlace::Local { digest: Some(_), .. } = &place {
        return Err(given.wrong("`digest` is for `--cache-from`").help("write `tag=NAME`, or leave it out"));
    }
    let to = CacheTo {
        patience: given.patience(&place)?,
        mode: given.mode(&place)?,
        codec: given.codec()?,
        force_compression: given.switch("force-compression")?.unwrap_or(false),
        ignore_error: given.switch("ignore-error")?,
        mounts: given.switch("mounts")?.unwrap_or(false),
        place,
    };
    if to.place == CachePlace::Inline && to.mounts {
        return Err(given.wrong("cache mounts do not fit into an image's config").help("use `type=registry,ref=NAME`"));
    }
    for (key, why) in [
        ("oci-mediatypes", "a cache has OCI's media types"),
        ("image-manifest", "a cache is an image manifest, which every registry takes"),
    ] {
        if given.switch(key)? == Some(false) {
            return Err(given.wrong(format!("`{key}=false` is not supported: {why}")).help("leave it out"));
        }
    }
    given.end(TO_KEYS)?;
    Ok(to)
}

#[derive(Clone, Copy)]
enum Kind {
    Inline,
    Registry,
    Local,
    S3,
}

const KINDS: &[(&str, Kind)] =
    &[("inline", Kind::Inline), ("registry", Kind::Registry), ("local", Kind::Local), ("s3", Kind::S3)];

/// The keys and values of one flag; what is understood is taken out.
struct Given {
    flag: &'static str,
    /// As written, but for secrets.
    shown: String,
    values: BTreeMap<String, String>,
    /// Keys that were asked for: what else could have been meant.
    asked: Vec<&'static str>,
}

impl Given {
    fn read(flag: &'static str, text: &str) -> Result<Self, Failure> {
        let form = "write `type=registry,ref=NAME`, or `type=local,…`, `type=s3,…`";
        let Some(fields) = fields(text) else {
            return Err(Failure::new(format!("`{flag}`: a quote is not closed")).help(form));
        };
        let mut values = BTreeMap::new();
        if let [only] = fields.as_slice()
            && !only.contains('=')
        {
            if only.is_empty() {
                return Err(Failure::new(format!("`{flag}` says no place")).help(form));
            }
            values.insert("type".to_owned(), "registry".to_owned());
            values.insert("ref".to_owned(), only.clone());
            return Ok(Self { flag, shown: only.clone(), values, asked: Vec::new() });
        }
        let mut shown = Vec::new();
        for field in &fields {
            let Some((key, value)) = field.split_once('=') else {
                // It may be the rest of a secret that a comma cut in two.
                return Err(Failure::new(format!("`{flag}`: a field is not of the form key=value")).help(form));
            };
            let key = key.trim().to_ascii_lowercase();
            let secret = SECRET_KEYS.contains(&key.as_str());
            shown.push(format!("{key}={}", if secret { "…" } else { value }));
            values.insert(key, value.to_owned());
        }
        Ok(Self { flag, shown: shown.join(","), values, asked: Vec::new() })
    }

    fn wrong(&self, reason: impl std::fmt::Display) -> Failure {
        Failure::new(format!("`{} {}`: {reason}", self.flag, self.shown))
    }

    fn take(&mut self, key: &'static str) -> Option<String> {
        self.asked.push(key);
        self.values.remove(key)
    }

    /// One that must be there and not be empty.
    fn need(&mut self, key: &'static str, example: &str) -> Result<String, Failure> {
        self.take(key)
            .filter(|value| !value.is_empty())
            .ok_or_else(|| self.wrong(format!("there is no `{key}`")).help(format!("write `{key}={example}`")))
    }

    fn switch(&mut self, key: &'static str) -> Result<Option<bool>, Failure> {
        let Some(value) = self.take(key) else { return Ok(None) };
        match value.to_ascii_lowercase().as_str() {
            "true" | "t" | "1" => Ok(Some(true)),
            "false" | "f" | "0" => Ok(Some(false)),
            _ => Err(self.wrong(format!("`{key}={value}` is neither true nor false"))),
        }
    }

    fn kind(&mut self) -> Result<Kind, Failure> {
        let help = "the types are inline, registry, local and s3";
        let Some(name) = self.take("type") else {
            return Err(self.wrong("there is no type").help(help));
        };
        if let Some((_, kind)) = KINDS.iter().find(|(known, _)| *known == name) {
            return Ok(*kind);
        }
        let help = match name.as_str() {
            "gha" => {
                "keep a cache in the registry of the repository: `type=registry,ref=ghcr.io/OWNER/REPOSITORY:cache`; \
                 or a directory that the workflow keeps: `type=local,dest=DIR`"
            }
            "azblob" => "use `type=registry,ref=NAME`, which Azure's registries take too, or `type=s3`",
            _ => match frontend::nearest(&name, KINDS.iter().map(|(known, _)| *known)) {
                Some(near) => return Err(self.unknown_type(&name).help(format!("did you mean `{near}`?"))),
                None => help,
            },
        };
        Err(self.unknown_type(&name).help(help))
    }

    fn unknown_type(&self, name: &str) -> Failure {
        self.wrong(format!("the type `{name}` is not supported"))
    }

    fn registry(&mut self) -> Result<CachePlace, Failure> {
        let text = self.need("ref", "registry.example/app:cache")?;
        let name: Reference = text.parse().map_err(|error| self.wrong(format!("{error}")))?;
        Ok(CachePlace::Registry { name, insecure: self.switch("registry.insecure")?.unwrap_or(false) })
    }

    /// `other` is the key that is meant where the other flag is.
    fn local(&mut self, key: &'static str, other: &str) -> Result<CachePlace, Failure> {
        if self.values.contains_key(other) {
            let wrong = self.wrong(format!("`{other}` is not for `{}`", self.flag));
            return Err(wrong.help(format!("write `{key}=DIR`")));
        }
        let path = self.need(key, "DIR")?.into();
        let tag = self.take("tag").unwrap_or_else(|| "latest".into());
        // distribution-spec, "Pulling manifests": the grammar of a tag.
        let letter = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let is_tag =
            tag.len() <= 128 && tag.starts_with(letter) && tag.chars().all(|c| letter(c) || matches!(c, '.' | '-'));
        if !is_tag {
            return Err(self.wrong(format!("`{tag}` is no tag")).help("write letters, digits, `.`, `_` and `-`"));
        }
        let digest = self.take("digest").map(|text| text.parse().map_err(|error| self.wrong(format!("{error}"))));
        Ok(CachePlace::Local { path, tag, digest: digest.transpose()? })
    }

    fn s3(&mut self, environment: &Environment) -> Result<CachePlace, Failure> {
        for (key, names) in [
            ("bucket", &["AWS_BUCKET"][..]),
            ("region", &["AWS_REGION", "AWS_DEFAULT_REGION"]),
            ("endpoint_url", &["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]),
        ] {
            if let Some(value) = names.iter().find_map(|name| environment.text(name)) {
                self.values.entry(key.into()).or_insert(value);
            }
        }
        let parallelism = self.take("upload_parallelism");
        Ok(CachePlace::S3(Box::new(S3Settings {
            bucket: self.need("bucket", "BUCKET")?,
            region: self.need("region", "us-east-1")?,
            names: self.take("name").map_or_else(Vec::new, |names| {
                names.split(';').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
            }),
            prefix: self.take("prefix").unwrap_or_default(),
            blobs_prefix: self.take("blobs_prefix"),
            manifests_prefix: self.take("manifests_prefix"),
            endpoint_url: self.endpoint()?,
            keys: self.s3_keys(environment)?,
            use_path_style: self.switch("use_path_style")?,
            // `0` touches always.
            touch_refresh: self.time("touch_refresh", TOUCH_REFRESH)?,
            upload_parallelism: match parallelism {
                None => UPLOAD_PARALLELISM,
                Some(text) => {
                    let number = text.parse().ok().filter(|number| (1..=UPLOAD_PARALLELISM_MAX).contains(number));
                    number.ok_or_else(|| {
                        self.wrong(format!(
                            "`upload_parallelism={text}` is no number from 1 to {UPLOAD_PARALLELISM_MAX}"
                        ))
                    })?
                }
            },
        })))
    }

    /// How long a place on a network may take; a directory always answers.
    fn patience(&mut self, place: &CachePlace) -> Result<Duration, Failure> {
        if !matches!(place, CachePlace::Registry { .. } | CachePlace::S3(_)) {
            return Ok(PATIENCE);
        }
        let patience = self.time("timeout", PATIENCE)?;
        if patience.is_zero() {
            return Err(self.wrong("`timeout` is no time to answer in").help("write `timeout=30s`"));
        }
        Ok(patience)
    }

    /// `24h`, `90m`, `30s`, `0`.
    fn time(&mut self, key: &'static str, default: Duration) -> Result<Duration, Failure> {
        let Some(text) = self.take(key) else { return Ok(default) };
        let parse = || {
            let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
            let seconds = match &text[digits.len()..] {
                "h" => 60 * 60,
                "m" => 60,
                "s" => 1,
                "" if digits == "0" => 1,
                _ => return None,
            };
            digits.parse::<u64>().ok()?.checked_mul(seconds).map(Duration::from_secs)
        };
        parse().ok_or_else(|| self.wrong(format!("`{key}={text}` is no time")).help("write `24h`, `90m` or `30s`"))
    }

    fn endpoint(&mut self) -> Result<Option<String>, Failure> {
        let Some(url) = self.take("endpoint_url").filter(|url| !url.is_empty()) else { return Ok(None) };
        let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).unwrap_or_default();
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.contains('@') {
            return Err(Failure::new(format!("`{}`: `endpoint_url` holds credentials", self.flag))
                .help("give them as `access_key_id=…,secret_access_key=…`, or in the environment"));
        }
        if authority.is_empty() {
            return Err(self.wrong("`endpoint_url` is no address").help("write `endpoint_url=https://HOST[:PORT]`"));
        }
        Ok(Some(url))
    }

    /// Those of the flag, or else all of the environment, or else those of a profile: never one of each.
    fn s3_keys(&mut self, environment: &Environment) -> Result<Option<S3Keys>, Failure> {
        let mut set =
            SECRET_KEYS.iter().map(|key| self.take(key).filter(|value| !value.is_empty())).collect::<Vec<_>>();
        if set.iter().all(Option::is_none) {
            set =
                SECRET_KEYS.iter().map(|key| environment.text(&format!("AWS_{}", key.to_ascii_uppercase()))).collect();
        }
        let [id, secret, session_token] =
            <[_; 3]>::try_from(set).expect("there are three keys").map(|text| text.map(Secret::new));
        match (id, secret) {
            (Some(access_key_id), Some(secret_access_key)) => {
                Ok(Some(S3Keys { access_key_id, secret_access_key, session_token }))
            }
            (None, None) if session_token.is_none() => {
                Files::of(|name| environment.text(name)).keys().map_err(|error| {
                    Failure::new(format!("`{}`: the credentials of AWS cannot be had", self.flag))
                        .note(error.to_string())
                })
            }
            _ => Err(self
                .wrong("the credentials are not complete")
                .help("give both `access_key_id` and `secret_access_key`, or neither")),
        }
    }

    fn mode(&mut self, place: &CachePlace) -> Result<CacheMode, Failure> {
        match self.take("mode").as_deref() {
            None | Some("min") => Ok(CacheMode::Min),
            Some("max") if *place == CachePlace::Inline => Err(self
                .wrong("an inline cache holds the steps of its image only")
                .help("leave out `mode=max`, or use `type=registry,ref=NAME,mode=max`")),
            Some("max") => Ok(CacheMode::Max),
            Some(other) => Err(self.wrong(format!("`mode={other}` is neither min nor max"))),
        }
    }

    fn codec(&mut self) -> Result<Codec, Failure> {
        let compression = match self.take("compression").as_deref() {
            None => Compression::Gzip,
            Some("estargz") => {
                let reason = "`compression=estargz` is not supported: its layers unpack to more than the steps made";
                return Err(self.wrong(reason).help("use `compression=zstd`"));
            }
            Some(name) => name.parse().map_err(|error| self.wrong(format!("{error}")))?,
        };
        match self.take("compression-level") {
            None => Ok(Codec::new(compression)),
            Some(text) => {
                let level = text.parse().map_err(|_| self.wrong(format!("`compression-level={text}` is no number")))?;
                Codec::with_level(compression, level).map_err(|error| self.wrong(format!("{error}")))
            }
        }
    }

    /// Refuses what nobody asked for.
    fn end(self, known: &[&'static str]) -> Result<(), Failure> {
        let Some(key) = self.values.keys().next() else { return Ok(()) };
        let wrong = self.wrong(format!("`{key}` is not supported here"));
        let known: Vec<&str> = known.iter().chain(&self.asked).copied().collect();
        let elsewhere = |keys: &[&str]| keys.contains(&key.as_str());
        Err(match frontend::nearest(key, known.iter().copied()) {
            Some(near) => wrong.help(format!("did you mean `{near}`?")),
            None if self.flag == "--cache-from" && elsewhere(TO_KEYS) => wrong.help("it is for `--cache-to`"),
            None if elsewhere(S3_KEYS) => wrong.help("it is for `type=s3`"),
            None => wrong.help("leave it out"),
        })
    }
}

#[cfg(test)]
mod tests;
