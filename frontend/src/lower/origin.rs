//! Where an instruction comes from: this file, or a trigger of a base image.

use std::ops::Range;

use crate::error::Diagnostic;
use crate::span::Span;

/// Where an instruction comes from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// It stands in the file; its spans are places of the file.
    File,
    /// It stands in the file as a trigger of the stage that this one stands on.
    StageTrigger,
    /// It stands in the config of a base image; its spans are places of another text.
    Trigger {
        /// The image's name in the FROM line.
        base: Span,
        /// The trigger.
        text: String,
    },
}

impl Origin {
    /// Whether it runs because of ONBUILD.
    pub fn is_trigger(&self) -> bool {
        !matches!(self, Self::File)
    }

    /// The place of an operation, when it has one in the file.
    pub fn place(&self, span: Span) -> Option<Range<usize>> {
        match self {
            Self::File | Self::StageTrigger => Some(span.range()),
            Self::Trigger { .. } => None,
        }
    }

    /// A finding, moved to where people can see it.
    pub fn show(&self, found: Diagnostic) -> Diagnostic {
        match self {
            Self::File | Self::StageTrigger => found,
            Self::Trigger { base, text } => {
                let first_line: String = text.lines().next().unwrap_or_default().chars().take(80).collect();
                Diagnostic {
                    message: format!("in a trigger of the base image: {}", found.message),
                    span: Some(base.range()),
                    label: format!("this image says `ONBUILD {first_line}`"),
                    ..found
                }
            }
        }
    }
}
