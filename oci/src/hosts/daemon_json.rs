//! Docker's `daemon.json`: mirrors of Docker Hub, and registries that may be insecure. dockerd(8).
//!
//! ```json
//! { "registry-mirrors": ["https://mirror.example"], "insecure-registries": ["r.example:5000", "10.0.0.0/8"] }
//! ```
//! Deliberately absent: everything else that stands there; networks apply to registries that are named by an address,
//! names are not resolved for it.

use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::{Location, Mirror, Prefix, Rule, Said, Trust};

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Daemon {
    #[serde(default)]
    registry_mirrors: Vec<String>,
    #[serde(default)]
    insecure_registries: Vec<String>,
}

/// What such a file says.
pub fn parse(source: &Path, text: &str) -> Said {
    let file: Arc<str> = source.display().to_string().into();
    let mut said = Said::default();
    if text.trim().is_empty() {
        return said;
    }
    let daemon: Daemon = match serde_json::from_str(text) {
        Ok(daemon) => daemon,
        Err(error) => {
            said.warnings.push(format!("{file}:{}: not understood: {error}", error.line()));
            return said;
        }
    };
    let mut hub = Rule::new(Prefix::of_host("docker.io"), file.clone());
    for text in &daemon.registry_mirrors {
        match Location::parse(text) {
            Ok(location) => hub.mirrors.push(Mirror::new(location)),
            Err(error) => said.warnings.push(format!("{file}: {error}")),
        }
    }
    if !hub.mirrors.is_empty() {
        said.rules.push(hub);
    }
    for text in &daemon.insecure_registries {
        let bare = text.split_once("://").map_or(text.as_str(), |(_, rest)| rest);
        match Prefix::network(bare).map_or_else(|| Prefix::parse(bare), Ok) {
            Ok(prefix) => {
                let trust = Trust { insecure: Some(true), ..Trust::default() };
                said.rules.push(Rule { trust, ..Rule::new(prefix, file.clone()) });
            }
            Err(error) => said.warnings.push(format!("{file}: {error}")),
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_docker_hubs_and_networks_are_addresses() {
        let check = |text: &str, rules: &[&str], warning: &str| {
            let said = parse(Path::new("d.json"), text);
            let rows: Vec<String> =
                said.rules.iter().flat_map(Rule::rows).map(|(key, value, _)| format!("{key} {value}")).collect();
            assert_eq!(rows, rules, "{text}");
            let told = said.warnings.join("\n");
            assert!(told.contains(warning) && told.is_empty() == warning.is_empty(), "{text}: {told}");
        };
        check("", &[], "");
        check("{\"data-root\":\"/x\"}", &[], "");
        check(
            r#"{"registry-mirrors":["https://m.example/","http://n.example:5000"],"insecure-registries":["r.example:5000","10.0.0.0/8"]}"#,
            &[
                "registry.\"docker.io\".mirrors https://m.example http://n.example:5000",
                "registry.\"r.example:5000\".insecure true",
                "registry.\"10.0.0.0/8\".insecure true",
            ],
            "",
        );
        check("{\n\"registry-mirrors\": 5}", &[], "d.json:2: not understood");
        check("{\"registry-mirrors\":[\"ftp://x\"]}", &[], "only http and https");
    }
}
