//! The folder of captures: `<id>.json` says what a capture is, `<id>.<n>.pcapng` are its files. A lock keeps a second
//! process out, because each would take the other's files for leftovers.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::CaptureError;
use crate::files::{FileEntry, create_file, file_path, open_file};
use crate::session::now;
use crate::{CaptureId, CaptureInfo, CaptureStatus, PacketReader};

/// Longest description of a capture.
const MAX_DESCRIPTION: u64 = 64 << 10;

#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    _lock: Flock<File>,
}

/// What one name in the folder means.
enum Name {
    Description(CaptureId),
    File(CaptureId, u64),
    Leftover,
    Stranger,
}

fn parse(name: &str) -> Name {
    if name == "lock" {
        return Name::Stranger;
    }
    let mut parts = name.split('.');
    let Some(Ok(id)) = parts.next().map(str::parse) else {
        return Name::Stranger;
    };
    match (parts.next(), parts.next(), parts.next()) {
        (Some("json"), None, None) => Name::Description(id),
        (Some("json"), Some("new"), None) => Name::Leftover,
        (Some(index), Some("pcapng"), None) => index
            .parse()
            .map_or(Name::Stranger, |index| Name::File(id, index)),
        _ => Name::Stranger,
    }
}

impl Folder {
    pub(super) fn open(path: &Path) -> Result<Self, CaptureError> {
        let failed = |action| {
            move |source| CaptureError::Folder {
                action,
                path: path.to_owned(),
                source,
            }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(failed("make capture folder"))?;
        let metadata = fs::symlink_metadata(path).map_err(failed("look at capture folder"))?;
        if !metadata.is_dir() {
            return Err(failed("use capture folder")(io::ErrorKind::NotADirectory.into()));
        }
        if metadata.permissions().mode() & 0o077 != 0 {
            fs::set_permissions(path, Permissions::from_mode(0o700))
                .map_err(failed("close capture folder"))?;
        }
        let mut options = OpenOptions::new();
        options
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW);
        let file = options
            .open(path.join("lock"))
            .map_err(failed("open the lock of capture folder"))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|_| CaptureError::FolderInUse(path.to_owned()))?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// Captures of earlier processes; files that belong to none are removed.
    pub(super) fn load(&self) -> Result<Vec<(CaptureInfo, VecDeque<FileEntry>)>, CaptureError> {
        let failed = |source| CaptureError::Folder {
            action: "read capture folder",
            path: self.path.clone(),
            source,
        };
        let mut infos = BTreeMap::new();
        let mut files: BTreeMap<CaptureId, BTreeMap<u64, FileEntry>> = BTreeMap::new();
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let path = entry.path();
            match parse(&entry.file_name().to_string_lossy()) {
                Name::Description(id) => match read_description(&path, id) {
                    Ok(info) => {
                        infos.insert(id, info);
                    }
                    Err(error) => {
                        tracing::warn!(path = %path.display(), %error, "unreadable capture is removed");
                        self.discard(&path);
                    }
                },
                Name::File(id, index) => {
                    let visible = entry.metadata().map_err(failed)?.len();
                    files.entry(id).or_default().insert(
                        index,
                        FileEntry {
                            index,
                            visible,
                            packets: 0,
                        },
                    );
                }
                Name::Leftover => self.discard(&path),
                Name::Stranger => {}
            }
        }
        let mut found = Vec::new();
        for (id, mut info) in infos {
            let mut files: VecDeque<_> = files.remove(&id).unwrap_or_default().into_values().collect();
            info.bytes = files.iter().map(|file| file.visible).sum();
            if info.status == CaptureStatus::Running {
                info.status = CaptureStatus::Failed;
                info.detail = "the process that made it ended before the capture did".into();
                info.stopped = now();
                if let Some(newest) = files.back_mut() {
                    newest.visible = repair(&file_path(&self.path, id, newest.index), newest.visible);
                }
                info.bytes = files.iter().map(|file| file.visible).sum();
                self.save(&info)?;
            }
            found.push((info, files));
        }
        for (id, files) in files {
            tracing::warn!(capture = %id, "files of an unknown capture are removed");
            self.remove(id, &mut files.into_keys());
        }
        Ok(found)
    }

    /// Writes a capture's description, whole or not at all.
    pub(super) fn save(&self, info: &CaptureInfo) -> Result<(), CaptureError> {
        let path = self.description(info.id);
        let new = path.with_extension("json.new");
        self.discard(&new);
        let written = serde_json::to_vec(info)
            .map_err(io::Error::from)
            .and_then(|text| {
                create_file(&new)?.write_all(&text)?;
                fs::rename(&new, &path)
            });
        written.map_err(|source| CaptureError::Folder {
            action: "write",
            path,
            source,
        })
    }

    /// Removes a capture's description and these of its files.
    pub(super) fn remove(&self, id: CaptureId, files: &mut dyn Iterator<Item = u64>) {
        // The description goes first: what is left behind then is removed with the next start.
        self.discard(&self.description(id));
        for index in files {
            self.discard(&file_path(&self.path, id, index));
        }
    }

    fn description(&self, id: CaptureId) -> PathBuf {
        self.path.join(format!("{id}.json"))
    }

    fn discard(&self, path: &Path) {
        if let Err(error) = fs::remove_file(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "cannot remove a file of the capture folder");
        }
    }
}

/// Cuts a file that was being written when its process died after its last whole block, so that any reader takes it.
/// Gives its length.
fn repair(path: &Path, length: u64) -> u64 {
    let whole = open_file(path)
        .ok()
        .and_then(|file| PacketReader::new(file).ok())
        .map_or(0, |mut reader| {
            while let Ok(Some(_)) = reader.next_view() {}
            reader.offset()
        });
    let cut = || {
        OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?
            .set_len(whole)
    };
    if whole < length
        && let Err(error) = cut()
    {
        tracing::warn!(path = %path.display(), %error, "cannot cut a capture that broke off");
        return length;
    }
    whole
}

fn read_description(path: &Path, id: CaptureId) -> io::Result<CaptureInfo> {
    let mut text = String::new();
    open_file(path)?.take(MAX_DESCRIPTION).read_to_string(&mut text)?;
    let info: CaptureInfo = serde_json::from_str(&text)?;
    if info.id == id {
        Ok(info)
    } else {
        Err(io::Error::other("it describes another capture"))
    }
}
