//! `--provenance`, `--sbom`, `--attest`: what is told of an image beside it.
//!
//! In: the words of these flags, or a client's attributes `attest:provenance` and `attest:sbom`. Out: [`Provenance`], or
//! nothing. Unlike docker nobody gets one unasked. Deliberately absent: what stands in it ([`crate::engine::attest`]).

use crate::engine::Failure;

/// What is told of how an image was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provenance {
    /// `mode=max`: with build arguments, labels, the names of secrets and the Dockerfile.
    pub is_full: bool,
    /// `builder-id=`: an address that stands for the builder.
    pub builder_id: String,
    /// `reproducible=true`: whoever asks says that the build is.
    pub reproducible: bool,
}

/// What the flags ask for together.
///
/// # Errors
/// For what is not understood, said twice, or not made here.
pub fn provenance(
    provenance: Option<&str>,
    sbom: Option<&str>,
    attest: &[String],
) -> Result<Option<Provenance>, Failure> {
    let mut found = None;
    let short = [("--provenance", "provenance", provenance), ("--sbom", "sbom", sbom)];
    let short = short.into_iter().filter_map(|(flag, kind, value)| Some((flag, kind.to_owned(), value?.to_owned())));
    let mut asked: Vec<(&str, String, String)> = short.collect();
    for text in attest {
        let (mut kind, mut rest) = (None, Vec::new());
        for part in text.split(',') {
            match part.trim().split_once('=') {
                Some(("type", value)) => kind = Some(value.to_owned()),
                _ => rest.push(part),
            }
        }
        let kind = kind.ok_or_else(|| {
            Failure::new(format!("`--attest {text}` does not say which")).help("write `--attest type=provenance`")
        })?;
        asked.push(("--attest", kind, rest.join(",")));
    }
    let mut seen = Vec::new();
    for (flag, kind, value) in asked {
        let asked = one(flag, &kind, &value)?;
        if asked.is_none() {
            continue;
        }
        if seen.contains(&kind) {
            return Err(Failure::new(format!("what is told of an image as {kind} is asked for twice"))
                .help("say it once, with `--provenance`, `--sbom` or `--attest`"));
        }
        found = asked;
        seen.push(kind);
    }
    Ok(found)
}

/// One of them: `value` is `true`, `false`, or fields with commas between. `said` is where it was.
///
/// # Errors
/// For what is not understood or not made here.
pub fn one(said: &str, kind: &str, value: &str) -> Result<Option<Provenance>, Failure> {
    let wrong = |what: String| Failure::new(format!("`{said}`: {what}"));
    let mut asked = Provenance { is_full: true, ..Provenance::default() };
    let (mut is_wanted, mut version) = (true, "v1");
    for part in value.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let switch = |value: &str| match value {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            other => Err(wrong(format!("`{other}` is neither true nor false"))),
        };
        match part.split_once('=') {
            None => is_wanted &= switch(part)?,
            Some(("disabled", value)) => is_wanted &= !switch(value)?,
            // Docker's clients say it again.
            Some(("type", value)) if value == kind => {}
            // What clients add to images that are told of anyway, unasked.
            Some(("inline-only", value)) => is_wanted &= !switch(value)?,
            // Whatever it is: it is refused below if it is wanted.
            Some(_) if kind != "provenance" => {}
            Some(("mode", "max")) => asked.is_full = true,
            Some(("mode", "min")) => asked.is_full = false,
            Some(("mode", other)) => return Err(wrong(format!("`mode={other}` is neither min nor max"))),
            Some(("version", value)) => version = value,
            Some(("builder-id", id)) => id.clone_into(&mut asked.builder_id),
            Some(("reproducible", value)) => asked.reproducible = switch(value)?,
            // Its name in a folder, where none is written.
            Some(("filename", _)) => {}
            Some((key, _)) => {
                return Err(wrong(format!("`{key}` is no field of a provenance"))
                    .help("there are mode, version, builder-id, reproducible, disabled"));
            }
        }
    }
    match kind {
        _ if !is_wanted => Ok(None),
        "provenance" if version == "v1" => Ok(Some(asked)),
        "provenance" => {
            Err(wrong(format!("`version={version}`: only SLSA provenance v1 is written")).help("leave `version` out"))
        }
        "sbom" => Err(wrong("no SBOM is made by this version of rbuild".into())
            .help("leave it out, or say that there is none: `--sbom=false`")),
        other => {
            Err(wrong(format!("`{other}` is nothing that can be told of an image")).help("there is `type=provenance`"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Provenance {
        Provenance { is_full: true, ..Provenance::default() }
    }

    #[test]
    fn a_provenance_is_asked_for_in_every_way_that_docker_knows() {
        let check = |flag: Option<&str>, attest: &[&str], expected: Option<Provenance>| {
            let attest: Vec<String> = attest.iter().map(|&text| text.to_owned()).collect();
            assert_eq!(provenance(flag, None, &attest).expect("it is understood"), expected, "{flag:?} {attest:?}");
        };
        check(None, &[], None);
        for off in ["false", "0", "mode=max,disabled=true", "inline-only=true,mode=min,version=v0.2"] {
            check(Some(off), &[], None);
        }
        for on in ["true", "1", "mode=max", "version=v1", "mode=max,inline-only=false"] {
            check(Some(on), &[], Some(full()));
        }
        check(Some("mode=min"), &[], Some(Provenance::default()));
        let named = Provenance { builder_id: "https://ci.example/7".into(), reproducible: true, ..full() };
        check(Some("builder-id=https://ci.example/7,reproducible=true"), &[], Some(named));
        check(None, &["type=provenance"], Some(full()));
        check(None, &["mode=min, type=provenance"], Some(Provenance::default()));
        check(None, &["type=provenance,disabled=true", "type=sbom,disabled=true"], None);
        check(Some("false"), &["type=provenance,mode=min"], Some(Provenance::default()));
    }

    #[test]
    fn clients_say_it_as_an_attribute() {
        let check = |value: &str, expected: Option<Provenance>| {
            assert_eq!(one("attest:provenance", "provenance", value).expect("it is understood"), expected, "{value}");
        };
        check("type=provenance,mode=max", Some(full()));
        check("type=provenance,inline-only=true,mode=min", None);
        check("", Some(full()));
        assert!(one("attest:provenance", "provenance", "type=sbom").is_err());
    }

    #[test]
    fn what_is_not_made_here_is_refused_and_named() {
        let check = |flag: Option<&str>, sbom: Option<&str>, attest: &[&str], expected: &str| {
            let attest: Vec<String> = attest.iter().map(|&text| text.to_owned()).collect();
            let failure = provenance(flag, sbom, &attest).expect_err(expected);
            assert!(failure.problems[0].message.contains(expected), "{failure:?}");
        };
        check(None, Some("true"), &[], "`--sbom`: no SBOM is made");
        check(None, Some("generator=r.example/scan:1"), &[], "no SBOM is made");
        check(None, None, &["type=sbom"], "`--attest`: no SBOM is made");
        check(None, None, &["type=vex"], "`vex` is nothing");
        check(None, None, &["mode=max"], "does not say which");
        check(Some("perhaps"), None, &[], "`perhaps` is neither true nor false");
        check(Some("mode=mid"), None, &[], "`mode=mid` is neither min nor max");
        check(Some("version=v0.2"), None, &[], "only SLSA provenance v1");
        check(Some("colour=red"), None, &[], "`colour` is no field");
        check(Some("true"), None, &["type=provenance"], "asked for twice");
        check(None, None, &["type=provenance", "type=provenance,mode=min"], "asked for twice");
    }
}
