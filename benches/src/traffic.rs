//! Traffic between two network namespaces: three measurements, each bounded in time.
//!
//! Every measurement gives two rates: by the wall clock, and by the processor time of the threads that made the
//! traffic, softirq work on their account included. The second one holds still on a machine that does other work.

use std::io::{ErrorKind, IoSlice, IoSliceMut, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, ensure};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike as _};
use nix::unistd::Pid;

mod http;

pub use http::http_latency;

/// Server port of the bulk transfer.
pub const BULK_PORT: u16 = 5201;
/// Server ports of the short connections, one for each pair of threads: enough that the processors are the limit and
/// not the wake-ups.
pub const CONNECT_PORTS: [u16; 2] = [5202, 5203];
/// Server port of the datagrams.
pub const UDP_PORT: u16 = 5204;
/// Server port that no rule speaks of.
const OTHER_PORT: u16 = 5205;

/// UDP payload of a 64-byte frame: Ethernet 14, IPv4 20, UDP 8, without the frame check sequence.
const UDP_PAYLOAD: usize = 64 - 14 - 20 - 8;
/// Datagrams of one system call.
const BURST: usize = 32;
/// Nothing waits longer than this for the other side.
const PATIENCE: Duration = Duration::from_secs(3);

/// The two ends.
#[derive(Clone, Debug)]
pub struct Ends {
    /// Namespace of the client.
    pub client: PathBuf,
    /// Namespace of the server.
    pub server: PathBuf,
    /// Address of the client.
    pub client_addr: Ipv4Addr,
    /// Address of the server.
    pub server_addr: Ipv4Addr,
}

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Per second of the wall clock.
    pub rate: f64,
    /// Per second of processor time of the threads of both ends.
    pub per_cpu: f64,
}

/// Counts of the threads of a measurement while it runs.
#[derive(Debug, Default)]
struct Meter {
    stop: AtomicBool,
    done: AtomicU64,
    /// Processor time, in microseconds.
    cpu: AtomicU64,
}

impl Meter {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Adds the processor time that this thread has used since the last call.
struct CpuClock<'a> {
    meter: &'a Meter,
    last: i64,
}

impl<'a> CpuClock<'a> {
    fn start(meter: &'a Meter) -> Self {
        Self {
            meter,
            last: cpu_micros(),
        }
    }

    fn tick(&mut self) {
        let now = cpu_micros();
        self.meter
            .cpu
            .fetch_add(u64::try_from(now - self.last).unwrap_or(0), Ordering::Relaxed);
        self.last = now;
    }
}

fn cpu_micros() -> i64 {
    getrusage(UsageWho::RUSAGE_THREAD).map_or(0, |usage| {
        usage.user_time().num_microseconds() + usage.system_time().num_microseconds()
    })
}

/// Keeps this thread on one processor, so that every run has its threads in the same places.
pub(crate) fn pin(number: usize) -> anyhow::Result<()> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    let usable: Vec<_> = (0..CpuSet::count())
        .filter(|cpu| allowed.is_set(*cpu).unwrap_or(false))
        .collect();
    let Some(cpu) = usable.get(number % usable.len().max(1)) else {
        return Ok(());
    };
    let mut wanted = CpuSet::new();
    wanted.set(*cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &wanted)?)
}

/// Runs on a thread of its own inside the namespace; the handle brings the result.
pub(crate) fn inside<T: Send + 'static>(
    netns: &std::path::Path,
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> JoinHandle<anyhow::Result<T>> {
    let netns = netns.to_owned();
    thread::spawn(move || nv_lab::run_in(&netns, work)?)
}

pub(crate) fn join<T>(thread: JoinHandle<anyhow::Result<T>>) -> anyhow::Result<T> {
    thread.join().map_err(|_| anyhow!("a traffic thread panicked"))?
}

