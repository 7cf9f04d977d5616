//! Keys in files: each file has one, and only its owner may read it.
//!
//! A key is written beside its file first, under a name that no other process takes, and gets its name
//! when it is on disk: so the file has a whole key or none. Whoever dies in between leaves the other
//! file, `FILE.new-PID`; after a rotation that is the only one with the new secret, until the next one.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anabranch_ingest::ApiToken;
use anabranch_schemas::resources::ResourceName;
use anyhow::{Context, Result};

use crate::failure::Failure;

/// The key in a file, or the token, if that is asked for.
pub(crate) fn read<T: FromStr<Err: fmt::Display>>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| Failure::usage(format!("read {}: {error}", path.display())))?;
    text.trim().parse::<T>().map_err(|error| {
        let message = format!("{} has no key in it: {error}", path.display());
        Failure::usage(message).into()
    })
}

/// The key in a file, or a new one of this name, which is kept there. A file that is there is whole: it
/// gets its name when its text is on disk.
pub(crate) fn read_or_make(path: &Path, name: &ResourceName) -> Result<ApiToken> {
    if path.exists() {
        return read(path);
    }
    let token = ApiToken::draw(name.clone());
    let staged = stage(path, &token)?;
    // Of two that make it at once the second finds the first one's.
    match std::fs::hard_link(&staged.at, path) {
        Ok(()) => staged.drop_name().map(|()| token),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            staged.drop_name()?;
            read(path)
        }
        Err(error) => Err(error).with_context(|| format!("keep a key in {}", path.display())),
    }
}

/// A key on disk beside the file that it is to be kept in.
pub(crate) struct Staged {
    at: PathBuf,
    path: PathBuf,
}

/// Puts a key on disk that is to be kept in a file, which stays as it is.
pub(crate) fn stage(path: &Path, token: &ApiToken) -> Result<Staged> {
    let mut at = path.as_os_str().to_owned();
    at.push(format!(".new-{}", std::process::id()));
    let at = PathBuf::from(at);
    let write = || -> std::io::Result<()> {
        // Left by a run that was killed in between.
        match std::fs::remove_file(&at) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&at)?;
        writeln!(file, "{}", token.reveal())?;
        file.sync_all()
    };
    write().with_context(|| format!("write a key to {}", at.display()))?;
    Ok(Staged { at, path: path.to_owned() })
}

impl Staged {
    /// Keeps the key in its file, instead of what is there.
    pub(crate) fn keep(self) -> Result<()> {
        let Staged { at, path } = &self;
        let kept = std::fs::rename(at, path).and_then(|()| sync_folder(path));
        kept.with_context(|| {
            format!("keep the key that is in {} in {}", at.display(), path.display())
        })
    }

    /// The key has the name of its file, too.
    fn drop_name(self) -> Result<()> {
        let Staged { at, path } = &self;
        let dropped = std::fs::remove_file(at).and_then(|()| sync_folder(path));
        dropped.with_context(|| format!("remove {}", at.display()))
    }
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_nobody_else_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dev.key");
        let left = format!("dev.key.new-{}", std::process::id());
        std::fs::write(dir.path().join(left), "half").unwrap();
        let name = "dev".parse().unwrap();
        let made = read_or_make(&path, &name).unwrap();
        assert_eq!(read_or_make(&path, &name).unwrap(), made);
        assert_eq!(read::<ApiToken>(&path).unwrap(), made);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let rotated = ApiToken::draw(name);
        let staged = stage(&path, &rotated).unwrap();
        assert_eq!(read::<ApiToken>(&path).unwrap(), made);
        staged.keep().unwrap();
        assert_eq!(read::<ApiToken>(&path).unwrap(), rotated);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_key_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dev.key");
        assert!(read::<ApiToken>(&path).unwrap_err().to_string().contains("dev.key"));
        std::fs::write(&path, "secret").unwrap();
        let error = read_or_make(&path, &"dev".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("has no key in it") && !error.contains("secret"), "{error}");
    }
}
