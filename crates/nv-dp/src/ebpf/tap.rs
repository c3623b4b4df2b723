//! What workloads ask resolvers, out of the kernel; and answers that were held, back into it.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Mutex;
use std::time::Duration;

use aya::maps::{Array, Map, MapData, MapError, PerCpuArray, RingBuf};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nv_dp_common::layout::{LOST_MESSAGES, OverheardValue, RELEASE_MARK, STATE_LISTENER};
use nv_types::Direction;

use super::backend::monotonic_ns;
use super::setup::fault;
use super::{EbpfDatapath, sys};
use crate::{DatapathError, DnsMessage, HeldFrame};

/// What has been waiting for longer is of no use to anybody: it was held for a listener that died.
const STALE_NS: u64 = 5_000_000_000;

/// Reads DNS messages. One per instance: what it takes nobody else sees.
pub struct NameTap {
    ring: RingBuf<MapData>,
    lost: PerCpuArray<MapData, u64>,
}

/// Says that somebody listens, and sends on what was held. [`DatapathConfig::names`](crate::DatapathConfig::names) and a gate that is kept open
/// make the kernel hold answers; when it is not kept open for as long as it was said, answers pass.
pub struct NameGate {
    state: Mutex<Array<MapData, u32>>,
    socket: OwnedFd,
}

impl std::fmt::Debug for NameTap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NameTap").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for NameGate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NameGate").finish_non_exhaustive()
    }
}

fn open(path: &std::path::Path) -> Result<MapData, DatapathError> {
    MapData::from_pin(path).map_err(|error| fault(&format!("open {}", path.display()), &error))
}

impl EbpfDatapath {
    /// Both ends of what the kernel tells of DNS; the gate sends in this thread's network namespace.
    ///
    /// # Errors
    /// When the kernel refuses a table or a packet socket.
    pub fn names(&self) -> Result<(NameTap, NameGate), DatapathError> {
        let folder = self.pins.maps();
        let refused = |error: MapError| fault("open the tables of DNS messages", &error);
        let tap = NameTap {
            ring: RingBuf::try_from(Map::RingBuf(open(&folder.join("NV_NAMES"))?)).map_err(refused)?,
            lost: PerCpuArray::try_from(Map::PerCpuArray(open(&folder.join("NV_LOST"))?)).map_err(refused)?,
        };
        let gate = NameGate {
            state: Mutex::new(Array::try_from(Map::Array(open(&folder.join("NV_STATE"))?)).map_err(refused)?),
            socket: sys::packet_socket(RELEASE_MARK)
                .map_err(|error| fault("open a packet socket for DNS answers", &error))?,
        };
        Ok((tap, gate))
    }
}

impl NameTap {
    /// Takes at most `max` messages; waits for the first at most so long.
    ///
    /// # Errors
    /// When the ring cannot be waited for.
    pub fn take(&mut self, max: usize, wait: Duration) -> Result<Vec<DnsMessage>, DatapathError> {
        let mut taken = self.waiting(max)?;
        if taken.is_empty() {
            let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.ring.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(fault("wait for DNS messages", &error)),
            }
            taken = self.waiting(max)?;
        }
        Ok(taken)
    }

    fn waiting(&mut self, max: usize) -> Result<Vec<DnsMessage>, DatapathError> {
        let now = monotonic_ns()?;
        let mut taken = Vec::new();
        while taken.len() < max {
            let Some(item) = self.ring.next() else { break };
            let Some((head, rest)) = item.split_first_chunk::<{ size_of::<OverheardValue>() }>() else {
                continue;
            };
            let head = OverheardValue::from_bytes(head);
            let frame = usize::try_from(head.len).ok().and_then(|len| rest.get(..len));
            let Some(frame) = frame else { continue };
            let direction = nv_dp_common::layout::direction_of(head.direction);
            let is_held = head.held != 0 && direction == Direction::Ingress;
            if now.saturating_sub(head.at_ns) < STALE_NS {
                taken.extend(DnsMessage::new(head.ifindex, direction, frame, is_held));
            }
        }
        Ok(taken)
    }

    /// Messages since the tables were made that the kernel let pass untold: no room, too long, or of a kind that cannot be sent on.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn lost(&self) -> Result<u64, DatapathError> {
        let lost = self.lost.get(&LOST_MESSAGES, 0);
        let lost = lost.map_err(|error| fault("read the lost DNS messages", &error))?;
        Ok(lost.iter().sum())
    }
}

impl NameGate {
    /// Somebody listens for at least so long from now; zero: nobody does any more.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub fn keep_open(&self, span: Duration) -> Result<(), DatapathError> {
        let seconds = if span.is_zero() {
            0
        } else {
            let until = monotonic_ns()?.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX));
            u32::try_from(until.div_ceil(1_000_000_000)).unwrap_or(u32::MAX)
        };
        let mut state = self
            .state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        state
            .set(STATE_LISTENER, seconds, 0)
            .map_err(|error| fault("say that DNS messages are read", &error))
    }

    /// Sends a held answer on to its workload.
    ///
    /// # Errors
    /// When the interface is gone or takes no more; the answer is then lost, as any datagram may be.
    pub fn release(&self, held: &HeldFrame) -> Result<(), DatapathError> {
        sys::send_frame(self.socket.as_fd(), held.ifindex, &held.frame)
            .map_err(|error| fault("send a DNS answer on", &error))
    }
}
