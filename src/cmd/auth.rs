//! `rbuild auth why`: where an image would be asked for, and with whose credentials.

use oci::hosts::{Act, Endpoint, Scheme};
use oci::registry::Found;
use serde_json::json;

use super::{Hall, table};
use crate::cli::{AuthArgs, AuthVerb, AuthWhyArgs, Format};
use crate::engine::Failure;
use crate::{escape, report};

/// One endpoint, and what it is asked with.
struct Asked {
    endpoint: Endpoint,
    /// `resolve`, `pull`, `push`.
    acts: Vec<&'static str>,
    found: Found,
}

/// Tells of registries.
pub async fn auth(hall: &Hall<'_>, args: &AuthArgs) -> Result<u8, Failure> {
    match &args.verb {
        AuthVerb::Why(args) => why(hall, args).await,
    }
}

async fn why(hall: &Hall<'_>, args: &AuthWhyArgs) -> Result<u8, Failure> {
    let registries = hall.registries();
    let (hosts, _) = registries.hosts.read();
    for warning in hosts.warnings() {
        report::print(&report::note(warning, hall.style()));
    }
    let credentials = registries.credentials(None);
    let mut asked: Vec<Asked> = Vec::new();
    for (act, name) in [(Act::Resolve, "resolve"), (Act::Pull, "pull"), (Act::Push, "push")] {
        for endpoint in hosts.endpoints(&args.image, act).map_err(|error| Failure::from_error(&error))? {
            if let Some(known) = asked.iter_mut().find(|asked| asked.endpoint == endpoint) {
                known.acts.push(name);
                continue;
            }
            let found = credentials.find(&endpoint.registry, &endpoint.repository).await;
            let found = found.map_err(|error| Failure::from_error(&error))?;
            asked.push(Asked { endpoint, acts: vec![name], found });
        }
    }
    super::print(&match args.format {
        Format::Json => {
            let rows: Vec<_> = asked.iter().map(row).collect();
            serde_json::to_string_pretty(&rows).expect("a JSON value is always JSON") + "\n"
        }
        Format::Table => text(&asked),
    })?;
    Ok(0)
}

fn text(asked: &[Asked]) -> String {
    let cells = asked.iter().map(|asked| {
        let source = asked.endpoint.source.as_deref().unwrap_or("the name");
        [place(&asked.endpoint), asked.acts.join(" "), tls(&asked.endpoint), who(&asked.found), source.to_owned()]
            .map(|cell| escape::line(&cell).into_owned())
    });
    let mut text = table::render(["ENDPOINT", "FOR", "TLS", "CREDENTIALS", "BECAUSE OF"], cells);
    let mut said = Vec::new();
    for asked in asked {
        let searched = format!("looked for in {}", asked.found.searched.join(", "));
        let notes = asked.found.notes.iter().cloned();
        for line in notes.chain((!asked.found.searched.is_empty()).then_some(searched)) {
            if !said.contains(&line) {
                text += &format!("{}\n", escape::line(&line));
                said.push(line);
            }
        }
    }
    text
}

fn place(endpoint: &Endpoint) -> String {
    format!("{}/{}", endpoint.registry, endpoint.repository)
}

/// Whose credentials, never which.
fn who(found: &Found) -> String {
    match &found.credential {
        Some((credential, origin)) => oci::registry::whose(credential, origin),
        None => "none".to_owned(),
    }
}

fn tls(endpoint: &Endpoint) -> String {
    let trust = &endpoint.trust;
    let mut parts = vec![match endpoint.scheme {
        Some(Scheme::Http) => "plain HTTP",
        None if trust.http == Some(true) => "plain HTTP",
        _ if trust.insecure == Some(true) => "any certificate",
        _ => "verified",
    }];
    if !trust.authorities.is_empty() {
        parts.push("own authority");
    }
    if trust.identity.is_some() {
        parts.push("client certificate");
    }
    parts.join(", ")
}

fn row(asked: &Asked) -> serde_json::Value {
    let Asked { endpoint, acts, found } = asked;
    json!({
        "endpoint": place(endpoint),
        "mirror": endpoint.is_mirror,
        "for": acts,
        "tls": tls(endpoint),
        "credentials": found.credential.as_ref().map(|(credential, origin)| oci::registry::whose(credential, origin)),
        "searched": found.searched,
        "notes": found.notes,
        "source": endpoint.source.as_deref(),
    })
}
