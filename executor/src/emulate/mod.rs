//! Steps of other architectures, by QEMU's user emulation.
//!
//! In: the platforms of a build's steps. Out: per platform one [`Way`], found once and before anything runs, and what a
//! step gets by it ([`Emulated`]). Nothing of it is in a key: the same step has the same result whoever runs it.
//!
//! | way | when | what the step gets |
//! |---|---|---|
//! | native | the processor runs its programs ([`native`]) | nothing |
//! | registered | binfmt_misc of this machine has a handler ([`handlers`]) | nothing, or the emulator at the handler's path |
//! | private | an emulator is installed ([`find`]), Linux 6.7 | a user namespace with a handler ([`private`]) |
//! | injected | likewise, and the kernel is older | the emulator in front of its command ([`inject`]) |
//!
//! Deliberately absent: registering anything on the machine, which is its administrator's.

pub mod arch;
mod error;
pub mod find;
pub mod handlers;
pub(crate) mod inject;
pub mod native;
pub(crate) mod private;
mod survey;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use oci::model::Platform;

pub use arch::Arch;
pub use error::EmulateError;
pub use find::Emulator;
pub use handlers::Handler;
pub use native::Native;
pub(crate) use private::become_probe_if_asked;
pub use survey::{Means, survey};

use crate::isolation::Rung;
use crate::sandbox;
use crate::sandbox::spec::{Bind, BindSource, Mount, MountKind, ProcessSpec};
use crate::steps::StepSettings;
use crate::userns::IdMap;
use find::Found;

/// Which of the ways that need an emulator is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// A handler of the machine, else a private one, else none.
    #[default]
    Auto,
    /// A private one, whatever is registered.
    Private,
    /// None: the emulator in front of the command.
    Injected,
}

impl std::str::FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "private" => Ok(Self::Private),
            "injected" => Ok(Self::Injected),
            _ => Err(format!("`{text}` is none of auto, private, injected")),
        }
    }
}

/// How steps of a platform run, as far as can be seen without trying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// By the processor, which may lack an instruction that they use.
    Native(Option<&'static str>),
    /// By a handler of the machine; of one that cannot be seen it is only known that it works.
    Registered(Option<Handler>),
    /// By an emulator that is installed.
    Installed(Emulator),
}

/// How steps of a platform run here.
///
/// # Errors
/// When they cannot.
pub fn way(platform: &Platform, wanted: Wanted, rung: Rung) -> Result<Way, EmulateError> {
    let failed = EmulateError::io;
    let arch = Arch::of(platform);
    let runs_here = |arch: Option<&Arch>| match arch {
        Some(arch) => native::try_out(arch).map_err(failed("run a trial program")),
        None => Ok(false),
    };
    let own = Platform::native();
    let mut tried = Ok(false);
    let try_out = || {
        tried = runs_here(arch);
        matches!(tried, Ok(true))
    };
    let found = native::runs(platform, &own, native::processor_flags, try_out);
    tried?;
    match found {
        Native::Yes => return Ok(Way::Native(None)),
        Native::Weaker(lacks) => return Ok(Way::Native(Some(lacks))),
        Native::No => {}
    }
    let Some(arch) = arch else { return Err(EmulateError::Unknown { platform: platform.to_string() }) };
    if wanted == Wanted::Auto {
        let handler = handlers::registered(Path::new(handlers::DIRECTORY), arch).map_err(failed("read binfmt_misc"))?;
        match handler {
            Some(handler) if handler.fixed => return Ok(Way::Registered(Some(handler))),
            // Opened in the root directory of the step, where it is bound.
            Some(handler) if rung != Rung::Chroot && find::is_static(&handler.interpreter).unwrap_or(false) => {
                return Ok(Way::Registered(Some(handler)));
            }
            // In a container nothing of it is seen, and it works all the same.
            None if runs_here(Some(arch))? => return Ok(Way::Registered(None)),
            _ => {}
        }
    }
    let path = std::env::var_os("PATH");
    match find::find(arch, path.as_deref()).map_err(failed("look for an emulator"))? {
        Found::Here(_) if rung == Rung::Chroot => Err(EmulateError::Chroot { platform: platform.to_string() }),
        Found::Here(emulator) => Ok(Way::Installed(emulator)),
        Found::Shared(path) => Err(EmulateError::Shared { platform: platform.to_string(), path }),
        Found::None => Err(EmulateError::Missing { platform: platform.to_string(), names: arch.emulators().to_vec() }),
    }
}

/// What a step gets to run here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Emulated {
    /// Nothing.
    Not,
    /// The emulator of a handler, at its path.
    Bound(PathBuf),
    /// A user namespace with handlers of its own; the step's ids, or those of the builder.
    Private(Vec<Emulator>, IdMap),
    /// The emulator in front of its command.
    Injected(Emulator),
}

impl Emulated {
    /// Puts it into what the sandbox is asked for, which is otherwise complete.
    pub fn give(&self, spec: &mut ProcessSpec) {
        let bind = |path: &Path, target: String| {
            let bind = Bind { source: BindSource::Path(path.to_owned()), subpath: String::new(), readonly: true };
            Mount { target, kind: MountKind::Bind(bind) }
        };
        match self {
            Self::Not => {}
            Self::Bound(path) => spec.mounts.push(bind(path, path.to_string_lossy().into_owned())),
            Self::Private(emulators, ids) => {
                spec.emulators.clone_from(emulators);
                spec.user_namespace.get_or_insert_with(|| ids.clone());
            }
            Self::Injected(emulator) => {
                let place = inject::place(emulator);
                spec.mounts.push(bind(&emulator.path, place.clone()));
                spec.through = Some(place);
            }
        }
    }
}

