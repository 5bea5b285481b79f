//! File: actions on trees, each on an input or on the result of an earlier action.
//!
//! Indices count the inputs first and then the actions, in both forms. A copy from nothing copies from the empty tree,
//! which is an input of its own in our graph ([`Read::reads_nothing`]). Names of owners are looked up in the tree that an
//! action changes, or in an input.

use api::pb;
use api::pb::file_action::Action;
use api::pb::user_opt::User;
use solver::op::{CopyAction, CopyMode, FileAction, FileActionKind, FileOp, Owner, UserRef};

use super::bounds::{NONE, dense, index, mode, number, output, path, text, texts};
use super::error::Fault;

/// A file operation, as it was read.
pub(super) struct Read {
    /// The operation.
    pub op: FileOp,
    /// Whether its last input is one more than it was given: the empty tree.
    pub reads_nothing: bool,
}

/// Reads one that has so many inputs.
pub(super) fn read(file: &pb::FileOp, inputs: usize) -> Result<Read, Fault> {
    if file.actions.is_empty() {
        return Err(Fault::malformed("it has no actions"));
    }
    let copies_nothing =
        |action: &pb::FileAction| matches!(action.action, Some(Action::Copy(_))) && action.secondary_input == NONE;
    let reads_nothing = file.actions.iter().any(copies_nothing);
    let places = Places { inputs, extra: usize::from(reads_nothing) };
    let actions: Vec<FileAction> =
        file.actions.iter().enumerate().map(|(i, action)| read_action(action, i, &places)).collect::<Result<_, _>>()?;
    dense(actions.iter().map(|action| action.output))?;
    if actions.iter().all(|action| action.output.is_none()) {
        return Err(Fault::malformed("it has no output"));
    }
    Ok(Read { op: FileOp { actions }, reads_nothing })
}

/// How indices are counted.
struct Places {
    inputs: usize,
    /// The empty tree stands behind the inputs, if it is needed.
    extra: usize,
}

impl Places {
    /// An index of action `action`, which may name what is before it.
    fn index(&self, what: &'static str, found: i64, action: usize) -> Result<Option<usize>, Fault> {
        let found = index(what, found, self.inputs + action)?;
        Ok(found.map(|found| if found < self.inputs { found } else { found + self.extra }))
    }
}

fn read_action(action: &pb::FileAction, i: usize, places: &Places) -> Result<FileAction, Fault> {
    let input = places.index("an action's input", action.input, i)?;
    let owner = |owner: Option<&pb::ChownOpt>| owner.map(|of| read_owner(of, action.input, places.inputs)).transpose();
    let mut secondary_input = None;
    let kind = match action.action.as_ref().ok_or_else(|| Fault::unsupported("a file action of an unknown kind"))? {
        Action::Copy(copy) => {
            let from = places.index("a copy's source", action.secondary_input, i)?;
            secondary_input = Some(from.unwrap_or(places.inputs));
            FileActionKind::Copy(read_copy(copy, owner(copy.owner.as_ref())?)?)
        }
        Action::Mkfile(file) => FileActionKind::MkFile {
            path: path("the path of a file", &file.path)?,
            mode: mode(file.mode)?,
            data: file.data.clone(),
            owner: owner(file.owner.as_ref())?,
            timestamp: time(file.timestamp),
        },
        Action::Mkdir(dir) => FileActionKind::MkDir {
            path: path("the path of a directory", &dir.path)?,
            mode: mode(dir.mode)?,
            make_parents: dir.make_parents,
            owner: owner(dir.owner.as_ref())?,
            timestamp: time(dir.timestamp),
        },
        Action::Rm(rm) => FileActionKind::Rm {
            path: path("the path that is removed", &rm.path)?,
            allow_not_found: rm.allow_not_found,
            allow_wildcard: rm.allow_wildcard,
        },
        Action::Symlink(link) => {
            if link.oldpath.is_empty() {
                return Err(Fault::malformed("a link points to nothing"));
            }
            FileActionKind::Symlink {
                target: text("what a link points to", &link.oldpath)?,
                path: path("the path of a link", &link.newpath)?,
                owner: owner(link.owner.as_ref())?,
                timestamp: time(link.timestamp),
            }
        }
    };
    Ok(FileAction { input, secondary_input, output: output(action.output)?, kind })
}

fn read_copy(copy: &pb::FileActionCopy, owner: Option<Owner>) -> Result<CopyAction, Fault> {
    let mode = match (copy.mode, copy.mode_str.as_str()) {
        (-1, "") => None,
        (-1, letters) => Some(CopyMode::Symbolic(letters.to_owned())),
        (bits, "") => Some(CopyMode::Bits(mode(bits)?)),
        // Others, who know no letters, leave the bits at 0.
        (0, letters) => Some(CopyMode::Symbolic(letters.to_owned())),
        (bits, letters) => return Err(Fault::malformed(format!("a copy has the modes {bits:o} and `{letters}`"))),
    };
    Ok(CopyAction {
        src: path("a copy's source", &copy.src)?,
        dest: path("a copy's destination", &copy.dest)?,
        owner,
        mode,
        follow_symlinks: copy.follow_symlink,
        dir_contents_only: copy.dir_copy_contents,
        unpack_archives: copy.attempt_unpack_docker_compatibility,
        create_dest_path: copy.create_dest_path,
        allow_wildcard: copy.allow_wildcard,
        allow_empty_wildcard: copy.allow_empty_wildcard,
        include_patterns: texts("a pattern", &copy.include_patterns)?,
        exclude_patterns: texts("a pattern", &copy.exclude_patterns)?,
        required_paths: texts("a path", &copy.required_paths)?,
        timestamp: time(copy.timestamp),
        replace_other_types: copy.always_replace_existing_dest_paths,
    })
}

