//! Runs captures and owns their folder.

mod folder;
mod job;
mod trigger;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use nv_types::{Timestamp, WorkloadId};

use crate::files::FileList;
use crate::session::now;
use crate::{
    AfPacketSource, Annotator, CaptureId, CaptureInfo, CaptureLimits, CaptureSpec, CaptureStatus,
    CaptureStream, FileRing, Filter, InvalidLimits, PacketSource, SectionInfo, Selection, SessionControl,
    SinkError, SourceError,
};
use folder::Folder;
use job::Job;
use trigger::Watched;

/// How long a stopped capture may take to write its end.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Bounds of all captures together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureConfig {
    /// Folder of the files; made with mode 0700 if it is not there. Nothing else may be in it.
    pub directory: PathBuf,
    /// Bytes that all captures may hold, a running one counted with all that it may still write.
    pub max_disk_bytes: u64,
    /// Captures that are kept, running ones included.
    pub max_captures: usize,
    /// Captures that run at the same time: each holds 4 MiB of packet ring.
    pub max_running: usize,
    /// Node, as files tell it; empty for none.
    pub node: String,
}

impl CaptureConfig {
    /// The defaults: 1 GiB, 64 captures, 8 of them running.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            max_disk_bytes: 1 << 30,
            max_captures: 64,
            max_running: 8,
            node: String::new(),
        }
    }
}

