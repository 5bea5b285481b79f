//! The shapes of outline and targets, which are those of BuildKit's subrequests.

use rbuild_frontend::call::{outline, targets};
use rbuild_frontend::{Answers, PlanOptions};
use serde_json::{Value, json};

use super::options;

const FILE: &str = "\
# the words of a licence

# VERSION of the base image
ARG VERSION=12
ARG UNUSED=1
ARG REGISTRY=example.com
# IMAGE that everything stands on
ARG IMAGE=$REGISTRY/debian

# base has the tools
FROM $IMAGE:$VERSION AS base
ARG VERSION
# a comment about nothing
ARG TOOLS=\"a b\" EMPTY
RUN --mount=type=cache,target=/var/cache/apt --mount=type=secret,id=login x

FROM --platform=$BUILDPLATFORM scratch AS Other
ARG ONLY_OTHER=1
RUN --mount=type=secret,id=other x

# app is what is run
# and more
FROM base AS app
ARG TARGETARCH
# MODE of the build
ARG MODE=${VERSION}-debug
RUN --mount=type=ssh \\
    --mount=type=secret,id=login,required \\
    --mount=type=cache,id=go-$MODE,target=/go \\
    --mount=type=ssh,id=deploy,required y

FROM scratch
";

fn lines(from: u32, to: u32) -> Value {
    let ranges: Vec<Value> = (from..=to).map(|line| json!({"start": {"line": line}, "end": {"line": line}})).collect();
    json!({"ranges": ranges})
}

/// The outline as JSON, the text taken out.
fn outline_of(text: &str, options: &PlanOptions) -> Value {
    let outline = outline(text, options, &Answers::new()).expect("it is well-formed");
    let mut json = serde_json::to_value(outline).unwrap();
    json.as_object_mut().unwrap().remove("sources");
    json
}

#[test]
fn an_outline_lists_what_the_target_takes() {
    let options = PlanOptions { target: Some("app".into()), ..options() };
    assert_eq!(
        outline_of(FILE, &options),
        json!({
            "name": "app",
            "description": "is what is run",
            "args": [
                {"name": "VERSION", "description": "of the base image", "value": "12", "location": lines(4, 4)},
                {"name": "REGISTRY", "value": "example.com", "location": lines(6, 6)},
                {"name": "IMAGE", "description": "that everything stands on", "value": "example.com/debian", "location": lines(8, 8)},
                {"name": "TOOLS", "value": "a b", "location": lines(14, 14)},
                {"name": "EMPTY", "location": lines(14, 14)},
                {"name": "MODE", "description": "of the build", "value": "12-debug", "location": lines(26, 26)},
            ],
            "secrets": [{"name": "login", "required": true, "location": lines(15, 15)}],
            "ssh": [
                {"name": "default", "location": lines(27, 30)},
                {"name": "deploy", "required": true, "location": lines(27, 30)},
            ],
            "cache": [
                {"ID": "/var/cache/apt", "location": lines(15, 15)},
                {"ID": "go-12-debug", "location": lines(27, 30)},
            ],
        })
    );
}

#[test]
fn an_outline_shows_the_values_that_were_passed() {
    let build_args = [("MODE".to_owned(), "fast".to_owned()), ("VERSION".to_owned(), "13".to_owned())].into();
    let options = PlanOptions { target: Some("app".into()), build_args, ..options() };
    let json = outline_of(FILE, &options);
    assert_eq!(json["args"][0]["value"], "13");
    assert_eq!(json["args"][5]["value"], "fast");
    assert_eq!(json["cache"][1]["ID"], "go-fast");
}

#[test]
fn an_outline_of_little_is_little() {
    assert_eq!(outline_of("FROM scratch\n", &options()), json!({}));
    assert_eq!(outline_of(FILE, &options()), json!({}));
    let namespace = [("BUILDKIT_CACHE_MOUNT_NS".to_owned(), "ns".to_owned())].into();
    let options = PlanOptions { build_args: namespace, ..options() };
    let text = "FROM scratch\nRUN --mount=type=cache,target=/c x\n";
    assert_eq!(outline_of(text, &options)["cache"][0]["ID"], "/c");
}

#[test]
fn an_outline_needs_no_values() {
    // Whoever asks wants to know what to pass.
    let text = "ARG BASE\nFROM $BASE\nARG VERSION\nLABEL v=${VERSION:?pass}\nRUN --mount=type=secret,id=s x\n";
    let json = outline_of(text, &options());
    assert_eq!(json["args"][0]["name"], "BASE");
    assert_eq!(json["args"][1]["name"], "VERSION");
    assert_eq!(json["secrets"][0]["name"], "s");
}

#[test]
fn an_outline_of_a_faulty_file_is_its_faults() {
    let found = outline("FROM scratch\nCOYP a b\nENV\n", &options(), &Answers::new()).expect_err("two faults");
    assert_eq!(found.len(), 2);
    let missing = PlanOptions { target: Some("ap".into()), ..options() };
    let found = outline(FILE, &missing, &Answers::new()).expect_err("no such target");
    assert_eq!(found[0].help.as_deref(), Some("did you mean `app`?"));
    assert!(outline("", &options(), &Answers::new()).is_err());
}

#[test]
fn targets_are_listed_as_written() {
    let found = targets(FILE, &options()).expect("it is well-formed");
    let mut json = serde_json::to_value(found).unwrap();
    let sources = json.as_object_mut().unwrap().remove("sources").unwrap();
    assert_eq!(sources.as_array().unwrap().len(), 1);
    assert_eq!(
        json,
        json!({"targets": [
            {"name": "base", "description": "has the tools", "base": "$IMAGE:$VERSION", "location": lines(11, 11)},
            {"name": "other", "base": "scratch", "platform": "$BUILDPLATFORM", "location": lines(17, 17)},
            {"name": "app", "description": "is what is run", "base": "base", "location": lines(23, 23)},
            {"default": true, "base": "scratch", "location": lines(32, 32)},
        ]})
    );
    let text = serde_json::to_value(targets("FROM scratch\n", &options()).unwrap()).unwrap();
    assert_eq!(text["sources"], json!(["RlJPTSBzY3JhdGNoCg=="]));
}

#[test]
fn targets_of_a_faulty_file_are_its_faults() {
    for text in ["", "ARG A=1\n", "FROM\n", "RUN a\nFROM scratch\n"] {
        let found = targets(text, &options()).expect_err(text);
        assert!(!found.is_empty(), "{text}");
    }
}
