//! `rbuild images`: what is in the local store.

use jiff::{SignedDuration, Timestamp};
use oci::model::{Platform, Reference};
use serde_json::json;

use super::{Hall, table};
use crate::amount::amount;
use crate::cli::{Format, ImagesArgs};
use crate::engine::images::Listed;
use crate::engine::{Failure, images as engine};
use crate::progress::Mode;

/// Platforms that are named in the table.
const PLATFORMS_SHOWN: usize = 3;

/// Prints the images of the local store.
pub async fn images(hall: &Hall<'_>, args: &ImagesArgs) -> Result<u8, Failure> {
    let settings = &hall.settings();
    let listed = hall.under_display(Mode::Plain, async |progress, _| engine::list(settings, progress).await).await?;
    super::print(&text(&listed, args, Timestamp::now()))?;
    Ok(0)
}

fn text(listed: &[Listed], args: &ImagesArgs, now: Timestamp) -> String {
    if args.quiet {
        let mut ids: Vec<String> = Vec::new();
        for id in listed.iter().map(|image| format!("{}\n", image.id)) {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        return ids.concat();
    }
    match args.format {
        Format::Json => {
            let rows: Vec<_> = listed.iter().map(row).collect();
            serde_json::to_string_pretty(&rows).expect("a JSON value is always JSON") + "\n"
        }
        Format::Table => {
            let cells = listed.iter().map(|image| {
                let (repository, tag) = name(image.name.as_ref());
                let id = image.id.hex()[..12].to_owned();
                let created = ago(now.duration_since(image.created));
                [repository, tag, id, created, amount(image.size_bytes), platforms(&image.platforms)]
            });
            table::render(["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE", "PLATFORM"], cells)
        }
    }
}

/// For which machines it is; of an index for more than a line holds, how many.
fn platforms(platforms: &[Platform]) -> String {
    match platforms.len() {
        count if count > PLATFORMS_SHOWN => format!("{count} platforms"),
        _ => platforms.iter().map(Platform::to_string).collect::<Vec<_>>().join(", "),
    }
}

fn row(image: &Listed) -> serde_json::Value {
    let named = image.name.as_ref().map(|known| name(Some(known)).0);
    json!({
        "name": image.name.as_ref().map(Reference::familiar),
        "repository": named,
        "tag": image.name.as_ref().and_then(Reference::tag),
        "id": image.id.to_string(),
        "created": image.created.to_string(),
        "size_bytes": image.size_bytes,
        "platforms": image.platforms.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

/// Repository and tag as people write them.
fn name(name: Option<&Reference>) -> (String, String) {
    let none = || "<none>".to_owned();
    let Some(name) = name else { return (none(), none()) };
    let tag = name.tag().map(str::to_owned);
    let familiar = name.familiar();
    let repository = familiar.split('@').next().unwrap_or_default();
    let suffix = tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
    (repository.strip_suffix(&suffix).unwrap_or(repository).to_owned(), tag.unwrap_or_else(none))
}

/// How long ago, in the largest unit of which there is more than one.
pub(super) fn ago(age: SignedDuration) -> String {
    const UNITS: [(&str, i64); 6] = [
        ("years", 31_557_600),
        ("months", 2_629_800),
        ("weeks", 604_800),
        ("days", 86_400),
        ("hours", 3600),
        ("minutes", 60),
    ];
    let seconds = age.as_secs().max(0);
    for (unit, length) in UNITS {
        if seconds >= 2 * length {
            return format!("{} {unit} ago", seconds / length);
        }
    }
    if seconds == 1 { "1 second ago".into() } else { format!("{seconds} seconds ago") }
}

#[cfg(test)]
mod tests {
    use oci::model::Digest;

    use super::*;

    fn check(quiet: bool, format: Format) -> String {
        let image = |name: Option<&str>, content: &str, size_bytes: u64| Listed {
            name: name.map(|name| name.parse().expect("a name")),
            id: Digest::of(content.as_bytes()),
            created: Timestamp::UNIX_EPOCH,
            size_bytes,
            platforms: vec!["linux/amd64".parse().expect("a platform")],
        };
        let listed = [
            image(Some("app:1"), "one", 1_234_567),
            image(Some("localhost:5000/team/app"), "one", 1_234_567),
            image(None, "two", 0),
        ];
        let now = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(3);
        text(&listed, &ImagesArgs { quiet, format }, now)
    }

    #[test]
    fn images_are_listed_for_people_and_for_programs() {
        insta::assert_snapshot!(check(false, Format::Table), @"
        REPOSITORY                TAG      IMAGE ID       CREATED       SIZE     PLATFORM
        app                       1        7692c3ad3540   3 hours ago   1.23MB   linux/amd64
        localhost:5000/team/app   latest   7692c3ad3540   3 hours ago   1.23MB   linux/amd64
        <none>                    <none>   3fc4ccfe7458   3 hours ago   0B       linux/amd64
        ");
        insta::assert_snapshot!(check(true, Format::Table), @"
        sha256:7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed
        sha256:3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3
        ");
        insta::assert_snapshot!(check(false, Format::Json), @r#"
        [
          {
            "created": "1970-01-01T00:00:00Z",
            "id": "sha256:7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed",
            "name": "app:1",
            "platforms": [
              "linux/amd64"
            ],
            "repository": "app",
            "size_bytes": 1234567,
            "tag": "1"
          },
          {
            "created": "1970-01-01T00:00:00Z",
            "id": "sha256:7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed",
            "name": "localhost:5000/team/app:latest",
            "platforms": [
              "linux/amd64"
            ],
            "repository": "localhost:5000/team/app",
            "size_bytes": 1234567,
            "tag": "latest"
          },
          {
            "created": "1970-01-01T00:00:00Z",
            "id": "sha256:3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3",
            "name": null,
            "platforms": [
              "linux/amd64"
            ],
            "repository": null,
            "size_bytes": 0,
            "tag": null
          }
        ]
        "#);
    }

    #[test]
    fn index_says_its_platforms_as_long_as_they_are_few() {
        let check = |given: &[&str], expected: &str| {
            let given: Vec<Platform> = given.iter().map(|text| text.parse().expect("a platform")).collect();
            assert_eq!(platforms(&given), expected);
        };
        check(&["linux/arm64"], "linux/arm64");
        check(&["linux/riscv64", "linux/amd64", "linux/arm/v7"], "linux/riscv64, linux/amd64, linux/arm/v7");
        check(&["linux/386", "linux/amd64", "linux/arm64", "linux/s390x"], "4 platforms");
    }

    #[test]
    fn ages_are_rough() {
        let check = |seconds: i64, expected: &str| assert_eq!(ago(SignedDuration::from_secs(seconds)), expected);
        check(-5, "0 seconds ago");
        check(1, "1 second ago");
        check(119, "119 seconds ago");
        check(120, "2 minutes ago");
        check(86_400, "24 hours ago");
        check(13 * 86_400, "13 days ago");
        check(14 * 86_400, "2 weeks ago");
        check(800 * 86_400, "2 years ago");
    }
}