/// Lets the traffic warm up, takes the count over `time`, and stops it.
fn measure(meter: &Meter, time: Duration) -> Sample {
    thread::sleep(time / 5);
    let read = || {
        (
            meter.done.load(Ordering::Relaxed),
            meter.cpu.load(Ordering::Relaxed),
            Instant::now(),
        )
    };
    let (done, cpu, start) = read();
    thread::sleep(time);
    let (done_then, cpu_then, end) = read();
    meter.stop.store(true, Ordering::Relaxed);
    #[allow(clippy::cast_precision_loss, reason = "counts of seconds stay far below 2^52")]
    let count = (done_then - done) as f64;
    #[allow(
        clippy::cast_precision_loss,
        reason = "microseconds of seconds stay far below 2^52"
    )]
    let cpu = (cpu_then - cpu) as f64 / 1e6;
    Sample {
        rate: count / (end - start).as_secs_f64(),
        per_cpu: if cpu > 0.0 { count / cpu } else { 0.0 },
    }
}

fn receive_timeout(socket: &impl AsFd, timeout: Duration) -> anyhow::Result<()> {
    let value = TimeVal::microseconds(i64::try_from(timeout.as_micros())?);
    Ok(setsockopt(socket, sockopt::ReceiveTimeout, &value)?)
}

/// Whether the client reaches a port of the server that no rule speaks of.
///
/// # Errors
/// When the server cannot listen.
pub fn is_open(ends: &Ends) -> anyhow::Result<bool> {
    let address = SocketAddrV4::new(ends.server_addr, OTHER_PORT);
    let listener = join(inside(&ends.server, move || Ok(TcpListener::bind(address)?)))?;
    let reached = join(inside(&ends.client, move || {
        Ok(TcpStream::connect_timeout(&address.into(), Duration::from_millis(200)).is_ok())
    }));
    drop(listener);
    reached
}

/// Bits per second over one established connection.
///
/// # Errors
/// When no connection comes about, or it breaks.
pub fn tcp_throughput(ends: &Ends, time: Duration) -> anyhow::Result<Sample> {
    let address = SocketAddrV4::new(ends.server_addr, BULK_PORT);
    let listener = join(inside(&ends.server, move || Ok(TcpListener::bind(address)?)))?;
    receive_timeout(&listener, PATIENCE)?;
    let mut sender = join(inside(&ends.client, move || {
        TcpStream::connect_timeout(&address.into(), PATIENCE).context("the bulk connection was not made")
    }))?;
    let (mut receiver, _) = listener.accept()?;
    sender.set_write_timeout(Some(PATIENCE))?;
    receiver.set_read_timeout(Some(PATIENCE))?;

    let meter = Arc::new(Meter::default());
    let (sending, receiving) = (Arc::clone(&meter), Arc::clone(&meter));
    let sending = thread::spawn(move || -> anyhow::Result<()> {
        pin(0)?;
        let mut cpu = CpuClock::start(&sending);
        let data = vec![0x5a; 256 << 10];
        while !sending.is_stopped() {
            sender.write_all(&data)?;
            cpu.tick();
        }
        Ok(())
    });
    let receiving = thread::spawn(move || -> anyhow::Result<()> {
        pin(1)?;
        let mut cpu = CpuClock::start(&receiving);
        let mut data = vec![0; 256 << 10];
        loop {
            let read = receiver.read(&mut data)?;
            if read == 0 {
                return Ok(());
            }
            receiving.done.fetch_add(read as u64 * 8, Ordering::Relaxed);
            cpu.tick();
        }
    });
    let sample = measure(&meter, time);
    join(sending)?;
    join(receiving)?;
    ensure!(sample.rate > 0.0, "no byte arrived");
    Ok(sample)
}

/// Connections per second: the client connects, the server accepts and closes, the client reads the end and resets, so
/// that neither side keeps a port waiting (`TIME_WAIT`) and the same ports can be used again and again.
///
/// # Errors
/// When a connection fails.
pub fn tcp_connect_rate(ends: &Ends, time: Duration) -> anyhow::Result<Sample> {
    connect_rate(ends, time, b"")
}

/// As [`tcp_connect_rate`], with one byte from the server before it closes.
///
/// # Errors
/// When a connection fails.
pub fn tcp_byte_rate(ends: &Ends, time: Duration) -> anyhow::Result<Sample> {
    connect_rate(ends, time, b"!")
}