/// Why a capture could not be started, stopped or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// No capture has this id.
    #[error("no capture {0}")]
    Unknown(CaptureId),
    /// The limits make no sense.
    #[error(transparent)]
    Limits(#[from] InvalidLimits),
    /// As many run as may.
    #[error("{running} captures are running, which is the most: stop one first")]
    TooManyRunning {
        /// Running.
        running: usize,
    },
    /// As many are kept as may be.
    #[error("{kept} captures are kept, which is the most: delete one first")]
    TooManyKept {
        /// Kept.
        kept: usize,
    },
    /// The disk budget does not allow it.
    #[error("a capture of {wanted} bytes does not fit: {free} of {budget} bytes are free, delete one first")]
    DiskBudget {
        /// Bytes asked for.
        wanted: u64,
        /// Bytes not spoken for.
        free: u64,
        /// All bytes.
        budget: u64,
    },
    /// The packets are not to be had.
    #[error("cannot capture {workload}: {source}")]
    Source {
        /// Whose.
        workload: WorkloadId,
        /// Why.
        source: SourceError,
    },
    /// The files cannot be made.
    #[error("cannot write the capture")]
    Sink(#[from] SinkError),
    /// The folder is in use by another process.
    #[error("capture folder {} is in use by another process", .0.display())]
    FolderInUse(PathBuf),
    /// A file or folder could not be used.
    #[error("cannot {action} {}", path.display())]
    Folder {
        /// What was tried.
        action: &'static str,
        /// File or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No thread, no random numbers.
    #[error("cannot {action}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Nothing is kept of the workload.
    #[error("the newest packets of {0} are not kept")]
    NotWatched(WorkloadId),
    /// What is kept is being saved already.
    #[error("the newest packets of {0} are being saved already")]
    AlreadyTriggered(WorkloadId),
    /// No more workloads can be watched.
    #[error("the newest packets of {most} workloads are kept, which is the most")]
    TooManyWatched {
        /// Most.
        most: usize,
    },
    /// The capture was told to stop and did not within five seconds; it still will.
    #[error("capture {0} has not stopped yet")]
    StillStopping(CaptureId),
}

#[derive(Debug)]
struct Capture {
    info: Mutex<CaptureInfo>,
    list: Arc<FileList>,
    control: SessionControl,
}

impl Capture {
    fn lock(&self) -> MutexGuard<'_, CaptureInfo> {
        self.info.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn info(&self) -> CaptureInfo {
        let mut info = self.lock().clone();
        info.bytes = self.list.bytes();
        info.files = u32::try_from(self.list.lock().files.len()).unwrap_or(u32::MAX);
        info
    }

    fn is_running(&self) -> bool {
        self.lock().status == CaptureStatus::Running
    }
}

#[derive(Debug)]
struct Shared {
    config: CaptureConfig,
    folder: Folder,
    annotator: Option<Arc<dyn Annotator>>,
    captures: Mutex<BTreeMap<CaptureId, Arc<Capture>>>,
    watched: Mutex<BTreeMap<WorkloadId, Watched>>,
}

/// Starts, lists, stops, reads and deletes captures. A handle: clones share the same captures. Calls block for the
/// time of a few system calls, `stop` and `delete` until the capture has written its end.
#[derive(Clone, Debug)]
pub struct CaptureManager(Arc<Shared>);

impl CaptureManager {
    /// Opens the folder and takes over what an earlier process left there; a capture that was running then is failed.
    ///
    /// # Errors
    /// [`CaptureError::FolderInUse`], or what could not be done with the folder.
    pub fn open(config: CaptureConfig) -> Result<Self, CaptureError> {
        Self::open_with(config, None)
    }

    /// Does as [`Self::open`], with somebody who knows names and verdicts: filters may use words of nv then, and files tell
    /// what was decided.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(
        config: CaptureConfig,
        annotator: Option<Arc<dyn Annotator>>,
    ) -> Result<Self, CaptureError> {
        let folder = Folder::open(&config.directory)?;
        let found = folder.load()?.into_iter().map(|(info, files)| {
            let capture = Capture {
                list: Arc::new(FileList::finished(files)),
                control: SessionControl::default(),
                info: Mutex::new(info.clone()),
            };
            (info.id, Arc::new(capture))
        });
        let captures = Mutex::new(found.collect());
        Ok(Self(Arc::new(Shared {
            config,
            folder,
            annotator,
            captures,
            watched: Mutex::default(),
        })))
    }

    /// Starts to capture a workload with a kernel source.
    ///
    /// # Errors
    /// When the limits, the budget or the workload's namespace do not allow it; nothing is left behind then.
    pub fn start(&self, spec: &CaptureSpec) -> Result<CaptureInfo, CaptureError> {
        let limits = spec.limits.checked()?;
        self.check_room(&self.lock(), limits)?;
        let source =
            AfPacketSource::open_filtered(&spec.target, limits.snap_len, &spec.filter).map_err(|source| {
                CaptureError::Source {
                    workload: spec.workload.clone(),
                    source,
                }
            })?;
        self.run(spec, Box::new(source), !spec.filter.needs_annotator())
    }

    /// Starts to capture from any source, as [`Self::start`] does; the spec's target is not looked at.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_from(
        &self,
        spec: &CaptureSpec,
        source: Box<dyn PacketSource>,
    ) -> Result<CaptureInfo, CaptureError> {
        self.run(spec, source, false)
    }

    /// `filtered`: the source gives packets of the filter only.
    fn run(
        &self,
        spec: &CaptureSpec,
        source: Box<dyn PacketSource>,
        filtered: bool,
    ) -> Result<CaptureInfo, CaptureError> {
        let limits = spec.limits.checked()?;
        let mut captures = self.lock();
        self.check_room(&captures, limits)?;
        let system = |action| move |source| CaptureError::System { action, source };
        let id = CaptureId::random().map_err(system("make a capture id"))?;
        let info = CaptureInfo {
            id,
            workload: spec.workload.clone(),
            name: spec.name.clone(),
            filter: spec.filter.to_string(),
            cause: spec.cause.clone(),
            files: 1,
            status: CaptureStatus::Running,
            detail: String::new(),
            packets: 0,
            bytes: 0,
            dropped: 0,
            max_bytes: limits.max_bytes,
            started: now(),
            stopped: Timestamp(0),
        };
        self.0.folder.save(&info)?;
        let section = self.section(spec, id);
        let ring = FileRing::create(&self.0.config.directory, id, section, limits)
            .inspect_err(|_| self.0.folder.remove(id, &mut std::iter::once(0)))?;
        let capture = Arc::new(Capture {
            list: ring.list(),
            control: SessionControl::default(),
            info: Mutex::new(info),
        });
        let job = Job {
            shared: Arc::clone(&self.0),
            capture: Arc::clone(&capture),
            limits,
            selection: Selection {
                filter: if filtered {
                    Filter::all()
                } else {
                    spec.filter.clone()
                },
                annotator: self.0.annotator.clone(),
            },
            source,
            ring,
        };
        let name = format!("capture-{:.8}", id.to_string());
        let spawned = thread::Builder::new().name(name).spawn(move || job.run());
        if let Err(source) = spawned {
            self.0.folder.remove(id, &mut std::iter::once(0));
            return Err(CaptureError::System {
                action: "start a thread",
                source,
            });
        }
        captures.insert(id, Arc::clone(&capture));
        drop(captures);
        tracing::info!(capture = %id, workload = %spec.workload, "capture started");
        Ok(capture.info())
    }

    /// Ends a capture and waits for its last byte; one that has ended is no error.
    ///
    /// # Errors
    /// [`CaptureError::Unknown`] or [`CaptureError::StillStopping`].
    pub fn stop(&self, id: CaptureId) -> Result<CaptureInfo, CaptureError> {
        let capture = self.find(id)?;
        capture.control.stop();
        if capture.list.wait_ended(STOP_TIMEOUT) {
            Ok(capture.info())
        } else {
            Err(CaptureError::StillStopping(id))
        }
    }

    /// State of a capture.
    ///
    /// # Errors
    /// [`CaptureError::Unknown`].
    pub fn info(&self, id: CaptureId) -> Result<CaptureInfo, CaptureError> {
        Ok(self.find(id)?.info())
    }

    /// All captures, of one workload if asked, oldest first.
    #[must_use]
    pub fn list(&self, workload: Option<&WorkloadId>) -> Vec<CaptureInfo> {
        let mut infos: Vec<_> = self.lock().values().map(|capture| capture.info()).collect();
        infos.retain(|info| workload.is_none_or(|wanted| info.workload == *wanted));
        infos.sort_by_key(|info| (info.started, info.id));
        infos
    }

    /// Removes a capture and its files, stopping it first.
    ///
    /// # Errors
    /// [`CaptureError::Unknown`] or [`CaptureError::StillStopping`].
    pub fn delete(&self, id: CaptureId) -> Result<(), CaptureError> {
        self.stop(id)?;
        let Some(capture) = self.lock().remove(&id) else {
            return Err(CaptureError::Unknown(id));
        };
        let files: Vec<_> = capture
            .list
            .lock()
            .files
            .drain(..)
            .map(|file| file.index)
            .collect();
        self.0.folder.remove(id, &mut files.into_iter());
        tracing::info!(capture = %id, "capture deleted");
        Ok(())
    }

    /// The capture's bytes as one pcapng stream. With `follow` it goes on until the capture ends, without it ends where
    /// the capture is now.
    ///
    /// # Errors
    /// [`CaptureError::Unknown`].
    pub fn read(&self, id: CaptureId, follow: bool) -> Result<CaptureStream, CaptureError> {
        let capture = self.find(id)?;
        Ok(CaptureStream::new(
            self.0.config.directory.clone(),
            id,
            &capture.list,
            follow,
        ))
    }

    /// Ends every running capture and waits for them; files stay. What was kept for triggers is forgotten.
    pub fn shutdown(&self) {
        self.watched().clear();
        let running: Vec<_> = self
            .lock()
            .values()
            .filter(|capture| capture.is_running())
            .cloned()
            .collect();
        for capture in &running {
            capture.control.stop();
        }
        for capture in &running {
            capture.list.wait_ended(STOP_TIMEOUT);
        }
    }

    /// What the files of a capture say of themselves.
    fn section(&self, spec: &CaptureSpec, id: CaptureId) -> SectionInfo {
        let mut comment = format!("capture {id} of workload {}", spec.workload);
        if !self.0.config.node.is_empty() {
            comment.push_str(&format!("; node {}", self.0.config.node));
        }
        if !spec.cause.is_empty() {
            comment.push_str(&format!("; started by {}", spec.cause));
        }
        if !spec.filter.is_all() {
            comment.push_str(&format!("; filter {}", spec.filter));
        }
        SectionInfo {
            filter: spec.filter.to_string(),
            ..SectionInfo::new(&spec.name, comment)
        }
    }

    fn watched(&self) -> MutexGuard<'_, BTreeMap<WorkloadId, Watched>> {
        self.0.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<CaptureId, Arc<Capture>>> {
        self.0.captures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: CaptureId) -> Result<Arc<Capture>, CaptureError> {
        self.lock().get(&id).cloned().ok_or(CaptureError::Unknown(id))
    }

    fn check_room(
        &self,
        captures: &BTreeMap<CaptureId, Arc<Capture>>,
        limits: CaptureLimits,
    ) -> Result<(), CaptureError> {
        let config = &self.0.config;
        if captures.len() >= config.max_captures {
            return Err(CaptureError::TooManyKept { kept: captures.len() });
        }
        let infos: Vec<_> = captures.values().map(|capture| capture.info()).collect();
        let running = infos.iter().filter(|info| info.status == CaptureStatus::Running);
        if running.clone().count() >= config.max_running {
            return Err(CaptureError::TooManyRunning {
                running: running.count(),
            });
        }
        let held = infos.iter().map(|info| match info.status {
            CaptureStatus::Running => info.max_bytes.max(info.bytes),
            CaptureStatus::Stopped | CaptureStatus::Failed => info.bytes,
        });
        let free = config.max_disk_bytes.saturating_sub(held.sum());
        if limits.max_bytes > free {
            let (wanted, budget) = (limits.max_bytes, config.max_disk_bytes);
            return Err(CaptureError::DiskBudget { wanted, free, budget });
        }
        Ok(())
    }
}
