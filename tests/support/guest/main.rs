//! A frontend of a few lines, for the tests of `rbuild serve`: it speaks the gateway's protocol over its standard streams,
//! reads a file of the client's, runs it as a script on busybox, and returns the result with a config.
//!
//! In an image, it is what `# syntax=` names. Attributes: `filename`, and `cmd`, the command of the image.

#[allow(dead_code)]
#[path = "../../e2e/definition/llb.rs"]
mod llb;

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;

use api::gateway::llb_bridge_client::LlbBridgeClient;
use api::gateway::{self, result};
use tonic::transport::{Channel, Endpoint};

use self::llb::Llb;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The standard streams are one socket.
async fn connect() -> Result<Channel, Error> {
    let socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    socket.set_nonblocking(true)?;
    let socket = Mutex::new(Some(tokio::net::UnixStream::from_std(socket)?));
    let connector = tower::service_fn(move |_| {
        let socket = socket.lock().expect("nobody panicked").take();
        async move { socket.map(hyper_util::rt::TokioIo::new).ok_or_else(|| std::io::Error::other("it is gone")) }
    });
    Ok(Endpoint::from_static("http://localhost").connect_with_connector(connector).await?)
}

/// The reference of a definition.
async fn solve(bridge: &mut LlbBridgeClient<Channel>, definition: api::pb::Definition) -> Result<gateway::Ref, Error> {
    let request = gateway::SolveRequest {
        definition: Some(definition),
        allow_result_return: true,
        allow_result_array_ref: true,
        ..gateway::SolveRequest::default()
    };
    match bridge.solve(request).await?.into_inner().result.and_then(|result| result.result) {
        Some(result::Result::Ref(reference)) => Ok(reference),
        other => Err(format!("{other:?}").into()),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let told = std::env::vars().filter(|(name, _)| name.starts_with("BUILDKIT_FRONTEND_OPT_"));
    let attributes: BTreeMap<String, String> = told
        .filter_map(|(_, told)| told.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned())))
        .collect();
    let attribute = |key: &str| attributes.get(key).cloned().unwrap_or_default();
    eprintln!("the frontend has {} attributes", attributes.len());
    let mut bridge = LlbBridgeClient::new(connect().await?);
    let pong = bridge.ping(gateway::PingRequest {}).await?.into_inner();
    assert!(pong.frontend_api_caps.iter().any(|cap| cap.id == "readfile" && cap.enabled), "{pong:?}");
    let mut files = Llb::default();
    let session = std::env::var("BUILDKIT_SESSION_ID")?;
    let follow = format!("[\"{}\"]", attribute("filename"));
    let local = files.source("local://dockerfile", &[("local.session", &session), ("local.followpaths", &follow)]);
    let files = solve(&mut bridge, files.want(&local)).await?;
    let request = gateway::ReadFileRequest { r#ref: files.id, file_path: attribute("filename"), ..Default::default() };
    let script = String::from_utf8(bridge.read_file(request).await?.into_inner().data)?;
    let mut made = Llb::default();
    let base = made.busybox();
    let run = made.run(&base, &script);
    let reference = solve(&mut bridge, made.want(&run)).await?;
    let config = serde_json::json!({ "config": { "Cmd": ["/bin/sh", "-c", attribute("cmd")] } });
    let metadata = [("containerimage.config".to_owned(), config.to_string().into_bytes())].into();
    let result = gateway::Result { result: Some(result::Result::Ref(reference)), metadata, ..Default::default() };
    bridge.r#return(gateway::ReturnRequest { result: Some(result), error: None }).await?;
    Ok(())
}