fn connect_rate(ends: &Ends, time: Duration, greeting: &'static [u8]) -> anyhow::Result<Sample> {
    let meter = Arc::new(Meter::default());
    let mut threads = Vec::new();
    for (number, port) in CONNECT_PORTS.into_iter().enumerate() {
        let address = SocketAddrV4::new(ends.server_addr, port);
        let listener = join(inside(&ends.server, move || Ok(TcpListener::bind(address)?)))?;
        receive_timeout(&listener, Duration::from_millis(100))?;
        let (accepting, connecting) = (Arc::clone(&meter), Arc::clone(&meter));
        threads.push(thread::spawn(move || {
            pin(number)?;
            accept_all(&listener, &accepting, greeting)
        }));
        threads.push(inside(&ends.client, move || {
            pin(number)?;
            connect_all(address, &connecting, greeting)
        }));
    }
    let sample = measure(&meter, time);
    for thread in threads {
        join(thread)?;
    }
    ensure!(sample.rate > 0.0, "no connection was made");
    Ok(sample)
}

fn accept_all(listener: &TcpListener, meter: &Meter, greeting: &[u8]) -> anyhow::Result<()> {
    let mut cpu = CpuClock::start(meter);
    // Accepts until the clients are gone: one that still waits would not see the stop.
    loop {
        match listener.accept() {
            Ok((mut stream, _)) => {
                if !greeting.is_empty() {
                    stream.write_all(greeting)?;
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock) => {
                if meter.is_stopped() {
                    return Ok(());
                }
            }
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::Interrupted | ErrorKind::ConnectionAborted
                ) => {}
            Err(error) => return Err(error.into()),
        }
        cpu.tick();
    }
}

fn connect_all(address: SocketAddrV4, meter: &Meter, greeting: &[u8]) -> anyhow::Result<()> {
    let mut cpu = CpuClock::start(meter);
    while !meter.is_stopped() {
        let mut stream = TcpStream::connect(address).context("a connection was not made")?;
        let mut got = [0; 1];
        if !greeting.is_empty() {
            stream.read_exact(&mut got).context("the server sent nothing")?;
        }
        let read = stream.read(&mut got).context("the server did not close")?;
        ensure!(read == 0, "the server sent more than it should");
        setsockopt(
            &stream,
            sockopt::Linger,
            &nix::libc::linger {
                l_onoff: 1,
                l_linger: 0,
            },
        )?;
        drop(stream);
        meter.done.fetch_add(1, Ordering::Relaxed);
        cpu.tick();
    }
    Ok(())
}

/// 64-byte packets per second that arrive at one UDP socket, sent by one thread in bursts.
///
/// # Errors
/// When nothing arrives.
pub fn udp_rate(ends: &Ends, time: Duration) -> anyhow::Result<Sample> {
    let address = SocketAddrV4::new(ends.server_addr, UDP_PORT);
    let receiver = join(inside(&ends.server, move || Ok(UdpSocket::bind(address)?)))?;
    let from = SocketAddrV4::new(ends.client_addr, 0);
    let sender = join(inside(&ends.client, move || {
        let socket = UdpSocket::bind(from)?;
        socket.connect(address)?;
        Ok(socket)
    }))?;
    setsockopt(&receiver, sockopt::RcvBufForce, &(16 << 20))?;
    // One question and one answer, so that a connection table knows the flow as established.
    receive_timeout(&receiver, PATIENCE)?;
    receive_timeout(&sender, PATIENCE)?;
    sender.send(b"?")?;
    let (_, client) = receiver
        .recv_from(&mut [0; 8])
        .context("the first datagram did not arrive")?;
    receiver.send_to(b"!", client)?;
    sender
        .recv(&mut [0; 8])
        .context("the first answer did not arrive")?;
    receive_timeout(&receiver, Duration::from_millis(100))?;

    let meter = Arc::new(Meter::default());
    let (sending, receiving) = (Arc::clone(&meter), Arc::clone(&meter));
    let sending = thread::spawn(move || {
        pin(0)?;
        send_all(&sender, &sending)
    });
    let receiving = thread::spawn(move || {
        pin(1)?;
        receive_all(&receiver, &receiving)
    });
    let sample = measure(&meter, time);
    join(sending)?;
    join(receiving)?;
    ensure!(sample.rate > 0.0, "no datagram arrived");
    Ok(sample)
}

