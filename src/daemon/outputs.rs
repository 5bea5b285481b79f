//! Where a result goes: exporters of a request become outputs, as `-o` does.
//!
//! In: types and attributes. Out: [`Output`]s; what would be a file of the client's goes to its session, under the number
//! of its exporter. Names under which the local store keeps the image are those of `type=image`.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::control::Exporter;
use oci::model::Reference;
use tokio::runtime::Handle;

use super::session::Session;
use super::session::send::SessionOutlet;
use crate::engine::Failure;
use crate::options::InputOptions;
use crate::options::output::{ArchiveFormat, Dest, Output, Surroundings, TreeDest, parse};
use crate::options::theirs::Outlet;

/// Where the client's side of an output stands in its line; it is never opened.
const THEIR_PLACE: &str = "the-clients";

/// What is to be made of a result.
#[derive(Debug)]
pub struct Outputs {
    /// In order.
    pub outputs: Vec<Output>,
    /// The names under which the local store keeps the image.
    pub tags: Vec<Reference>,
    /// The time that outputs give the image.
    pub epoch: Option<i64>,
}

/// Understands all exporters.
///
/// # Errors
/// With advice, for what is none.
pub fn outputs(
    exporters: &[Exporter],
    input: &InputOptions,
    session: &Arc<Session>,
    runtime: &Handle,
) -> Result<Outputs, Failure> {
    let several = input.makes_index();
    let around = Surroundings { stdout_terminal: false, several, may_delete: false };
    let mut found = Outputs { outputs: Vec::new(), tags: Vec::new(), epoch: None };
    for (number, exporter) in exporters.iter().enumerate() {
        // The client keeps where it goes to itself.
        if exporter.attrs.contains_key("dest") {
            return Err(Failure::new(format!("`type={}`: `dest` is the client's own business", exporter.r#type)));
        }
        let mut attributes = exporter.attrs.clone();
        if matches!(exporter.r#type.as_str(), "oci" | "docker" | "local" | "tar") {
            attributes.insert("dest".into(), THEIR_PLACE.into());
        }
        let parsed = parse(&line(&exporter.r#type, &attributes), around)?;
        found.epoch = found.epoch.or(parsed.epoch);
        let outlet = Outlet(Arc::new(SessionOutlet { session: session.clone(), number, runtime: runtime.clone() }));
        let output = match parsed.output {
            Output::Archive(archive) if matches!(archive.dest, Dest::Layout(_)) => {
                return Err(Failure::new(format!(
                    "`type={},tar=false` is not supported for a client",
                    exporter.r#type
                ))
                .help("leave out `tar=false`"));
            }
            Output::Archive(archive) if several && archive.format == ArchiveFormat::Docker => {
                return Err(Failure::new("`type=docker` cannot take images for several platforms: it has no index")
                    .help("use `type=oci`, or build for one platform"));
            }
            Output::Archive(mut archive) => {
                archive.dest = Dest::Theirs(outlet);
                Output::Archive(archive)
            }
            Output::Tree(mut tree) => {
                tree.dest = match tree.dest {
                    TreeDest::Folder { .. } => TreeDest::TheirFolder(outlet),
                    _ => TreeDest::TheirTar(outlet),
                };
                Output::Tree(tree)
            }
            other => other,
        };
        if let Output::Image(image) = &output {
            let push = image.push;
            if push.is_some() && image.form.names.is_empty() {
                return Err(Failure::new("there is no name to push to").help("give one with `-t REGISTRY/NAME:TAG`"));
            }
            let is_tagged = image.store && !push.is_some_and(|push| push.by_digest);
            for name in image.form.names.iter().filter(|_| is_tagged) {
                if !found.tags.contains(name) {
                    found.tags.push(name.clone());
                }
            }
        }
        found.outputs.push(output);
    }
    Ok(found)
}

/// A type and its attributes as the command line writes them.
pub fn line(kind: &str, attributes: &BTreeMap<String, String>) -> String {
    let field = |key: &str, value: &str| {
        let text = format!("{key}={value}");
        if text.contains([',', '"', '\n']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
    };
    let fields = attributes.iter().filter(|(key, _)| *key != "type").map(|(key, value)| field(key, value));
    std::iter::once(field("type", kind)).chain(fields).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_the_request_said() {
        let check = |pairs: &[(&str, &str)], expected: &str| {
            let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let text = line("image", &pairs);
            assert_eq!(text, expected);
            let fields = crate::options::output::fields(&text).expect("it is well formed");
            assert_eq!(fields.len(), pairs.len() + 1);
        };
        check(&[], "type=image");
        check(&[("name", "a:1,b:2"), ("push", "true")], "type=image,\"name=a:1,b:2\",push=true");
        check(&[("annotation.x", "say \"hi\"")], "type=image,\"annotation.x=say \"\"hi\"\"\"");
    }
}
