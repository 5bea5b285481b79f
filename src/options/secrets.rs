//! `--secret` and `--ssh`: from words to where secrets and agents are.
//!
//! ```text
//! --secret id=NAME,src=FILE          a file (also source=); type=file may be said
//! --secret id=NAME,env=VARIABLE      a variable of rbuild's environment; type=env,src=VARIABLE is the same
//! --secret id=NAME,cmd=COMMAND       what a command prints, run by `sh -c`; everything behind cmd= is the command
//! --secret id=NAME                   the variable NAME if it is set, else the file NAME
//! --ssh default                      the agent of SSH_AUTH_SOCK
//! --ssh ID=SOCKET                    the agent that listens there
//! --ssh ID=KEY[,KEY…]                keys in files
//! ```
//! In words of CSV, as other builders have them: `"src=a,b"` keeps its comma. Values are not read here; that a file is
//! there is looked at, so that a typing error is told at once.

use std::collections::BTreeMap;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use executor::secrets::SecretSource;
use executor::secrets::agent::AgentSource;

use crate::engine::Failure;
use crate::environment::Environment;

/// All secrets by name; of the same name the last counts.
///
/// # Errors
/// With advice, for what cannot be understood, and for files that are not there.
pub fn secrets(given: &[String], environment: &Environment) -> Result<BTreeMap<String, SecretSource>, Failure> {
    given.iter().map(|text| secret(text, environment)).collect()
}

/// All agents by name.
///
/// # Errors
/// Likewise; and for a name that is given twice.
pub fn agents(given: &[String], environment: &Environment) -> Result<BTreeMap<String, AgentSource>, Failure> {
    let mut all = BTreeMap::new();
    for text in given {
        let (id, source) = agent(text, environment)?;
        if all.contains_key(&id) {
            return Err(
                Failure::new(format!("`--ssh {text}`: `{id}` is given twice")).help("give each a name of its own")
            );
        }
        all.insert(id, source);
    }
    Ok(all)
}

fn secret(text: &str, environment: &Environment) -> Result<(String, SecretSource), Failure> {
    let wrong = |reason: &str| {
        Failure::new(format!("`--secret {text}`: {reason}"))
            .help("write `--secret id=NAME,src=FILE`, `id=NAME,env=VARIABLE` or `id=NAME,cmd=COMMAND`")
    };
    // A command has commas of its own.
    let (front, command) = match text.find("cmd=") {
        Some(0) => ("", Some(&text[4..])),
        Some(at) if text[..at].ends_with(',') => (&text[..at - 1], Some(&text[at + 4..])),
        _ => (text, None),
    };
    let (mut id, mut kind, mut source, mut variable) = (None, None, None, None);
    for field in fields(front).ok_or_else(|| wrong("a quote is not closed"))? {
        let (key, value) = field.split_once('=').ok_or_else(|| wrong(&format!("`{field}` is no `KEY=VALUE`")))?;
        match key.trim().to_ascii_lowercase().as_str() {
            "id" => id = Some(value.to_owned()),
            "type" => kind = Some(value.to_owned()),
            "src" | "source" => source = Some(value.to_owned()),
            "env" => variable = Some(value.to_owned()),
            key => {
                let near = frontend::nearest(key, ["id", "type", "src", "source", "env", "cmd"]);
                let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
                return Err(wrong(&format!("there is no `{key}`{near}")));
            }
        }
    }
    let id = id.filter(|id| !id.is_empty()).ok_or_else(|| wrong("it has no `id`"))?;
    let source = match (kind.as_deref(), source, variable, command) {
        (None | Some("cmd"), None, None, Some(command)) if !command.trim().is_empty() => {
            SecretSource::Command(command.to_owned())
        }
        (_, None, None, Some(_)) => return Err(wrong("`cmd` needs a command, and no other type")),
        (_, Some(_), _, Some(_)) | (_, _, Some(_), Some(_)) | (None | Some("env"), Some(_), Some(_), None) => {
            return Err(wrong("only one of `src`, `env` and `cmd` says where it is"));
        }
        (None | Some("env"), None, Some(name), None) | (Some("env"), Some(name), None, None) => {
            SecretSource::Variable(name)
        }
        (Some("env"), None, None, None) => SecretSource::Variable(id.clone()),
        (None, None, None, None) if environment.variables.contains_key(std::ffi::OsStr::new(&id)) => {
            SecretSource::Variable(id.clone())
        }
        (None | Some("file"), source, None, None) => {
            let path = environment.working_directory.join(source.as_deref().unwrap_or(&id));
            check(&path).map_err(|reason| wrong(&format!("`{}` {reason}", path.display())))?;
            SecretSource::File(path)
        }
        (Some("file"), _, Some(_), _) => return Err(wrong("`env` is no file")),
        (Some(kind), ..) => return Err(wrong(&format!("`{kind}` is no type: file, env or cmd"))),
    };
    Ok((id, source))
}

