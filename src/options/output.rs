//! `-o`: `type=oci,dest=app.tar`, a bare folder, or `-`.

use super::{Output, OutputKind};
use crate::engine::Failure;

const KINDS: &[(&str, OutputKind)] =
    &[("oci", OutputKind::Oci), ("docker", OutputKind::Docker), ("local", OutputKind::Local), ("tar", OutputKind::Tar)];

/// Understands one `-o`. `stdout_terminal` is whether standard output is a terminal, where no archive is written.
///
/// # Errors
/// With advice, for what no output is.
pub fn parse(text: &str, stdout_terminal: bool) -> Result<Output, Failure> {
    let wrong = |reason: String| Failure::new(format!("`-o {text}`: {reason}"));
    let fields = fields(text).ok_or_else(|| wrong("a quote is not closed".into()))?;
    if let [only] = fields.as_slice()
        && !only.contains('=')
    {
        return match only.as_str() {
            "" => Err(wrong("there is no destination".into())),
            "-" => stdout(OutputKind::Tar, stdout_terminal).map_err(wrong),
            folder => Ok(Output { kind: OutputKind::Local, dest: Some(folder.into()) }),
        };
    }
    let (mut kind, mut dest) = (None, None);
    for field in &fields {
        let Some((key, value)) = field.split_once('=') else {
            return Err(wrong(format!("`{field}` is not of the form name=value")).help("write `type=TYPE,dest=PATH`"));
        };
        match key.trim().to_ascii_lowercase().as_str() {
            "type" => kind = Some(self::kind(value).map_err(|(reason, help)| wrong(reason).help(help))?),
            "dest" => dest = Some(value.to_owned()),
            other => {
                let help = match frontend::nearest(other, ["type", "dest"]) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "`type` and `dest` are supported by this version of rbuild".into(),
                };
                return Err(wrong(format!("`{other}` is not supported")).help(help));
            }
        }
    }
    let Some(kind) = kind else {
        return Err(wrong("there is no type".into()).help("write `type=oci|docker|local|tar`"));
    };
    match (kind, dest.as_deref()) {
        (_, Some("")) => Err(wrong("`dest` is empty".into())),
        (OutputKind::Local, None | Some("-")) => {
            Err(wrong("a folder cannot go to standard output".into()).help("write `dest=FOLDER`, or use `type=tar`"))
        }
        (OutputKind::Docker, None) => Err(wrong("there is no docker to load the image into".into())
            .help("write `dest=FILE`, or `dest=-` for standard output, and give it to `docker load`")),
        (_, None | Some("-")) => stdout(kind, stdout_terminal)
            .map_err(|reason| wrong(reason).help("write `dest=FILE`, or redirect standard output")),
        (_, Some(path)) => Ok(Output { kind, dest: Some(path.into()) }),
    }
}

fn stdout(kind: OutputKind, terminal: bool) -> Result<Output, String> {
    if terminal { Err("an archive is not written to a terminal".into()) } else { Ok(Output { kind, dest: None }) }
}

fn kind(name: &str) -> Result<OutputKind, (String, String)> {
    if let Some((_, kind)) = KINDS.iter().find(|(known, _)| *known == name) {
        return Ok(*kind);
    }
    let help = match name {
        "image" => "leave it out: the image is always kept in the local store, under the names that `-t` gives".into(),
        "registry" => "use `-t NAME --push`".into(),
        "cacheonly" => "leave out `-o` and `-t`".into(),
        _ => match frontend::nearest(name, KINDS.iter().map(|(known, _)| *known)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "the types are oci, docker, local and tar".into(),
        },
    };
    Err((format!("the type `{name}` is not supported"), help))
}

/// The fields of one line of comma-separated values (RFC 4180, section 2); `None` when a quote is not closed.
pub fn fields(text: &str) -> Option<Vec<String>> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let last = fields.len() - 1;
        let field = &mut fields[last];
        match c {
            '"' if quoted && chars.next_if_eq(&'"').is_some() => field.push('"'),
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            ',' if !quoted => fields.push(String::new()),
            c => field.push(c),
        }
    }
    (!quoted).then_some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_understood() {
        let check = |text: &str, kind: OutputKind, dest: Option<&str>| {
            let expected = Output { kind, dest: dest.map(Into::into) };
            assert_eq!(parse(text, false).expect(text), expected, "{text}");
        };
        check("type=oci,dest=app.tar", OutputKind::Oci, Some("app.tar"));
        check("dest=app.tar,type=docker", OutputKind::Docker, Some("app.tar"));
        check("type=local,dest=out", OutputKind::Local, Some("out"));
        check("type=tar,dest=-", OutputKind::Tar, None);
        check("type=oci", OutputKind::Oci, None);
        check("type=docker,dest=-", OutputKind::Docker, None);
        check("out", OutputKind::Local, Some("out"));
        check("-", OutputKind::Tar, None);
        check("type=oci,\"dest=a,b.tar\"", OutputKind::Oci, Some("a,b.tar"));
        check("type=oci,\"dest=a\"\"b\"", OutputKind::Oci, Some("a\"b"));
        check("type=oci,dest=a=b", OutputKind::Oci, Some("a=b"));
    }

    #[test]
    fn what_is_no_output_is_refused_with_advice() {
        let check = |text: &str, terminal: bool, expected: &str| {
            let failure = parse(text, terminal).expect_err(text);
            let problem = &failure.problems[0];
            let said = format!("{} / {}", problem.message, problem.help.clone().unwrap_or_default());
            assert!(said.contains(expected), "{said}");
        };
        check("type=oic,dest=x", false, "did you mean `oci`?");
        check("type=registry,name=x", false, "use `-t NAME --push`");
        check("type=image", false, "always kept in the local store");
        check("type=docker", false, "no docker to load the image into");
        check("type=local", false, "cannot go to standard output");
        check("type=local,dest=-", false, "cannot go to standard output");
        check("type=oci,dest=", false, "`dest` is empty");
        check("type=oci,dst=x", false, "did you mean `dest`?");
        check("type=oci,compression=zstd", false, "`compression` is not supported");
        check("dest=x", false, "there is no type");
        check("type=oci,x", false, "not of the form name=value");
        check("type=oci,\"dest=x", false, "a quote is not closed");
        check("", false, "there is no destination");
        check("-", true, "not written to a terminal");
        check("type=tar", true, "not written to a terminal");
    }
}
