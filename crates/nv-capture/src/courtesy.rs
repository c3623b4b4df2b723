//! A capture takes what is left over: where processors are wanted by others, it rests, the kernel's buffer fills, and packets are
//! dropped and counted before a workload suffers.
//!
//! A low priority alone does not do it: across control groups, as between an agent and containers, it does not count. So the thread looks how
//! long it had to wait for a processor (proc(5), `schedstat`), which says that others wanted it too.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

/// How often it looks.
const WINDOW: Duration = Duration::from_millis(20);
/// Waiting for more than this part of its running time means that others want the processor.
const CROWDED: u32 = 8;
/// What it takes of a processor then: one part in so many.
const SHARE: u32 = 20;
/// Longest rest: what the kernel's buffer holds of ordinary traffic.
const LONGEST: Duration = Duration::from_millis(150);

/// Watches one thread.
#[derive(Debug)]
pub(crate) struct Courtesy {
    looked: Instant,
    ran: Duration,
    waited: Duration,
}

impl Courtesy {
    /// For the calling thread, which is given a low priority.
    pub(crate) fn begin() -> Self {
        crate::sys::give_way();
        let (ran, waited) = clocks().unwrap_or_default();
        Self {
            looked: Instant::now(),
            ran,
            waited,
        }
    }

    /// Rests if it has to. Called after each batch of packets, on the same thread.
    pub(crate) fn rest(&mut self) {
        let window = self.looked.elapsed();
        if window < WINDOW {
            return;
        }
        let Some((ran, waited)) = clocks() else { return };
        let rest = rest(
            window,
            ran.saturating_sub(self.ran),
            waited.saturating_sub(self.waited),
        );
        (self.ran, self.waited) = (ran, waited);
        if !rest.is_zero() {
            thread::sleep(rest);
        }
        self.looked = Instant::now();
    }
}

/// How long a thread rests that ran so long in this window, and waited so long for a processor.
fn rest(window: Duration, ran: Duration, waited: Duration) -> Duration {
    if waited * CROWDED <= ran.max(WINDOW / CROWDED) {
        return Duration::ZERO;
    }
    (ran * SHARE).saturating_sub(window).min(LONGEST)
}

/// Time on a processor and time waiting for one, of this thread. `None` where the kernel does not tell.
fn clocks() -> Option<(Duration, Duration)> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let mut numbers = text.split_whitespace().map(str::parse::<u64>);
    let mut next = || numbers.next().and_then(Result::ok).map(Duration::from_nanos);
    Some((next()?, next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn it_rests_only_where_others_wait_and_only_as_long_as_its_share_asks() {
        assert_eq!(
            rest(ms(20), ms(20), ms(0)),
            ms(0),
            "nobody else wants the processor"
        );
        assert_eq!(rest(ms(20), ms(20), ms(2)), ms(0), "a moment is no crowd");
        assert_eq!(rest(ms(40), ms(5), ms(35)), ms(60), "5 ms are a twentieth of 100");
        assert_eq!(rest(ms(20), ms(1), ms(15)), ms(0), "it took its share already");
        assert_eq!(rest(ms(40), ms(20), ms(20)), LONGEST);
        assert_eq!(rest(ms(20), ms(0), ms(1)), ms(0), "it had nothing to do");
    }

    #[test]
    fn the_kernel_tells_of_this_thread() {
        let (before, _) = clocks().unwrap();
        let begun = Instant::now();
        while begun.elapsed() < ms(5) {
            std::hint::spin_loop();
        }
        assert!(clocks().unwrap().0 > before);
    }
}