fn agent(text: &str, environment: &Environment) -> Result<(String, AgentSource), Failure> {
    let wrong = |reason: &str| {
        Failure::new(format!("`--ssh {text}`: {reason}"))
            .help("write `--ssh default` for your agent, `--ssh ID=SOCKET` or `--ssh ID=KEY[,KEY…]`")
    };
    let (id, paths) = text.split_once('=').unwrap_or((text, ""));
    let id = if id.is_empty() { "default" } else { id };
    let absolute = |path: &str| environment.working_directory.join(path);
    let paths: Vec<PathBuf> = paths.split(',').filter(|path| !path.is_empty()).map(absolute).collect();
    if paths.is_empty() {
        let socket = agent_of(environment);
        let socket = socket.ok_or_else(|| wrong("there is no agent: `SSH_AUTH_SOCK` is not set"))?;
        if !is_socket(&socket) {
            return Err(wrong(&format!("no agent listens at `{}`, which `SSH_AUTH_SOCK` says", socket.display())));
        }
        return Ok((id.to_owned(), AgentSource::Socket(socket)));
    }
    if let [path] = &paths[..]
        && is_socket(path)
    {
        return Ok((id.to_owned(), AgentSource::Socket(path.clone())));
    }
    for path in &paths {
        if is_socket(path) {
            return Err(wrong("one agent, or keys, but not both"));
        }
        check(path).map_err(|reason| wrong(&format!("`{}` {reason}", path.display())))?;
    }
    Ok((id.to_owned(), AgentSource::Keys(paths)))
}

/// Where the user's own agent listens, if there is one.
pub fn own_agent(environment: &Environment) -> Option<PathBuf> {
    agent_of(environment).filter(|path| is_socket(path))
}

fn agent_of(environment: &Environment) -> Option<PathBuf> {
    Some(environment.working_directory.join(environment.get("SSH_AUTH_SOCK")?))
}