/// Nanoseconds since 1970; -1 is none.
fn time(nanoseconds: i64) -> Option<i64> {
    (nanoseconds != NONE).then_some(nanoseconds)
}

/// An owner of an action on that input. Nobody is root.
fn read_owner(owner: &pb::ChownOpt, changed: i64, inputs: usize) -> Result<Owner, Fault> {
    let mut places = Vec::new();
    let mut who = |user: Option<&pb::UserOpt>| -> Result<Option<UserRef>, Fault> {
        Ok(match user.map(|user| user.user.as_ref()) {
            None => None,
            Some(None) => Some(UserRef::Id(0)),
            Some(Some(User::ById(id))) => Some(UserRef::Id(*id)),
            Some(Some(User::ByName(named))) if named.name.is_empty() => {
                return Err(Fault::malformed("an owner has an empty name"));
            }
            Some(Some(User::ByName(named))) => {
                places.push(named.input);
                Some(UserRef::Name(text("the name of an owner", &named.name)?))
            }
        })
    };
    let (user, group) = (who(owner.user.as_ref())?, who(owner.group.as_ref())?);
    places.dedup();
    let names_from = match places[..] {
        [] | [NONE] => None,
        [place] if place == changed => None,
        [place] if usize::try_from(place).is_ok_and(|place| place >= inputs) => {
            return Err(Fault::unsupported("an owner whose name is looked up in the result of another action"));
        }
        [place] => index("the input for an owner's name", place, inputs)?,
        _ => return Err(Fault::unsupported("an owner whose names are looked up in two trees")),
    };
    Ok(Owner { user: user.unwrap_or(UserRef::Id(0)), group, names_from })
}

/// Writes one.
pub(super) fn write(file: &FileOp) -> Result<pb::FileOp, Fault> {
    Ok(pb::FileOp { actions: file.actions.iter().map(write_action).collect::<Result<_, _>>()? })
}

fn write_action(action: &FileAction) -> Result<pb::FileAction, Fault> {
    let input = number(action.input);
    let owner = |owner: &Option<Owner>| owner.as_ref().map(|owner| write_owner(owner, input));
    let kind = match &action.kind {
        FileActionKind::Copy(copy) => Action::Copy(write_copy(copy, owner(&copy.owner))?),
        FileActionKind::MkFile { path, mode, data, owner: who, timestamp } => Action::Mkfile(pb::FileActionMkFile {
            path: path.clone(),
            mode: write_mode(*mode)?,
            data: data.clone(),
            owner: owner(who),
            timestamp: write_time(*timestamp)?,
        }),
        FileActionKind::MkDir { path, mode, make_parents, owner: who, timestamp } => {
            Action::Mkdir(pb::FileActionMkDir {
                path: path.clone(),
                mode: write_mode(*mode)?,
                make_parents: *make_parents,
                owner: owner(who),
                timestamp: write_time(*timestamp)?,
            })
        }
        FileActionKind::Rm { path, allow_not_found, allow_wildcard } => Action::Rm(pb::FileActionRm {
            path: path.clone(),
            allow_not_found: *allow_not_found,
            allow_wildcard: *allow_wildcard,
        }),
        FileActionKind::Symlink { target, path, owner: who, timestamp } => Action::Symlink(pb::FileActionSymlink {
            oldpath: target.clone(),
            newpath: path.clone(),
            owner: owner(who),
            timestamp: write_time(*timestamp)?,
        }),
    };
    let (secondary_input, output) = (number(action.secondary_input), number(action.output));
    Ok(pb::FileAction { input, secondary_input, output, action: Some(kind) })
}

fn write_copy(copy: &CopyAction, owner: Option<pb::ChownOpt>) -> Result<pb::FileActionCopy, Fault> {
    let (mode, mode_str) = match &copy.mode {
        None => (-1, String::new()),
        Some(CopyMode::Bits(bits)) => (write_mode(*bits)?, String::new()),
        Some(CopyMode::Symbolic(letters)) => (-1, letters.clone()),
    };
    Ok(pb::FileActionCopy {
        src: copy.src.clone(),
        dest: copy.dest.clone(),
        owner,
        mode,
        follow_symlink: copy.follow_symlinks,
        dir_copy_contents: copy.dir_contents_only,
        attempt_unpack_docker_compatibility: copy.unpack_archives,
        create_dest_path: copy.create_dest_path,
        allow_wildcard: copy.allow_wildcard,
        allow_empty_wildcard: copy.allow_empty_wildcard,
        timestamp: write_time(copy.timestamp)?,
        include_patterns: copy.include_patterns.clone(),
        exclude_patterns: copy.exclude_patterns.clone(),
        always_replace_existing_dest_paths: copy.replace_other_types,
        mode_str,
        required_paths: copy.required_paths.clone(),
    })
}

fn write_mode(mode: u32) -> Result<i32, Fault> {
    i32::try_from(mode).map_err(|_| Fault::unsupported(format!("the mode {mode:o}")))
}

fn write_time(time: Option<i64>) -> Result<i64, Fault> {
    match time {
        Some(NONE) => Err(Fault::unsupported("the time one nanosecond before 1970")),
        time => Ok(time.unwrap_or(NONE)),
    }
}

fn write_owner(owner: &Owner, changed: i64) -> pb::ChownOpt {
    let input = owner.names_from.map_or(changed, |input| number(Some(input)));
    let who = |who: &UserRef| {
        let user = match who {
            UserRef::Id(id) => User::ById(*id),
            UserRef::Name(name) => User::ByName(pb::NamedUserOpt { name: name.clone(), input }),
        };
        pb::UserOpt { user: Some(user) }
    };
    pb::ChownOpt { user: Some(who(&owner.user)), group: owner.group.as_ref().map(who) }
}
