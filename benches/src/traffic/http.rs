//! Latency of requests.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::{BULK_PORT, Ends, PATIENCE, inside, join, pin, receive_timeout};

/// Microseconds of requests on one kept-alive HTTP connection, one after the other, in ascending order.
///
/// # Errors
/// When the connection breaks.
pub fn http_latency(ends: &Ends, time: Duration) -> anyhow::Result<Vec<f64>> {
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n";
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let address = SocketAddrV4::new(ends.server_addr, BULK_PORT);
    let listener = join(inside(&ends.server, move || Ok(TcpListener::bind(address)?)))?;
    receive_timeout(&listener, PATIENCE)?;
    let mut client = join(inside(&ends.client, move || {
        TcpStream::connect_timeout(&address.into(), PATIENCE).context("the HTTP connection was not made")
    }))?;
    let (mut server, _) = listener.accept()?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
    }
    let serving = thread::spawn(move || -> anyhow::Result<()> {
        pin(1)?;
        let mut buffer = [0; REQUEST.len()];
        loop {
            match server.read_exact(&mut buffer) {
                Ok(()) => server.write_all(ANSWER)?,
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    });
    let asking = thread::spawn(move || -> anyhow::Result<Vec<f64>> {
        pin(0)?;
        let mut buffer = [0; ANSWER.len()];
        let mut times = Vec::new();
        let start = Instant::now();
        while start.elapsed() < time + time / 5 {
            let asked = Instant::now();
            client.write_all(REQUEST)?;
            client.read_exact(&mut buffer)?;
            if start.elapsed() > time / 5 {
                times.push(asked.elapsed().as_secs_f64() * 1e6);
            }
        }
        Ok(times)
    });
    let mut times = join(asking)?;
    join(serving)?;
    ensure!(!times.is_empty(), "no request was answered");
    times.sort_by(f64::total_cmp);
    Ok(times)
}
