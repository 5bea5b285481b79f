//! Named contexts: what stands in for a stage or an image of its name.
//!
//! Names are compared as images are named: `alpine`, `alpine:latest` and `docker.io/library/alpine` are one name.
//! `name::os/arch` counts for that platform and beats `name`. What a context says is final: the image that it names is
//! not looked up among the contexts again.

use std::collections::HashMap;

use oci::model::{Platform, Reference};

use super::resolve::{Base, ImageBase};
use crate::plan::{ImageQuestion, NamedContext, PlanOptions};

/// What no context can replace: the empty tree and the main context.
const RESERVED: [&str; 2] = ["scratch", "context"];

/// The named contexts of a build, by the names they stand for.
pub struct Contexts<'a> {
    by_name: HashMap<String, Vec<Candidate<'a>>>,
}

struct Candidate<'a> {
    /// As the caller names it.
    key: &'a str,
    /// For this platform only.
    platform: Option<Platform>,
    context: &'a NamedContext,
}

impl<'a> Contexts<'a> {
    /// The contexts of these options. A key whose platform is malformed stands for nothing.
    pub fn new(options: &'a PlanOptions) -> Self {
        let mut by_name: HashMap<String, Vec<Candidate<'a>>> = HashMap::new();
        for (key, context) in &options.contexts {
            let (name, platform) = match key.split_once("::") {
                None => (key.as_str(), None),
                Some((name, platform)) => match platform.parse() {
                    Ok(platform) => (name, Some(platform)),
                    Err(_) => continue,
                },
            };
            if !is_reserved(name) {
                by_name.entry(normal(name)).or_default().push(Candidate { key, platform, context });
            }
        }
        Self { by_name }
    }

    fn find(&self, name: &str, platform: &Platform) -> Option<&Candidate<'a>> {
        if self.by_name.is_empty() || is_reserved(name) {
            return None;
        }
        let candidates = self.by_name.get(&normal(name))?;
        let exact = candidates.iter().find(|candidate| candidate.platform.as_ref() == Some(platform));
        exact.or_else(|| candidates.iter().find(|candidate| candidate.platform.is_none()))
    }

    /// The context of that name, as the caller names it.
    pub fn key(&self, name: &str, platform: &Platform) -> Option<&'a str> {
        self.find(name, platform).map(|found| found.key)
    }

    /// What stands for a stage or image of that name; `None` when no context does.
    pub fn base(&self, name: &str, platform: &Platform) -> Option<Base> {
        let found = self.find(name, platform)?;
        let image = |reference: &Reference, layout: Option<String>| {
            let question = ImageQuestion { reference: reference.clone(), platform: platform.clone(), layout };
            Base::Image(Box::new(ImageBase { question, context: Some(found.key.to_owned()) }))
        };
        Some(match found.context {
            NamedContext::Scratch => Base::Scratch,
            NamedContext::Image(reference) => image(reference, None),
            NamedContext::Layout(reference) => image(reference, Some(found.key.to_owned())),
            NamedContext::Tree { .. } => Base::Tree(found.key.to_owned()),
            NamedContext::Result(_) => Base::Result(found.key.to_owned()),
        })
    }

    /// The names of all contexts as the caller wrote them, without platforms.
    pub fn names(&self) -> impl Iterator<Item = &'a str> {
        let keys = self.by_name.values().flatten().map(|candidate| candidate.key);
        keys.map(|key| key.split_once("::").map_or(key, |(name, _)| name))
    }
}

fn is_reserved(name: &str) -> bool {
    RESERVED.iter().any(|reserved| name.eq_ignore_ascii_case(reserved))
}

/// The name in the form in which names are compared: of an image its full one, of anything else small letters.
fn normal(name: &str) -> String {
    let small = name.to_ascii_lowercase();
    match name.parse::<Reference>().or_else(|_| small.parse()) {
        Ok(reference) => reference.to_string(),
        Err(_) => small,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_found_by_every_spelling_of_their_name() {
        let check = |keys: &[&str], name: &str, expected: Option<&str>| {
            let tree = NamedContext::Tree { ignore_patterns: Vec::new() };
            let options = PlanOptions {
                contexts: keys.iter().map(|key| ((*key).to_owned(), tree.clone())).collect(),
                ..PlanOptions::default()
            };
            let platform: Platform = "linux/arm64".parse().unwrap();
            let found = Contexts::new(&options).base(name, &platform);
            assert_eq!(found, expected.map(|key| Base::Tree(key.into())), "{keys:?} {name}");
        };
        check(&[], "alpine", None);
        check(&["alpine"], "alpine", Some("alpine"));
        check(&["alpine"], "alpine:latest", Some("alpine"));
        check(&["alpine:latest"], "alpine", Some("alpine:latest"));
        check(&["alpine"], "docker.io/library/alpine", Some("alpine"));
        check(&["docker.io/library/alpine:latest"], "alpine", Some("docker.io/library/alpine:latest"));
        check(&["alpine"], "alpine:3", None);
        check(&["alpine"], "ghcr.io/library/alpine", None);
        check(&["team/app"], "docker.io/team/app:latest", Some("team/app"));
        check(&["base"], "Base", Some("base"));
        check(&["Base"], "base", Some("Base"));
        check(&["a", "a::linux/arm64"], "a", Some("a::linux/arm64"));
        check(&["a", "a::linux/aarch64"], "a", Some("a::linux/aarch64"));
        check(&["a", "a::linux/amd64"], "a", Some("a"));
        check(&["a::linux/amd64"], "a", None);
        check(&["a::x/y/z/w"], "a", None);
        check(&["scratch", "Context"], "scratch", None);
        check(&["scratch", "Context"], "context", None);
    }
}
