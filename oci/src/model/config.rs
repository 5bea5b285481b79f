//! The image config: image-spec config.md, with Docker's fields (`Healthcheck`, `OnBuild`, `Shell`, `ArgsEscaped`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::DiffId;

/// What an image is beside its layers. Field order is that of other builders, so the bytes look familiar.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// When it was made, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_is_empty")]
    pub author: String,
    /// `amd64`, `arm64`, ….
    #[serde(default, deserialize_with = "null_is_empty")]
    pub architecture: String,
    /// `v7`, `v8`, or empty.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_is_empty")]
    pub variant: String,
    /// `linux`.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub os: String,
    /// How it is run.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub config: Config,
    /// Its layers.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub rootfs: RootFs,
    /// How it came to be, oldest first. `null` is read as empty.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub history: Vec<History>,
    /// Whatever else stood there.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// How an image is run. image-spec config.md, "config". `null` is read as absent everywhere.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Config {
    /// `user[:group]`; empty is root.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_is_empty")]
    pub user: String,
    /// `80/tcp`, as the keys of an object of empty objects.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_empty")]
    pub exposed_ports: BTreeMap<String, Value>,
    /// `NAME=value`, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub env: Vec<String>,
    /// Command prefix; `None` is unset, an empty list is set and empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Command, or arguments to the entry point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Paths, as the keys of an object of empty objects.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_empty")]
    pub volumes: BTreeMap<String, Value>,
    /// Where the command starts.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_is_empty")]
    pub working_dir: String,
    /// Sorted by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Name or number of a signal.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_is_empty")]
    pub stop_signal: String,
    /// Docker: how to see whether it is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Docker: instructions for images built on this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub on_build: Vec<String>,
    /// Docker: the shell of shell forms.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub shell: Vec<String>,
    /// Docker: whether `Cmd` came from a shell form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args_escaped: Option<bool>,
    /// Whatever else stood there.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// Docker's health check. Durations are nanoseconds; 0 means the runtime's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]`, `["CMD-SHELL", command]`; empty inherits.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub test: Vec<String>,
    /// Time between two checks, in nanoseconds.
    #[serde(default, skip_serializing_if = "is_zero", deserialize_with = "null_is_empty")]
    pub interval: i64,
    /// Time until a check counts as failed, in nanoseconds.
    #[serde(default, skip_serializing_if = "is_zero", deserialize_with = "null_is_empty")]
    pub timeout: i64,
    /// Time in which failures do not count, in nanoseconds.
    #[serde(default, skip_serializing_if = "is_zero", deserialize_with = "null_is_empty")]
    pub start_period: i64,
    /// Time between two checks during the start period, in nanoseconds.
    #[serde(default, skip_serializing_if = "is_zero", deserialize_with = "null_is_empty")]
    pub start_interval: i64,
    /// Failures in a row that make it unhealthy.
    #[serde(default, skip_serializing_if = "is_zero", deserialize_with = "null_is_empty")]
    pub retries: i64,
}

/// An image's layers. image-spec config.md, "rootfs".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Bottom first. `null` is read as empty.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub diff_ids: Vec<DiffId>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self { kind: "layers".into(), diff_ids: Vec::new() }
    }
}

/// One step of how an image came to be. image-spec config.md, "history".
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// When, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// By which instruction.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_is_empty")]
    pub created_by: String,
    /// By whom.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_is_empty")]
    pub author: String,
    /// `buildkit.dockerfile.v0` and the like.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_is_empty")]
    pub comment: String,
    /// Whether it made no layer.
    #[serde(default, skip_serializing_if = "is_false", deserialize_with = "null_is_empty")]
    pub empty_layer: bool,
    /// Whatever else stood there.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// Go writes empty lists and maps as `null`.
pub(super) fn null_is_empty<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Default + Deserialize<'de>,
    D: serde::Deserializer<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configs_go_round_without_loss() {
        // Docker's own fields, fields that nobody knows, and the difference between unset and empty.
        let text = concat!(
            r#"{"created":"2026-01-02T03:04:05.678Z","author":"a","architecture":"arm64","variant":"v8","os":"linux","#,
            r#""config":{"User":"u","ExposedPorts":{"80/tcp":{}},"Env":["A=1","B="],"Entrypoint":[],"Cmd":["c"],"#,
            r#""Volumes":{"/v":{}},"WorkingDir":"/w","Labels":{"a":"1","b":"2"},"StopSignal":"SIGINT","#,
            r#""Healthcheck":{"Test":["CMD","x"],"Interval":1000000000,"Retries":3},"OnBuild":["RUN x"],"#,
            r#""Shell":["/bin/sh"],"ArgsEscaped":true,"Future":{"x":[1]}},"#,
            r#""rootfs":{"type":"layers","diff_ids":["#,
            r#""sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]},"#,
            r#""history":[{"created":"2026-01-02T03:04:05Z","created_by":"RUN","author":"h","comment":"c","#,
            r#""empty_layer":true,"extra":1}],"moby.buildkit.cache.v0":"eyJ9"}"#
        );
        let config: ImageConfig = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&config).unwrap(), text);
        assert_eq!((config.config.entrypoint, config.config.cmd), (Some(vec![]), Some(vec!["c".into()])));
    }

    #[test]
    fn what_go_writes_for_nothing_is_read_as_nothing() {
        let text = r#"{"architecture":"amd64","os":"linux","author":null,"variant":null,"config":{"User":null,"Env":null,
            "Entrypoint":null,"Cmd":null,"Volumes":null,"ExposedPorts":null,"WorkingDir":null,"Labels":null,"OnBuild":null,
            "Shell":null,"StopSignal":null,"Healthcheck":null,"ArgsEscaped":null},
            "rootfs":{"type":"layers","diff_ids":null},"history":null}"#;
        let config: ImageConfig = serde_json::from_str(text).unwrap();
        let empty = ImageConfig { architecture: "amd64".into(), os: "linux".into(), ..Default::default() };
        assert_eq!(config, empty);
        let nothing: ImageConfig = serde_json::from_str(r#"{"config":null,"rootfs":null}"#).unwrap();
        assert_eq!(nothing, ImageConfig::default());
        let history = r#"{"history":[{"created_by":null,"author":null,"comment":null,"empty_layer":null}]}"#;
        assert_eq!(serde_json::from_str::<ImageConfig>(history).unwrap().history, [History::default()]);
    }
}