fn is_socket(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

/// Whether it may be a file to be read.
fn check(path: &Path) -> Result<(), String> {
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Err("is a folder".into()),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err("does not exist".into()),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

/// The fields of a line of CSV; `None` when a quote is not closed.
fn fields(text: &str) -> Option<Vec<String>> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => field.extend(chars.next()),
            '"' if quoted || field.is_empty() => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    fields.push(field);
    fields.retain(|field| !field.is_empty());
    (!quoted).then_some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here(dir: &Path) -> Environment {
        let variables = [("TOKEN", "canary"), ("SSH_AUTH_SOCK", "agent")];
        let variables = variables.map(|(name, value)| (name.into(), value.into())).into();
        Environment { working_directory: dir.to_owned(), variables, ..Environment::default() }
    }

    #[test]
    fn secrets_are_where_the_words_say() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["file", "a,b", "sub"] {
            match name {
                "sub" => std::fs::create_dir(dir.path().join(name)).expect("made"),
                _ => std::fs::write(dir.path().join(name), "canary").expect("written"),
            }
        }
        let file = |name: &str| SecretSource::File(dir.path().join(name));
        let variable = |name: &str| SecretSource::Variable(name.into());
        let command = |text: &str| SecretSource::Command(text.into());
        let check = |text: &str, id: &str, source: SecretSource| {
            assert_eq!(secret(text, &here(dir.path())).expect(text), (id.to_owned(), source), "{text}");
        };
        check("id=x,src=file", "x", file("file"));
        check("type=file,id=x,source=file", "x", file("file"));
        check("id=file", "file", file("file"));
        check("id=TOKEN", "TOKEN", variable("TOKEN"));
        check("id=TOKEN,type=env", "TOKEN", variable("TOKEN"));
        check("id=x,env=TOKEN", "x", variable("TOKEN"));
        check("id=x,env=UNSET", "x", variable("UNSET"));
        check("id=x,type=env,src=TOKEN", "x", variable("TOKEN"));
        check("id=x,\"src=a,b\"", "x", file("a,b"));
        check("id=x,cmd=pass show a,b=c", "x", command("pass show a,b=c"));
        check("id=x,type=cmd,cmd=pass", "x", command("pass"));
        let refuse = |text: &str, expected: &str| {
            let failure = secret(text, &here(dir.path())).expect_err(text);
            assert!(failure.problems[0].message.contains(expected), "{text}: {failure:?}");
        };
        refuse("", "it has no `id`");
        refuse("src=file", "it has no `id`");
        refuse("cmd=x", "it has no `id`");
        refuse("id=x,file", "is no `KEY=VALUE`");
        refuse("id=x,sorce=file", "did you mean `source`?");
        refuse("id=x,src=none", "does not exist");
        refuse("id=none", "does not exist");
        refuse("id=x,src=sub", "is a folder");
        refuse("id=x,src=file,env=TOKEN", "only one of");
        refuse("id=x,type=file,env=TOKEN", "is no file");
        refuse("id=x,type=vault,src=file", "`vault` is no type");
        refuse("id=x,cmd=", "needs a command");
        refuse("id=x,\"src=file", "a quote is not closed");
        let all = secrets(&["id=x,src=file".into(), "id=x,env=TOKEN".into()], &here(dir.path())).expect("fine");
        assert_eq!(all, BTreeMap::from([("x".to_owned(), variable("TOKEN"))]));
    }

    #[test]
    fn agents_are_sockets_or_keys() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        let _listener = std::os::unix::net::UnixListener::bind(path("agent")).expect("bound");
        std::fs::write(path("key"), "k").expect("written");
        std::fs::write(path("other"), "k").expect("written");
        let check = |text: &str, id: &str, source: AgentSource| {
            assert_eq!(agent(text, &here(dir.path())).expect(text), (id.to_owned(), source), "{text}");
        };
        check("default", "default", AgentSource::Socket(path("agent")));
        check("mine", "mine", AgentSource::Socket(path("agent")));
        check("mine=agent", "mine", AgentSource::Socket(path("agent")));
        check("=key", "default", AgentSource::Keys(vec![path("key")]));
        check("mine=key,other", "mine", AgentSource::Keys(vec![path("key"), path("other")]));
        let refuse = |texts: &[&str], environment: &Environment, expected: &str| {
            let texts: Vec<String> = texts.iter().map(|text| text.to_string()).collect();
            let failure = agents(&texts, environment).expect_err(expected);
            assert!(failure.problems[0].message.contains(expected), "{failure:?}");
        };
        let bare = Environment { working_directory: dir.path().to_owned(), ..Environment::default() };
        refuse(&["default"], &bare, "`SSH_AUTH_SOCK` is not set");
        refuse(&["default=none"], &bare, "does not exist");
        refuse(&["default=agent,key"], &bare, "but not both");
        refuse(&["default=key", "default=other"], &bare, "given twice");
        let elsewhere = Environment { working_directory: path("key"), ..here(dir.path()) };
        refuse(&["default"], &elsewhere, "no agent listens at");
    }
}
