//! `rbuild verify`: whether the store is whole.

use super::Hall;
use crate::cli::{Format, VerifyArgs};
use crate::engine::{self, Failure, Verified};
use crate::escape;
use crate::progress::Mode;

/// Hashes everything; 1 when something is damaged.
pub async fn verify(hall: &Hall<'_>, args: &VerifyArgs) -> Result<u8, Failure> {
    let settings = &hall.settings();
    let mode = if args.format == Format::Json { Mode::Quiet } else { hall.mode()? };
    let work = hall
        .under_display(mode, async |progress, cancel| engine::verify(settings, args.repair, progress, cancel).await);
    let verified = work.await?;
    super::print(&text(&verified, args.format))?;
    Ok(u8::from(!verified.damages.is_empty()))
}

fn text(verified: &Verified, format: Format) -> String {
    if format == Format::Json {
        return serde_json::to_string_pretty(verified).expect("a report is always JSON") + "\n";
    }
    let mut text = String::new();
    for damage in &verified.damages {
        text += &format!("damaged: {} {}: {}\n", damage.kind, escape::line(&damage.name), escape::line(&damage.what));
        if !damage.used_by.is_empty() {
            let users: Vec<_> = damage.used_by.iter().map(|user| escape::line(user)).collect();
            text += &format!("  used by {}\n", users.join(", "));
        }
        let healed =
            damage.healed.as_deref().unwrap_or("nothing could be done about it; build or load what uses it again");
        text += &format!("  {healed}\n");
    }
    let unknown = match verified.unknown {
        0 => String::new(),
        1 => "; of 1 tree nothing is known to compare it with".into(),
        count => format!("; of {count} trees nothing is known to compare them with"),
    };
    text + &match verified.damages.len() {
        0 => format!("The store is whole: {} blobs and trees checked{unknown}\n", verified.checked),
        count => format!("{count} damaged, {} blobs and trees checked{unknown}\n", verified.checked),
    }
}

#[cfg(test)]
mod tests {
    use store::{Damage, Kind};

    use super::*;

    #[test]
    fn damage_is_named_with_what_uses_it_and_what_was_done() {
        let damage = |healed: Option<&str>| Damage {
            kind: Kind::Blob,
            name: "ab".into(),
            what: "its bytes are not those of its digest".into(),
            used_by: vec!["image app:1".into(), "layer c-1".into()],
            healed: healed.map(str::to_owned),
        };
        let damages = vec![damage(Some("dropped")), damage(None)];
        let verified = Verified { damages, checked: 7, unknown: 1 };
        insta::assert_snapshot!(text(&verified, Format::Table), @"
        damaged: blob ab: its bytes are not those of its digest
          used by image app:1, layer c-1
          dropped
        damaged: blob ab: its bytes are not those of its digest
          used by image app:1, layer c-1
          nothing could be done about it; build or load what uses it again
        2 damaged, 7 blobs and trees checked; of 1 tree nothing is known to compare it with
        ");
        let whole = Verified { damages: Vec::new(), checked: 7, unknown: 0 };
        assert_eq!(text(&whole, Format::Table), "The store is whole: 7 blobs and trees checked\n");
    }
}
