//! What the store takes, and what it gives back, in the words of the control API.
//!
//! In: filters and limits of a request. Out: records. Kinds have BuildKit's names where it has one for them.

use std::time::Duration;

use api::control::{PruneRequest, UsageRecord};
use jiff::Timestamp;
use store::{Kind, Used, Wish};
use tonic::Status;

/// What a request wants gone.
///
/// # Errors
/// For filters that mean nothing here.
pub fn wish(request: &PruneRequest) -> Result<Wish, Status> {
    let mut wish = Wish { all: request.all, ..Wish::default() };
    for filter in &request.filter {
        apply(filter, &mut wish)?;
    }
    if request.keep_duration > 0 {
        let age = Duration::from_nanos(request.keep_duration.unsigned_abs());
        wish.unused_for = wish.unused_for.max(Some(age));
    }
    let most = [request.reserved_space, request.max_used_space].into_iter().max().unwrap_or(0);
    wish.keep_bytes = u64::try_from(most).ok().filter(|bytes| *bytes > 0);
    Ok(wish)
}

/// One filter: `type==regular`, `id==…`, or with one `=`, or `~=`.
fn apply(filter: &str, wish: &mut Wish) -> Result<(), Status> {
    for part in filter.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (key, value) = ["==", "~=", "="].iter().find_map(|sign| part.split_once(sign)).unwrap_or((part, ""));
        match key {
            "type" => wish.kinds.extend(kinds(value)?),
            "id" | "parents" if !value.is_empty() => wish.ids.push(value.trim_start_matches("sha256:").to_owned()),
            _ => {
                return Err(Status::invalid_argument(format!(
                    "the filter `{}` means nothing here: `type==KIND` and `id==ID` do",
                    part.escape_debug()
                )));
            }
        }
    }
    Ok(())
}

fn kinds(word: &str) -> Result<Vec<Kind>, Status> {
    Ok(match word {
        "exec.cachemount" => vec![Kind::Mount],
        "source.git.checkout" => vec![Kind::Git],
        "source.local" => vec![Kind::Client, Kind::Context],
        "regular" => vec![Kind::Layer, Kind::Key, Kind::Blob],
        "internal" | "frontend" => vec![Kind::Note],
        _ => vec![word.parse().map_err(|()| {
            Status::invalid_argument(format!("`type=={}`: there is no such kind", word.escape_debug()))
        })?],
    })
}

/// Whether a thing is one of those that filters ask for.
///
/// # Errors
/// For filters that mean nothing here.
pub fn matching(filters: &[String]) -> Result<impl Fn(&Used) -> bool + use<>, Status> {
    let mut wish = Wish::default();
    for filter in filters {
        apply(filter, &mut wish)?;
    }
    Ok(move |used: &Used| {
        (wish.kinds.is_empty() || wish.kinds.contains(&used.kind))
            && (wish.ids.is_empty() || wish.ids.iter().any(|id| used.name.starts_with(id)))
    })
}

/// One thing.
pub fn record(used: &Used) -> UsageRecord {
    let record_type = match used.kind {
        Kind::Mount => "exec.cachemount",
        Kind::Git => "source.git.checkout",
        Kind::Client | Kind::Context => "source.local",
        Kind::Note => "internal",
        _ => "regular",
    };
    let time = used.used_at.and_then(|at| Timestamp::from_second(at).ok());
    let time = time.map(|at| prost_types::Timestamp { seconds: at.as_second(), nanos: 0 });
    UsageRecord {
        id: used.name.clone(),
        mutable: used.kind == Kind::Mount,
        in_use: used.held.is_some(),
        size: i64::try_from(used.bytes).unwrap_or(i64::MAX),
        // Nobody writes down when a thing came; no clock is behind it.
        created_at: Some(time.unwrap_or_default()),
        last_used_at: time,
        description: used.label.clone(),
        record_type: record_type.to_owned(),
        ..UsageRecord::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_understood_or_refused() {
        let check = |filters: &[&str], expected: Option<(usize, &[&str])>| {
            let filter = filters.iter().map(|filter| (*filter).to_owned()).collect();
            let wish = wish(&PruneRequest { filter, ..PruneRequest::default() }).ok();
            let found =
                wish.as_ref().map(|wish| (wish.kinds.len(), wish.ids.iter().map(String::as_str).collect::<Vec<_>>()));
            assert_eq!(found, expected.map(|(kinds, ids)| (kinds, ids.to_vec())), "{filters:?}");
        };
        check(&[], Some((0, &[])));
        check(&["type==exec.cachemount"], Some((1, &[])));
        check(&["type=regular,id~=b-1", "id==sha256:ab"], Some((3, &["b-1", "ab"])));
        check(&["type==nothing"], None);
        check(&["mutable"], None);
    }
}
