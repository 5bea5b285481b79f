//! What stands beside an operation: the platform, which is part of it, and the metadata, which are not.
//!
//! Of a description, one key is ours: the words that people see. The whole of it stays with the operation
//! ([`super::Operation::meta`]), as do names of capabilities and of groups.

use std::collections::BTreeMap;

use api::pb;
use solver::op::{OpMeta, Platform, ProgressGroup};

use super::bounds::text;
use super::error::Fault;

/// The key under which clients put the words that people see.
pub(super) const CUSTOM_NAME: &str = "llb.customname";

/// The platform of an operation, in its usual spelling.
pub(super) fn read_platform(platform: &pb::Platform) -> Result<Platform, Fault> {
    if platform.architecture.is_empty() {
        return Err(Fault::malformed("its platform has no architecture"));
    }
    let os = if platform.os.is_empty() { "linux" } else { &platform.os };
    let usual = oci::model::Platform::normalised(os, &platform.architecture, &platform.variant);
    Ok(Platform {
        os: text("the platform", &usual.os)?,
        architecture: text("the platform", &usual.architecture)?,
        variant: text("the platform", &usual.variant)?,
        os_version: text("the platform", &platform.os_version)?,
        os_features: platform.os_features.clone(),
    })
}

/// Writes it.
pub(super) fn write_platform(platform: &Platform) -> pb::Platform {
    pb::Platform {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone(),
        os_version: platform.os_version.clone(),
        os_features: platform.os_features.clone(),
    }
}

/// The words that people see.
pub(super) fn custom_name(meta: &pb::OpMetadata) -> Option<&str> {
    meta.description.get(CUSTOM_NAME).map(String::as_str).filter(|name| !name.is_empty())
}

/// What we heed of the metadata of an operation with that name.
pub(super) fn read(meta: &pb::OpMetadata, name: &str) -> OpMeta {
    OpMeta {
        description: custom_name(meta).unwrap_or(name).to_owned(),
        ignore_cache: meta.ignore_cache,
        progress_group: meta.progress_group.as_ref().map(|group| ProgressGroup {
            id: group.id.clone(),
            name: group.name.clone(),
            weak: group.weak,
        }),
        export_cache: meta.export_cache.as_ref().map(|export| export.value),
    }
}

/// Writes it, beside what the operation needs.
pub(super) fn write(meta: &OpMeta, caps: BTreeMap<String, bool>) -> pb::OpMetadata {
    let words = Some(&meta.description).filter(|text| !text.is_empty());
    pb::OpMetadata {
        ignore_cache: meta.ignore_cache,
        description: words.into_iter().map(|text| (CUSTOM_NAME.to_owned(), text.clone())).collect(),
        export_cache: meta.export_cache.map(|value| pb::ExportCache { value }),
        caps: caps.into_iter().collect(),
        progress_group: meta.progress_group.as_ref().map(|group| pb::ProgressGroup {
            id: group.id.clone(),
            name: group.name.clone(),
            weak: group.weak,
        }),
    }
}
