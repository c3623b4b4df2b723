//! A datapath that is served by a thread, and its client.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use nv_dp::remote::{RemoteDatapath, Server};
use nv_dp::{
    Datapath, DatapathConfig, DatapathError, DatapathEvent, DatapathStatus, EndpointSpec, FlowStats,
    SoftwareDatapath,
};
use nv_types::PolicyImage;

/// One software datapath for the server's thread and the test.
#[derive(Clone, Default)]
pub struct Shared(pub Arc<Mutex<SoftwareDatapath>>);

impl Datapath for Shared {
    fn apply(&mut self, image: &PolicyImage, config: &DatapathConfig) -> Result<(), DatapathError> {
        self.0.lock().unwrap().apply(image, config)
    }
    fn attach(&mut self, endpoint: &EndpointSpec) -> Result<(), DatapathError> {
        self.0.lock().unwrap().attach(endpoint)
    }
    fn detach(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        self.0.lock().unwrap().detach(ifindex)
    }
    fn poll_events(&mut self, max: usize) -> Result<Vec<DatapathEvent>, DatapathError> {
        self.0.lock().unwrap().poll_events(max)
    }
    fn sweep(&mut self, each: &mut dyn FnMut(FlowStats)) -> Result<(), DatapathError> {
        self.0.lock().unwrap().sweep(each)
    }
    fn status(&mut self) -> Result<DatapathStatus, DatapathError> {
        self.0.lock().unwrap().status()
    }
    fn purge(&mut self) -> Result<(), DatapathError> {
        self.0.lock().unwrap().purge()
    }
}

/// A server's thread. Dropping it ends the server.
pub struct Serving {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    pub fn start(socket: &std::path::Path, mut datapath: Box<dyn Datapath>) -> Self {
        let server = Server::bind(socket, None).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || server.serve(datapath.as_mut(), &stopped).unwrap());
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub struct Remote {
    pub client: RemoteDatapath,
    pub served: Shared,
    pub socket: PathBuf,
    pub serving: Option<Serving>,
    /// Of the socket.
    pub folder: tempfile::TempDir,
}

impl Remote {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("dp.sock");
        let served = Shared::default();
        let serving = Serving::start(&socket, Box::new(served.clone()));
        Self {
            client: RemoteDatapath::connect(&socket).unwrap(),
            served,
            socket,
            serving: Some(serving),
            folder,
        }
    }

    /// The server's process dies and another one comes, with this datapath.
    pub fn replace(&mut self, served: Shared) {
        self.serving = None;
        self.served = served.clone();
        self.serving = Some(Serving::start(&self.socket, Box::new(served)));
    }
}
