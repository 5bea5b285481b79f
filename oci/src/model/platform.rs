//! Platforms: `linux/arm64/v8`. image-spec image-index.md, "platform"; names normalised as containerd does.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// For which machine an image is. Always normalised: `x86_64` is `amd64`, `aarch64` is `arm64` without variant `v8`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, `arm`, `386`, `riscv64`, ….
    pub architecture: String,
    /// `v7`, or empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// Windows only.
    #[serde(default, rename = "os.version", skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// Windows only.
    #[serde(default, rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
}

impl Platform {
    /// The machine this program was compiled for.
    pub fn native() -> Self {
        Self::normalised("linux", std::env::consts::ARCH, "")
    }

    /// A platform in its usual spelling.
    pub fn normalised(os: &str, architecture: &str, variant: &str) -> Self {
        let (architecture, variant) = match (architecture.to_ascii_lowercase().as_str(), variant) {
            ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64".to_owned(), ""),
            ("x86_64" | "x86-64" | "amd64", other) => ("amd64".to_owned(), other),
            ("i386" | "i686" | "x86" | "386", _) => ("386".to_owned(), ""),
            ("aarch64" | "arm64", "8" | "v8") => ("arm64".to_owned(), ""),
            ("aarch64" | "arm64", other) => ("arm64".to_owned(), other),
            ("armhf", _) => ("arm".to_owned(), "v7"),
            ("armel", _) => ("arm".to_owned(), "v6"),
            ("arm", "" | "7") => ("arm".to_owned(), "v7"),
            ("arm", "5") => ("arm".to_owned(), "v5"),
            ("arm", "6") => ("arm".to_owned(), "v6"),
            ("arm", "8") => ("arm".to_owned(), "v8"),
            ("powerpc64" | "ppc64le", other) => ("ppc64le".to_owned(), other),
            (other, variant) => (other.to_owned(), variant),
        };
        Self { os: os.to_ascii_lowercase(), architecture, variant: variant.to_owned(), ..Self::default() }
    }

    /// Whether an image for `self` is the one to use on `wanted`: equal after normalisation, an absent variant of the
    /// image standing for any.
    pub fn serves(&self, wanted: &Platform) -> bool {
        let mine = Self::normalised(&self.os, &self.architecture, &self.variant);
        let wanted = Self::normalised(&wanted.os, &wanted.architecture, &wanted.variant);
        mine.os == wanted.os
            && mine.architecture == wanted.architecture
            && (mine.variant == wanted.variant || mine.variant.is_empty())
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let parts: Vec<&str> = text.split('/').collect();
        let word = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        };
        if !parts.iter().all(|part| word(part)) {
            return Err(PlatformError { text: text.into() });
        }
        match parts[..] {
            ["linux" | "windows" | "darwin" | "freebsd"] => Err(PlatformError { text: text.into() }),
            [architecture] => Ok(Self::normalised("linux", architecture, "")),
            [os, architecture] => Ok(Self::normalised(os, architecture, "")),
            [os, architecture, variant] => Ok(Self::normalised(os, architecture, variant)),
            _ => Err(PlatformError { text: text.into() }),
        }
    }
}

/// Text that is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a platform: `os/architecture[/variant]` is expected, like `linux/arm64`")]
pub struct PlatformError {
    /// The text.
    pub text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_read_in_every_usual_spelling() {
        let check = |text: &str, want: Option<&str>| {
            let parsed: Result<Platform, _> = text.parse();
            assert_eq!(parsed.ok().map(|platform| platform.to_string()).as_deref(), want, "{text}");
        };
        check("linux/amd64", Some("linux/amd64"));
        check("linux/x86_64", Some("linux/amd64"));
        check("Linux/AMD64/v1", Some("linux/amd64"));
        check("linux/amd64/v3", Some("linux/amd64/v3"));
        check("amd64", Some("linux/amd64"));
        check("aarch64", Some("linux/arm64"));
        check("linux/arm64/v8", Some("linux/arm64"));
        check("linux/arm", Some("linux/arm/v7"));
        check("linux/arm/6", Some("linux/arm/v6"));
        check("linux/armhf", Some("linux/arm/v7"));
        check("linux/armel", Some("linux/arm/v6"));
        check("linux/i686", Some("linux/386"));
        check("linux/riscv64", Some("linux/riscv64"));
        check("windows/amd64", Some("windows/amd64"));
        for bad in ["", "linux", "/amd64", "linux/", "linux/amd64/", "a/b/c/d", "linux/am d64", "linux/../x"] {
            check(bad, None);
        }
    }

    #[test]
    fn an_image_serves_its_own_platform_and_one_without_variant_serves_all() {
        let check = |image: &str, wanted: &str, want: bool| {
            let (image, wanted): (Platform, Platform) = (image.parse().unwrap(), wanted.parse().unwrap());
            assert_eq!(image.serves(&wanted), want, "{image} on {wanted}");
        };
        check("linux/amd64", "linux/amd64", true);
        check("linux/amd64", "linux/amd64/v2", true);
        check("linux/amd64/v2", "linux/amd64", false);
        check("linux/arm64/v8", "linux/arm64", true);
        check("linux/arm/v6", "linux/arm/v7", false);
        check("linux/amd64", "linux/arm64", false);
        check("windows/amd64", "linux/amd64", false);
    }

    #[test]
    fn windows_fields_survive() {
        let text = r#"{"os":"windows","architecture":"amd64","os.version":"10.0.1","os.features":["win32k"]}"#;
        assert_eq!(serde_json::to_string(&serde_json::from_str::<Platform>(text).unwrap()).unwrap(), text);
    }
}
