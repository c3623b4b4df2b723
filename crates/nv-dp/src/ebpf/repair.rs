//! What somebody else has taken away: programs off their interfaces, links and tables out of the file system. Who is root on the node can do
//! that; it is seen by the next sweep, put back, and said.

use super::EbpfDatapath;
use super::backend::monotonic_ns;
use super::hook::Hold;
use super::setup::interface_name;
use crate::{DatapathError, DatapathEvent};

/// What is told of at most: an interface is told once for each time that its programs go.
const MOST_TOLD: usize = 1024;

impl EbpfDatapath {
    /// Looks at every endpoint, and puts back what is missing.
    pub(super) fn repair(&mut self) -> Result<(), DatapathError> {
        if self.purged {
            return Ok(());
        }
        let missing = self.pins.restore()? | (self.maps.pin_again(&self.pins.maps())? > 0);
        if missing {
            tracing::warn!(folder = %self.pins.dir().display(), "pinned tables had been removed, and are back");
        }
        let guarded: Vec<u32> = self.endpoints.keys().copied().collect();
        for ifindex in guarded {
            if self.hook.holds(&self.pins, ifindex) != Hold::On {
                self.put_back(ifindex)?;
            }
        }
        Ok(())
    }

    fn put_back(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        let name = interface_name(ifindex);
        let known = self
            .endpoints
            .get(&ifindex)
            .map(|endpoint| endpoint.spec.name.as_str());
        if name.is_none() || name.as_deref() != known {
            // Gone, or its index is another's by now: whoever watches interfaces lets it go and says who the other one is.
            return Ok(());
        }
        let result = self
            .pins
            .unlink(ifindex)
            .and_then(|()| self.hook.attach(&mut self.ebpf, &self.pins, ifindex));
        let restored = match result {
            Ok(true) => {
                self.open.remove(&ifindex);
                tracing::debug!(ifindex, name, "somebody removed the programs: they are back");
                true
            }
            Ok(false) => return Ok(()),
            Err(error) if self.open.insert(ifindex) => {
                tracing::debug!(ifindex, name, %error, "somebody removed the programs, and they cannot be put back");
                false
            }
            Err(_) => return Ok(()),
        };
        if self.found.len() < MOST_TOLD {
            self.found.push_back(DatapathEvent::Tampered {
                ifindex,
                restored,
                at_ns: monotonic_ns()?,
            });
        }
        Ok(())
    }

    /// Whether what is known of an interface is true of its programs, too. What is left of an interface that had its index before is removed.
    pub(super) fn is_guarded(&self, ifindex: u32) -> Result<bool, DatapathError> {
        match self.hook.holds(&self.pins, ifindex) {
            Hold::On => Ok(true),
            Hold::Off => Ok(false),
            Hold::Loose => self.pins.unlink(ifindex).map(|()| false),
        }
    }
}
