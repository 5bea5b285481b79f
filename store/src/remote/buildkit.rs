//! Recognises caches of BuildKit.
//!
//! In: the document that stands where a cache is looked for, or an image's config. Out: whether BuildKit wrote it. Its
//! records are keyed by digests of its own encoding of its own graph, which nothing here can make, so they are of no
//! use; its layers would be, but only a record says which one a step has made. What can be done is to say so, in one
//! line, instead of calling the document broken. Deliberately absent: reading records.
//!
//! ```text
//! image manifest   config.mediaType is application/vnd.buildkit.cacheconfig.v0
//! index            an entry of manifests[] has that mediaType (its older form)
//! cache config     {"layers": [{"blob", "parent", …}], "records": [{"digest", "inputs", …}]}, as it stands in buckets
//! image config     "moby.buildkit.cache.v0": base64 of a cache config (inline)
//! ```

use oci::json;
use serde_json::Value;

const CACHE_CONFIG: &str = "application/vnd.buildkit.cacheconfig.v0";
const INLINE: &str = "moby.buildkit.cache.v0";

/// Whether this document is a cache that BuildKit wrote, in any of its forms.
pub fn is_buildkits(document: &[u8]) -> bool {
    json::parse(document)
        .is_ok_and(|value| is_manifest(&value) || is_cache_config(&value) || value.get(INLINE).is_some())
}

fn is_manifest(value: &Value) -> bool {
    let has_type = |entry: &Value| entry.get("mediaType").and_then(Value::as_str) == Some(CACHE_CONFIG);
    let entries = value.get("manifests").and_then(Value::as_array);
    value.get("config").is_some_and(has_type) || entries.is_some_and(|entries| entries.iter().any(has_type))
}

fn is_cache_config(value: &Value) -> bool {
    let list = |name: &str| value.get(name).and_then(Value::as_array);
    // An image manifest has layers too, but those are descriptors.
    let fits = |name: &str, key: &str| list(name).is_some_and(|list| list.iter().all(|entry| entry.get(key).is_some()));
    let some = list("layers").is_some_and(|layers| !layers.is_empty());
    fits("records", "digest") && (list("layers").is_none() || (some && fits("layers", "blob")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cache config as BuildKit writes it, made by hand.
    const CONFIG: &str = r#"{"layers":[{"blob":"sha256:aa","parent":-1,"annotations":{"mediaType":
        "application/vnd.oci.image.layer.v1.tar+gzip","diffID":"sha256:bb","size":30,"createdAt":"2024-01-01T00:00:00Z"}}],
        "records":[{"digest":"sha256:cc"},{"layers":[{"layer":0,"createdAt":"2024-01-01T00:00:00Z"}],"digest":"sha256:dd",
        "inputs":[[{"link":0}],[{"selector":"sha256:ee","link":0}]]}]}"#;

    #[test]
    fn every_form_is_recognised_and_nothing_else() {
        let manifest = |media_type: &str| {
            format!(r#"{{"schemaVersion":2,"config":{{"mediaType":"{media_type}","digest":"sha256:aa"}},"layers":[]}}"#)
        };
        let index = |media_type: &str| {
            format!(r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"a/layer"}},{{"mediaType":"{media_type}"}}]}}"#)
        };
        let check =
            |document: &str, expected: bool| assert_eq!(is_buildkits(document.as_bytes()), expected, "{document}");
        check(CONFIG, true);
        check(r#"{"records":[{"digest":"sha256:cc"}]}"#, true);
        check(&manifest(CACHE_CONFIG), true);
        check(&index(CACHE_CONFIG), true);
        check(r#"{"os":"linux","rootfs":{},"moby.buildkit.cache.v0":"eyJsYXllcnMiOltdfQ=="}"#, true);
        check(&manifest("application/vnd.oci.image.config.v1+json"), false);
        check(&index("application/vnd.oci.image.manifest.v1+json"), false);
        check(r#"{"os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#, false);
        check(r#"{"layers":[{"digest":"sha256:aa"}],"records":[{"digest":"sha256:cc"}]}"#, false);
        check(r#"{"layers":[],"records":[{}]}"#, false);
        for nothing in ["", "{}", "[]", "null", "{\"records\":7}", "{\"config\":[]}", "\u{1}"] {
            check(nothing, false);
        }
    }
}
