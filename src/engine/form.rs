//! Which of overlayfs's two forms the layers of a store have: root's marks are `trusted.overlay.*`, those of a user
//! namespace, and of root without CAP_SYS_ADMIN, `user.overlay.*`. Neither means anything to the other, so a store has
//! one of them, for good.
//!
//! In the store's root stands a file, `form`, that says `trusted` or `user`; who opens a store without one writes it.
//! Stores that were made before there was such a file are root's.

use std::io::ErrorKind;
use std::path::Path;

use oci::layer::XattrNamespace;

use super::Failure;

/// The file.
const FILE: &str = "form";

/// Refuses a store whose layers mean something else here.
pub fn check(root: &Path, layers: &Path) -> Result<(), Failure> {
    let here = name(XattrNamespace::here());
    let path = root.join(FILE);
    let failed = |error: std::io::Error| {
        Failure::new(format!("the file `{}` of the store cannot be used", path.display())).note(error.to_string())
    };
    let found = match std::fs::read_to_string(&path) {
        Ok(found) => found.trim().to_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let old = std::fs::read_dir(layers).map_err(failed)?.next().is_some();
            let form = if old { name(XattrNamespace::Trusted) } else { here };
            let aside = root.join(format!("{FILE}.{}", std::process::id()));
            std::fs::write(&aside, format!("{form}\n")).map_err(failed)?;
            let linked = std::fs::hard_link(&aside, &path);
            std::fs::remove_file(&aside).map_err(failed)?;
            match linked {
                Ok(()) => form.to_owned(),
                // Whoever was first is right.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    std::fs::read_to_string(&path).map_err(failed)?.trim().to_owned()
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Err(error) => return Err(failed(error)),
    };
    if found == here {
        return Ok(());
    }
    let (made, wanted) = if here == name(XattrNamespace::User) {
        ("with the rights of root (`--isolation=full`)", "less (`--isolation=rootless`, `chroot`)")
    } else {
        (
            "in a user namespace (`--isolation=rootless`), or in a pod (`chroot`)",
            "the rights of root (`--isolation=full`)",
        )
    };
    Err(Failure::new(format!("the store `{}` was made {made}", root.display()))
        .note(format!("with {wanted} its layers would mean something else: the kernel marks deletions in another way"))
        .help("name another store: `--root DIR` or `RBUILD_ROOT`"))
}

fn name(namespace: XattrNamespace) -> &'static str {
    match namespace {
        XattrNamespace::Trusted => "trusted",
        XattrNamespace::User => "user",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_keeps_the_form_that_it_was_made_in() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let layers = root.path().join("layers");
        std::fs::create_dir(&layers).expect("it is new");
        check(root.path(), &layers).expect("it is new, and has any form");
        check(root.path(), &layers).expect("it has this one");
        let here = name(XattrNamespace::here());
        assert_eq!(std::fs::read_to_string(root.path().join(FILE)).expect("it is there"), format!("{here}\n"));
        let other = if here == "user" { "trusted" } else { "user" };
        std::fs::write(root.path().join(FILE), other).expect("it is ours");
        let failure = check(root.path(), &layers).expect_err("it has the other form");
        assert!(failure.problems[0].message.contains("was made"), "{failure:?}");
    }
}
