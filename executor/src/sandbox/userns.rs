//! A step's own user namespace, from the sides of the helper and of the step's set-up; see [`crate::userns`].
//!
//! The set-up stays root of the machine, as what it mounts must be mounted by it: overlays whose marks are the store's
//! (`trusted.*`), devices, `/sys`. Only files that it makes are the namespace's root's from the beginning. What comes
//! from the store is seen through id-mapped mounts ([`Mapping`]), one for all layers together and one per upper
//! directory. At the end the step enters the namespace, and the rights are gone.
//!
//! The mounts stay the machine's, so nothing in the step can change them, whatever capabilities it has in its
//! namespace. One that may mount gets copies that are its own, in which the kernel keeps every flag locked.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::thread::{CapabilitySets, LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};

use super::beneath::{Root, file_type};
use super::mount::{MountError, Stage, attach, attributes};
use super::plan::Flags;
use super::secret::{AgentSocket, SecretFile};
use super::spec::{Handed, Network};
use super::sys;
use super::trouble::{Trouble, with};
use super::wire::Failure;
use crate::userns::IdMap;
use crate::userns::make::{self, Made};

/// A user namespace to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespace {
    /// Its ids.
    pub ids: IdMap,
    /// The network that it owns.
    pub network: Owned,
}

/// The network that a user namespace owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Owned {
    /// None.
    Nothing,
    /// A new one.
    New,
    /// This one, which was prepared; so the namespace is there already.
    Prepared(Handed),
}

impl UserNamespace {
    /// For a step with this network.
    pub fn of(ids: &IdMap, network: Network) -> Self {
        let network = match network {
            Network::Host => Owned::Nothing,
            Network::None => Owned::New,
            Network::Joined(namespace) => Owned::Prepared(namespace),
        };
        Self { ids: ids.clone(), network }
    }
}

impl fmt::Display for UserNamespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let network = match self.network {
            Owned::Nothing => "",
            Owned::New => ", new namespace network",
            Owned::Prepared(_) => " of the prepared network",
        };
        match self.ids.is_identity() {
            true => write!(f, "user namespace of the same ids{network}"),
            false => write!(f, "user namespace of {}{network}", self.ids),
        }
    }
}

/// Makes the user namespace. The helper's.
pub(super) fn make(wanted: &UserNamespace, handed: &[OwnedFd]) -> Result<Made, Failure> {
    let failed = |detail| Failure { act: wanted.to_string(), is_exec: false, detail, errno: 0 };
    let made = match wanted.network {
        Owned::Nothing => make::make(&wanted.ids, false),
        Owned::New => make::make(&wanted.ids, true),
        Owned::Prepared(namespace) => {
            let network = namespace.among(handed).ok_or_else(|| failed("a descriptor did not arrive".into()))?;
            make::owner_of(network).map(|user| Made { user, network: None })
        }
    };
    made.map_err(|error| failed(error.line()))
}

/// What a step's set-up knows of the user namespace that it ends up in; nothing where there is none.
pub(super) struct Users {
    made: Option<Made>,
    ids: Option<IdMap>,
}

impl Users {
    pub fn of(made: Option<Made>) -> Self {
        Self { made, ids: None }
    }

    fn made(&self) -> &Made {
        self.made.as_ref().expect("the helper has made the namespace that the plan asks for")
    }

