//! Keys that the `aws` command keeps.
//!
//! In: the texts of `~/.aws/credentials` and `~/.aws/config`, and a profile. Out: its static keys. Deliberately absent:
//! profiles that get theirs elsewhere (`role_arn`, `sso_session`, `credential_process`): `aws configure
//! export-credentials` prints what those give, as variables.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use oci::registry::Secret;

use super::S3Keys;

/// Where keys may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// `AWS_SHARED_CREDENTIALS_FILE`, or `~/.aws/credentials`.
    pub credentials: Option<PathBuf>,
    /// `AWS_CONFIG_FILE`, or `~/.aws/config`.
    pub config: Option<PathBuf>,
    /// `AWS_PROFILE`, or `default`.
    pub profile: String,
}

impl Files {
    /// Where variables say that they are; `variable` gives the value of one that is set and not empty.
    pub fn of(variable: impl Fn(&str) -> Option<String>) -> Self {
        let home = variable("HOME").map(|home| Path::new(&home).join(".aws"));
        let file = |name: &str, usual: &str| {
            variable(name).map(PathBuf::from).or_else(|| home.as_ref().map(|home| home.join(usual)))
        };
        Self {
            credentials: file("AWS_SHARED_CREDENTIALS_FILE", "credentials"),
            config: file("AWS_CONFIG_FILE", "config"),
            profile: variable("AWS_PROFILE").unwrap_or_else(|| "default".into()),
        }
    }

    /// The profile's keys, if it has any. A file that is not there says nothing.
    ///
    /// # Errors
    /// A file that is there and cannot be read, with its path.
    pub fn keys(&self) -> Result<Option<S3Keys>, std::io::Error> {
        let section = self.profile.clone();
        let in_config = if section == "default" { section.clone() } else { format!("profile {section}") };
        for (file, section) in [(&self.credentials, section), (&self.config, in_config)] {
            let Some(file) = file else { continue };
            let text = match std::fs::read_to_string(file) {
                Ok(text) => text,
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => continue,
                Err(error) => {
                    return Err(std::io::Error::new(
                        error.kind(),
                        format!("cannot read `{}`: {error}", file.display()),
                    ));
                }
            };
            if let Some(keys) = keys_in(&text, &section) {
                return Ok(Some(keys));
            }
        }
        Ok(None)
    }
}

/// The static keys of a section of a text of lines `name = value`.
fn keys_in(text: &str, section: &str) -> Option<S3Keys> {
    let mut inside = false;
    let mut values = HashMap::new();
    for line in text.lines() {
        let trimmed = line.trim();
        if let Some(name) = trimmed.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(name, _)| name) {
            inside = name.split_whitespace().eq(section.split_whitespace());
        // An indented line belongs to a value that has lines of its own.
        } else if inside
            && !line.starts_with([' ', '\t', '#', ';'])
            && let Some((name, value)) = trimmed.split_once('=')
        {
            values.insert(name.trim().to_ascii_lowercase(), value.trim());
        }
    }
    let secret = |name: &str| values.get(name).filter(|value| !value.is_empty()).map(|value| Secret::new(*value));
    Some(S3Keys {
        access_key_id: secret("aws_access_key_id")?,
        secret_access_key: secret("aws_secret_access_key")?,
        session_token: secret("aws_session_token"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_the_profile() {
        let text = "# mine\n[default]\naws_access_key_id = A\naws_secret_access_key=s=1\n\n[ work ]\r\n\
            aws_access_key_id=W\r\naws_secret_access_key = w \r\naws_session_token = t\n\
            [half]\naws_access_key_id = H\n[nested]\ns3 =\n  aws_access_key_id = N\n  aws_secret_access_key = N\n\
            [profile p]\nAWS_ACCESS_KEY_ID = P\naws_secret_access_key = p\n";
        let shown = |section: &str| {
            let keys = keys_in(text, section)?;
            let token = keys.session_token.as_ref().map(|token| token.expose().to_owned());
            Some((keys.access_key_id.expose().to_owned(), keys.secret_access_key.expose().to_owned(), token))
        };
        let keys =
            |id: &str, secret: &str, token: Option<&str>| Some((id.into(), secret.into(), token.map(Into::into)));
        assert_eq!(shown("default"), keys("A", "s=1", None));
        assert_eq!(shown("work"), keys("W", "w", Some("t")));
        assert_eq!(shown("profile p"), keys("P", "p", None));
        for none in ["half", "nested", "p", "other", ""] {
            assert_eq!(shown(none), None, "{none}");
        }
    }

    #[test]
    fn files_are_where_variables_say() {
        let dir = tempfile::tempdir().unwrap();
        let set = |pairs: &[(&str, &str)]| {
            let pairs: HashMap<String, String> =
                pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            Files::of(move |name| pairs.get(name).cloned())
        };
        let home = dir.path().to_str().unwrap();
        assert_eq!(set(&[]).keys().unwrap(), None);
        assert_eq!(set(&[("HOME", home)]).keys().unwrap(), None);
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write(".aws/config", "[profile x]\naws_access_key_id=C\naws_secret_access_key=c\n");
        write(".aws/credentials", "[default]\naws_access_key_id=D\naws_secret_access_key=d\n");
        write("other", "[default]\naws_access_key_id=O\naws_secret_access_key=o\n");
        let id = |files: Files| files.keys().unwrap().map(|keys| keys.access_key_id.expose().to_owned());
        assert_eq!(id(set(&[("HOME", home)])).as_deref(), Some("D"));
        assert_eq!(id(set(&[("HOME", home), ("AWS_PROFILE", "x")])).as_deref(), Some("C"));
        assert_eq!(id(set(&[("HOME", home), ("AWS_PROFILE", "y")])), None);
        let other = dir.path().join("other");
        let other = [("HOME", home), ("AWS_SHARED_CREDENTIALS_FILE", other.to_str().unwrap())];
        assert_eq!(id(set(&other)).as_deref(), Some("O"));
        let error = set(&[("AWS_SHARED_CREDENTIALS_FILE", home)]).keys().unwrap_err();
        assert!(error.to_string().contains(home), "{error}");
    }
}
