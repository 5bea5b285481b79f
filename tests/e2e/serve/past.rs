//! Builds of the past as clients see them: listed, told again, kept, forgotten; and the images that they made.

use api::content::content_client::ContentClient;
use api::content::{DeleteContentRequest, InfoRequest, ReadContentRequest};
use api::control::control_client::ControlClient;
use api::control::{BuildHistoryRecord, BuildHistoryRequest, Exporter, StatusRequest, UpdateBuildHistoryRequest};
use tonic::Code;
use tonic::transport::Channel;

use super::client::{Daemon, request, session};
use super::{LONG, offer, solve};
use crate::support::Store;

async fn list(channel: &Channel, request: BuildHistoryRequest) -> Vec<BuildHistoryRecord> {
    let request = BuildHistoryRequest { early_exit: true, ..request };
    let answer = ControlClient::new(channel.clone()).listen_build_history(request).await.expect("it lists");
    assert!(answer.metadata().get("buildkit-current-timestamp").is_some());
    let mut stream = answer.into_inner();
    let mut records = Vec::new();
    while let Some(event) = stream.message().await.expect("it ends well") {
        records.extend(event.record);
    }
    records
}

async fn update(channel: &Channel, request: UpdateBuildHistoryRequest) -> Result<(), tonic::Status> {
    ControlClient::new(channel.clone()).update_build_history(request).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn past_builds_are_listed_told_again_kept_and_forgotten() {
    let store = Store::with_busybox();
    let daemon = Daemon::start(&store);
    let channel = daemon.connect().await;
    let mut news = ControlClient::new(channel.clone())
        .listen_build_history(BuildHistoryRequest { r#ref: "good".into(), ..BuildHistoryRequest::default() })
        .await
        .expect("it listens")
        .into_inner();
    let open = session(channel.clone(), "open", offer("FROM busybox\nRUN echo words of old\n", Vec::new())).await;
    let mut good = request("good", "open");
    good.frontend_attrs.insert("build-arg:WHO".into(), "me".into());
    good.frontend_attrs.insert("label:a".into(), "b".into());
    good.exporters = vec![Exporter { r#type: "image".into(), attrs: [("name".into(), "made:1".into())].into() }];
    solve(&channel, good).await.expect("it builds");
    let mut kinds = Vec::new();
    while kinds.len() < 2 {
        let event = tokio::time::timeout(LONG, news.message()).await.expect("it comes").expect("it is heard");
        let event = event.expect("there is more");
        assert_eq!(event.record.expect("it has one").r#ref, "good");
        kinds.push(event.r#type);
    }
    assert_eq!(kinds, [0, 1], "it began, it ended");
    let failing =
        session(channel.clone(), "failing", offer("FROM busybox\nRUN echo no luck; false\n", Vec::new())).await;
    solve(&channel, request("bad", "failing")).await.expect_err("it fails");
    drop((open, failing));
    assert_eq!(daemon.stop(), Some(0));

    // The daemon that tells is another one.
    let daemon = Daemon::start(&store);
    let channel = daemon.connect().await;
    let all = list(&channel, BuildHistoryRequest::default()).await;
    assert_eq!(all.iter().map(|record| record.r#ref.as_str()).collect::<Vec<_>>(), ["bad", "good"]);
    let (bad, good) = (&all[0], &all[1]);
    assert!(bad.error.as_ref().is_some_and(|error| !error.message.is_empty()), "{bad:?}");
    assert_eq!(good.frontend_attrs["build-arg:WHO"], "me");
    assert!(good.error.is_none() && good.completed_at.is_some() && good.num_total_steps == 1, "{good:?}");
    let only = BuildHistoryRequest { r#ref: "good".into(), ..BuildHistoryRequest::default() };
    assert_eq!(list(&channel, only).await.len(), 1);
    let limited = BuildHistoryRequest { limit: 1, ..BuildHistoryRequest::default() };
    assert_eq!(list(&channel, limited).await[0].r#ref, "bad");
    let running = BuildHistoryRequest { active_only: true, ..BuildHistoryRequest::default() };
    assert_eq!(list(&channel, running).await, []);
    let shown = store.rbuild(["history", "ls"]).ok();
    assert_eq!(shown.stdout.lines().count(), 3, "the command line knows the same: {}", shown.stdout);

    let mut status = ControlClient::new(channel.clone())
        .status(StatusRequest { r#ref: "good".into() })
        .await
        .expect("it is known")
        .into_inner();
    let (mut logs, mut names) = (Vec::new(), Vec::new());
    while let Some(told) = status.message().await.expect("it goes on") {
        names.extend(told.vertexes.into_iter().filter(|vertex| vertex.completed.is_some()).map(|vertex| vertex.name));
        logs.extend(told.logs.into_iter().flat_map(|log| log.msg));
    }
    assert_eq!(String::from_utf8_lossy(&logs), "words of old\n");
    assert!(names.iter().any(|name| name.contains("RUN echo words of old")), "{names:?}");

    // The image that it made can be read, and nothing else.
    let image = good.result.as_ref().and_then(|result| result.results.get(&0)).expect("it made one").clone();
    let mut content = ContentClient::new(channel.clone());
    let info = content.info(InfoRequest { digest: image.digest.clone() }).await.expect("it is named").into_inner();
    assert_eq!(info.info.expect("it has one").size, image.size);
    let read = async |digest: &str, offset: i64| {
        let request = ReadContentRequest { digest: digest.into(), offset, size: 0 };
        let mut stream = ContentClient::new(channel.clone()).read(request).await?.into_inner();
        let mut bytes = Vec::new();
        while let Some(piece) = stream.message().await? {
            bytes.extend_from_slice(&piece.data);
        }
        Ok::<_, tonic::Status>(bytes)
    };
    let manifest = read(&image.digest, 0).await.expect("it is named");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("it is JSON");
    let config = manifest["config"]["digest"].as_str().expect("it names one").to_owned();
    assert!(!read(&config, 0).await.expect("it is named").is_empty());
    assert_eq!(read(&config, 1 << 40).await.expect_err("it is not so long").code(), Code::OutOfRange);
    assert_eq!(read(&config, -1).await.expect_err("there is no such place").code(), Code::OutOfRange);
    let nobodys = format!("sha256:{}", "0".repeat(64));
    assert_eq!(read(&nobodys, 0).await.expect_err("nobody names it").code(), Code::NotFound);
    assert_eq!(read("x", 0).await.expect_err("it is none").code(), Code::InvalidArgument);
    let removal = content.delete(DeleteContentRequest { digest: config.clone() }).await;
    assert_eq!(removal.expect_err("it is only read").code(), Code::PermissionDenied);

    let change = |name: &str, pinned: bool, delete: bool| UpdateBuildHistoryRequest {
        r#ref: name.into(),
        pinned,
        delete,
        finalize: false,
    };
    update(&channel, change("good", true, false)).await.expect("it is there");
    store.rbuild(["prune", "--all", "--force", "--filter", "type=build"]).ok();
    let left = list(&channel, BuildHistoryRequest::default()).await;
    assert_eq!(left.iter().map(|record| (record.r#ref.as_str(), record.pinned)).collect::<Vec<_>>(), [("good", true)]);
    update(&channel, change("good", false, true)).await.expect("it is there");
    assert_eq!(list(&channel, BuildHistoryRequest::default()).await, []);
    assert_eq!(update(&channel, change("good", false, true)).await.expect_err("it is gone").code(), Code::NotFound);
    assert_eq!(read(&config, 0).await.expect_err("nobody names it any more").code(), Code::NotFound);
    assert_eq!(daemon.stop(), Some(0));
}