/// What a step of `platform` will get, unless what has to be tried fails.
///
/// # Errors
/// When it cannot run.
pub(crate) fn foreseen(platform: &Platform, settings: &StepSettings) -> Result<Emulated, EmulateError> {
    Ok(match way(platform, settings.emulation, settings.rung)? {
        Way::Native(_) | Way::Registered(None | Some(Handler { fixed: true, .. })) => Emulated::Not,
        Way::Registered(Some(handler)) => Emulated::Bound(handler.interpreter),
        Way::Installed(emulator) if settings.emulation == Wanted::Injected => Emulated::Injected(emulator),
        Way::Installed(emulator) => {
            let ids = IdMap::identity().map_err(EmulateError::io("read the ids of this process"))?;
            Emulated::Private(vec![emulator], ids)
        }
    })
}

/// How the steps of a build run: decided once per platform.
pub(crate) struct Emulation {
    wanted: Wanted,
    rung: Rung,
    /// Whether steps are in user namespaces anyway, and lose nothing in one.
    confined: bool,
    expected: OnceLock<Vec<Platform>>,
    decided: Mutex<BTreeMap<Platform, Emulated>>,
}

/// What was decided, and what is to be said of it.
pub(crate) struct Decided {
    pub emulated: Emulated,
    /// The ids of the user namespace that some of the build's steps run in for that.
    pub private: Option<IdMap>,
    /// What is to be said, when it was decided now.
    pub notices: Vec<String>,
}

impl Emulation {
    /// For steps with these settings.
    pub fn new(steps: &StepSettings) -> Self {
        let confined = steps.user_namespace.is_some() || crate::rootless::Surroundings::here().user_namespace;
        Self {
            wanted: steps.emulation,
            rung: steps.rung,
            confined,
            expected: OnceLock::new(),
            decided: Mutex::default(),
        }
    }

    /// Says which platforms steps will be of. Does nothing when that was said.
    pub fn expect(&self, platforms: Vec<Platform>) {
        self.expected.get_or_init(|| platforms);
    }

    /// Decides for `platform`, and the first time for all that are expected, by trying. Blocking.
    ///
    /// # Errors
    /// When steps of one of these cannot run.
    pub fn decide(&self, platform: &Platform, helper: &sandbox::Settings) -> Result<Decided, EmulateError> {
        let mut decided = self.decided.lock().unwrap_or_else(PoisonError::into_inner);
        let mut notices = Vec::new();
        let expected = self.expected.get().into_iter().flatten();
        for platform in expected.chain([platform]) {
            if !decided.contains_key(platform) {
                let (emulated, notice) = self.decide_one(platform, helper)?;
                tracing::debug!(%platform, ?emulated, "emulation");
                notices.extend(notice);
                decided.insert(platform.clone(), emulated);
            }
        }
        let private = decided.values().find_map(|emulated| match emulated {
            Emulated::Private(_, ids) => Some(ids.clone()),
            _ => None,
        });
        Ok(Decided { emulated: decided.get(platform).cloned().unwrap_or(Emulated::Not), private, notices })
    }

    fn decide_one(
        &self,
        platform: &Platform,
        helper: &sandbox::Settings,
    ) -> Result<(Emulated, Option<String>), EmulateError> {
        let emulator = match way(platform, self.wanted, self.rung)? {
            Way::Native(None) => return Ok((Emulated::Not, None)),
            Way::Native(Some(lacks)) => {
                let notice = format!(
                    "steps for `{platform}` run on this machine's processor, which lacks `{lacks}`: a program that uses it is \
                     killed (SIGILL)"
                );
                return Ok((Emulated::Not, Some(notice)));
            }
            Way::Registered(Some(Handler { interpreter, fixed: false, .. })) => {
                return Ok((Emulated::Bound(interpreter), None));
            }
            Way::Registered(_) => return Ok((Emulated::Not, None)),
            Way::Installed(emulator) => emulator,
        };
        let shown = emulator.path.display().to_string();
        let reason = match self.wanted {
            Wanted::Injected => "it was asked for".to_owned(),
            Wanted::Auto | Wanted::Private => {
                let emulators = vec![emulator.clone()];
                match private::probe(helper, &emulators) {
                    Ok(()) => {
                        let ids = IdMap::identity().map_err(EmulateError::io("read the ids of this process"))?;
                        let notice = (!self.confined).then(|| {
                            format!(
                                "steps for `{platform}` are emulated by `{shown}` in a user namespace, as no handler is \
                                 registered on this machine: they cannot make device nodes"
                            )
                        });
                        return Ok((Emulated::Private(emulators, ids), notice));
                    }
                    Err(reason) if self.wanted == Wanted::Private => {
                        return Err(EmulateError::Private { platform: platform.to_string(), reason });
                    }
                    Err(reason) => reason,
                }
            }
        };
        let notice = format!(
            "`{shown}` is put in front of the commands of steps for `{platform}` ({reason}): programs that these start are \
             not emulated; a handler registered on this machine would do that"
        );
        Ok((Emulated::Injected(emulator), Some(notice)))
    }
}

/// A platform as this room has it.
pub fn platform_of(platform: &solver::op::Platform) -> Platform {
    Platform::normalised(&platform.os, &platform.architecture, &platform.variant)
}