/// 64-byte packets per second of as many flows as this, one after the other, each from a port of its own.
///
/// # Errors
/// When nothing arrives, or the process may not have so many sockets.
pub fn udp_rate_of(ends: &Ends, time: Duration, flows: usize) -> anyhow::Result<Sample> {
    let (_, most) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, most, most)?;
    let address = SocketAddrV4::new(ends.server_addr, UDP_PORT);
    let receiver = join(inside(&ends.server, move || Ok(UdpSocket::bind(address)?)))?;
    setsockopt(&receiver, sockopt::RcvBufForce, &(16 << 20))?;
    receive_timeout(&receiver, Duration::from_millis(100))?;
    let from = SocketAddrV4::new(ends.client_addr, 0);
    let senders = join(inside(&ends.client, move || {
        let mut sockets = Vec::new();
        for _ in 0..flows {
            let socket = UdpSocket::bind(from)?;
            socket.connect(address)?;
            socket.send(&[0x5a; UDP_PAYLOAD])?;
            sockets.push(socket);
        }
        Ok(sockets)
    }))?;
    let meter = Arc::new(Meter::default());
    let (sending, receiving) = (Arc::clone(&meter), Arc::clone(&meter));
    let sending = thread::spawn(move || -> anyhow::Result<()> {
        pin(0)?;
        let mut cpu = CpuClock::start(&sending);
        while !sending.is_stopped() {
            for sockets in senders.chunks(BURST) {
                for socket in sockets {
                    match socket.send(&[0x5a; UDP_PAYLOAD]) {
                        Err(error) if error.raw_os_error() != Some(nix::libc::ENOBUFS) => {
                            return Err(error.into());
                        }
                        _ => {}
                    }
                }
                cpu.tick();
                if sending.is_stopped() {
                    break;
                }
            }
        }
        Ok(())
    });
    let receiving = thread::spawn(move || {
        pin(1)?;
        receive_all(&receiver, &receiving)
    });
    let sample = measure(&meter, time);
    join(sending)?;
    join(receiving)?;
    ensure!(sample.rate > 0.0, "no datagram arrived");
    Ok(sample)
}

fn send_all(socket: &UdpSocket, meter: &Meter) -> anyhow::Result<()> {
    let mut cpu = CpuClock::start(meter);
    let payload = [0x5a; UDP_PAYLOAD];
    let slices = [[IoSlice::new(&payload)]; BURST];
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BURST, None);
    while !meter.is_stopped() {
        let sent = sendmmsg(
            socket.as_raw_fd(),
            &mut headers,
            &slices,
            [None; BURST],
            [],
            MsgFlags::empty(),
        );
        match sent {
            Ok(_) | Err(nix::errno::Errno::ENOBUFS) => {}
            // An answer of the kernel to an earlier datagram.
            Err(nix::errno::Errno::ECONNREFUSED) => {}
            Err(error) => return Err(error).context("sendmmsg"),
        }
        cpu.tick();
    }
    Ok(())
}

fn receive_all(socket: &UdpSocket, meter: &Meter) -> anyhow::Result<()> {
    let mut cpu = CpuClock::start(meter);
    let mut buffers = [[0u8; 128]; BURST];
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BURST, None);
    while !meter.is_stopped() {
        let mut slices: Vec<_> = buffers
            .iter_mut()
            .map(|buffer| [IoSliceMut::new(buffer)])
            .collect();
        match recvmmsg(
            socket.as_raw_fd(),
            &mut headers,
            &mut slices,
            MsgFlags::MSG_WAITFORONE,
            None,
        ) {
            Ok(received) => {
                meter.done.fetch_add(received.count() as u64, Ordering::Relaxed);
            }
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error).context("recvmmsg"),
        }
        cpu.tick();
    }
    Ok(())
}