    /// How mounts of the store are mapped, if they are.
    pub fn mapping(&self) -> Option<Mapping<'_>> {
        // Where every id is itself nothing is to be mapped.
        self.made.as_ref().filter(|_| self.ids.is_some()).map(|made| Mapping(made.user.as_fd()))
    }

    /// Makes files as the namespace's root from now on.
    pub fn own_files(&mut self, ids: &IdMap) -> Result<(), Trouble> {
        own_files(ids)?;
        self.ids = Some(ids.clone());
        Ok(())
    }

    /// Goes to the network that came with the namespace.
    pub fn join_network(&self) -> Result<(), Trouble> {
        let network = self.made().network.as_ref().ok_or_else(|| "no network came with the namespace".to_owned())?;
        Ok(move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?)
    }

    /// As whom a file is to be made outside.
    pub fn file(&self, file: &SecretFile) -> Result<SecretFile, Trouble> {
        let (uid, gid) = self.outside(file.uid, file.gid)?;
        Ok(SecretFile { uid, gid, ..file.clone() })
    }

    /// As whom a socket is to be made outside.
    pub fn socket(&self, socket: &AgentSocket) -> Result<AgentSocket, Trouble> {
        let (uid, gid) = self.outside(socket.uid, socket.gid)?;
        Ok(AgentSocket { uid, gid, ..socket.clone() })
    }

    fn outside(&self, uid: u32, gid: u32) -> Result<(u32, u32), Trouble> {
        let Some(ids) = &self.ids else { return Ok((uid, gid)) };
        let missing = || Trouble::from(format!("there is no owner {uid}:{gid} among {ids}"));
        Ok((ids.user(uid).ok_or_else(missing)?, ids.group(gid).ok_or_else(missing)?))
    }

    /// Becomes the namespace's root, for good; with `owning`, mounts and host name become the namespace's too. What comes
    /// back is the root directory as it is seen from then on: mounts that became the namespace's are others than before.
    pub fn enter(&mut self, owning: bool, terminal: bool) -> Result<Root, Trouble> {
        let made = self.made.take().ok_or_else(|| "there is no user namespace".to_owned())?;
        let root = self.outside(0, 0)?;
        let mapped = self.ids.take().is_some();
        // Of the machine's root, a pipe could not be opened anew by its name, `/dev/stdout`.
        for stdio in [io::stdin().as_fd(), io::stdout().as_fd(), io::stderr().as_fd()] {
            if mapped && (terminal || file_type(stdio)? == FileType::Fifo) {
                let (uid, gid) = (Uid::from_raw(root.0), Gid::from_raw(root.1));
                rustix::fs::fchown(stdio, Some(uid), Some(gid)).map_err(with("give away the standard streams"))?;
            }
        }
        move_into_link_name_space(made.user.as_fd(), Some(LinkNameSpaceType::User))?;
        // Where every id is itself, this is its root already.
        if mapped {
            rustix::thread::set_thread_groups(&[]).map_err(with("leave all groups"))?;
            rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).map_err(with("become its group 0"))?;
            rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).map_err(with("become its user 0"))?;
        }
        if owning {
            sys::unshare_mounts_and_hostname().map_err(with("take mounts and host name along"))?;
        }
        Ok(Root::new(rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)?)
    }
}

/// Makes files as the root of a namespace with these ids from now on, with all other rights as they are.
pub fn own_files(ids: &IdMap) -> Result<(), Trouble> {
    let (Some(uid), Some(gid)) = (ids.user(0), ids.group(0)) else {
        return Err("the namespace has no root".to_owned().into());
    };
    sys::set_file_owner(uid, gid)?;
    // The rights over files went along with the id.
    let own = rustix::thread::capabilities(None)?;
    Ok(rustix::thread::set_capabilities(None, CapabilitySets { effective: own.permitted, ..own })?)
}

/// Mounts that show the files of the store with the owners that they have in a user namespace.
#[derive(Clone, Copy)]
pub struct Mapping<'a>(BorrowedFd<'a>);

impl<'a> Mapping<'a> {
    /// As this namespace has them.
    pub fn of(namespace: BorrowedFd<'a>) -> Self {
        Self(namespace)
    }

    /// A mapped mount of what is at `place`; nowhere yet. Device nodes in it are only files.
    pub fn mount(self, place: impl AsFd, flags: Flags) -> Result<OwnedFd, MountError> {
        let how = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        let tree = open_tree(&place, "", how).map_err(MountError::new("clone the mount"))?;
        let set = attributes(Flags { nodev: true, ..flags }).bits();
        match sys::map_mount(&tree, set.into(), self.0) {
            Ok(()) => Ok(tree),
            Err(error) => {
                let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                Err(MountError::new(explained(&place, errno))(errno))
            }
        }
    }

    /// The same for a directory that overlayfs is to use: only what is in the mount namespace can be.
    pub fn attached(self, place: OwnedFd, stage: &mut Stage) -> Result<OwnedFd, MountError> {
        let tree = self.mount(place, Flags::default())?;
        attach(&tree, stage.directory()?)?;
        Ok(tree)
    }
}

/// Why owners cannot be mapped.
fn explained(place: impl AsFd, errno: Errno) -> String {
    let kind = rustix::fs::fstatfs(place).map_or(0, |facts| facts.f_type);
    let name = KINDS.iter().find(|(known, _)| i64::from(*known) == kind as i64);
    let name = name.map_or_else(|| format!("this file system ({kind:#x})"), |(_, name)| (*name).to_owned());
    match errno {
        Errno::INVAL => format!(
            "map the owners of files: {name} does not take id-mapped mounts with this kernel; keep the store on ext4, xfs or \
             btrfs (`--root DIR`), or use `--userns=host`"
        ),
        Errno::NOSYS => "map the owners of files: that takes Linux 5.12; use `--userns=host`".into(),
        _ => "map the owners of files".into(),
    }
}

/// Names of file systems on which people have stores and that may not be mapped. statfs(2)
const KINDS: [(u32, &str); 8] = [
    (0x794c_7630, "overlayfs"),
    (0x6969, "NFS"),
    (0x6573_5546, "FUSE"),
    (0x0102_1994, "tmpfs"),
    (0x0102_1997, "9p"),
    (0x2fc1_2fc1, "ZFS"),
    (0x9123_683e, "btrfs"),
    (0x5846_5342, "xfs"),
];
