//! The bytes of a secret, from where the user said they are.

use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use zeroize::Zeroizing;

use super::{SecretError, SecretSource, VALUE_MAX_BYTES};

/// What is kept of a failing command's words.
const WORDS_MAX_BYTES: usize = 64 << 10;

/// Reads a value; `None` when its variable is not set.
pub(super) async fn read(id: &str, source: &SecretSource) -> Result<Option<Zeroizing<Vec<u8>>>, SecretError> {
    let value = match source {
        SecretSource::File(path) => file(id, path).await?,
        SecretSource::Variable(name) => match std::env::var_os(name) {
            Some(value) => Zeroizing::new(value.into_vec()),
            None => return Ok(None),
        },
        SecretSource::Command(text) => command(id, text).await?,
    };
    if value.len() > VALUE_MAX_BYTES {
        return Err(SecretError::TooLarge { id: id.into() });
    }
    Ok(Some(value))
}

async fn file(id: &str, path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let failed = |source| SecretError::File { id: id.into(), path: path.to_owned(), source };
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    bounded(file).await.map_err(failed)
}

/// What a command prints. It has the builder's environment and terminal: it may have to ask for a passphrase.
async fn command(id: &str, text: &str) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let failed = |source| SecretError::Start { id: id.into(), source };
    let mut command = tokio::process::Command::new("/bin/sh");
    command.arg("-c").arg(text).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(failed)?;
    let stdout = child.stdout.take().expect("standard output was asked to be a pipe");
    let stderr = child.stderr.take().expect("standard error was asked to be a pipe");
    let value = async {
        let value = bounded(stdout).await?;
        if value.len() > VALUE_MAX_BYTES {
            // It may never end by itself.
            child.start_kill()?;
        }
        Ok(value)
    };
    let (value, words) = tokio::try_join!(value, last_line(stderr)).map_err(failed)?;
    if value.len() > VALUE_MAX_BYTES {
        return Ok(value);
    }
    let status = child.wait().await.map_err(failed)?;
    if !status.success() {
        return Err(SecretError::Command { id: id.into(), how: status.to_string(), words });
    }
    Ok(value)
}

/// All of it, or one byte more than is allowed. The memory is never moved: a move would leave a copy behind.
async fn bounded(from: impl AsyncRead + Unpin) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut value = Zeroizing::new(Vec::with_capacity(VALUE_MAX_BYTES + 1));
    let mut from = from.take(VALUE_MAX_BYTES as u64 + 1);
    while value.len() <= VALUE_MAX_BYTES && from.read_buf(&mut *value).await? > 0 {}
    Ok(value)
}

/// The last line of what a program says.
pub(super) async fn last_line(mut from: impl AsyncRead + Unpin) -> io::Result<String> {
    let mut said = Vec::new();
    while from.read_buf(&mut said).await? > 0 {
        if said.len() > 2 * WORDS_MAX_BYTES {
            said.drain(..said.len() - WORDS_MAX_BYTES);
        }
    }
    let said = String::from_utf8_lossy(&said);
    let line = said.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    Ok(line.chars().flat_map(char::escape_debug).collect())
}
