//! What runs inside the namespaces: small servers and steady clients.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::plan::Role;
use super::world::World;

/// Longest wait for a connection or an answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Connections that a server takes at once.
const CONNECTIONS: usize = 64;
/// Longest request or answer that is read.
const LONGEST: usize = 8 * 1024;
const HTTP_PAUSE: Duration = Duration::from_millis(400);
const REDIS_PAUSE: Duration = Duration::from_millis(300);

/// How often a path was tried and worked.
#[derive(Debug, Default)]
pub(crate) struct Tries {
    ok: AtomicU64,
    failed: AtomicU64,
}

impl Tries {
    /// (worked, failed) since the start.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (
            self.ok.load(Ordering::Relaxed),
            self.failed.load(Ordering::Relaxed),
        )
    }

    fn count(&self, worked: bool) {
        let counter = if worked { &self.ok } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// The steady traffic of a world.
#[derive(Debug)]
pub(crate) struct Traffic {
    /// web -> app, HTTP.
    pub(crate) web_app: Arc<Tries>,
    /// app -> db, Redis.
    pub(crate) app_db: Arc<Tries>,
}

/// Starts servers and clients; they end with the world.
pub(crate) async fn start(world: &World) -> std::io::Result<Traffic> {
    for role in Role::ALL {
        let listening = world.spawn(role, async move {
            let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, role.port())).await?;
            tokio::spawn(serve(listener, role));
            Ok::<_, std::io::Error>(())
        });
        listening.await.map_err(std::io::Error::other)??;
    }
    let traffic = Traffic {
        web_app: Arc::default(),
        app_db: Arc::default(),
    };
    world.spawn(Role::Web, ask_pages(Arc::clone(&traffic.web_app)));
    world.spawn(Role::App, ask_values(Arc::clone(&traffic.app_db)));
    Ok(traffic)
}

/// One try of a path that nobody planned: from inside `from`, a Redis PING to `db`. Says what came of it.
pub(crate) async fn stray(world: &World, from: Role, v6: bool) -> Result<(), String> {
    let task = world.spawn(from, async move {
        let mut stream = connect(Role::Db, v6).await?;
        let answer = redis(&mut stream, &["PING"]).await?;
        if answer.starts_with(b"+PONG") {
            Ok(())
        } else {
            Err("an answer that is no PONG".to_owned())
        }
    });
    task.await.map_err(|error| error.to_string())?
}

async fn serve(listener: TcpListener, role: Role) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, or a connection that ended at once: neither ends a server.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        tokio::spawn(async move {
            let _slot = slot;
            let served = match role {
                Role::Web | Role::App => serve_http(stream, role).await,
                Role::Db => serve_redis(stream).await,
            };
            if let Err(error) = served {
                tracing::trace!(%error, role = role.name(), "connection ended");
            }
        });
    }
}

async fn serve_http(mut stream: TcpStream, role: Role) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|part| part == b"\r\n\r\n") {
        if request.len() > LONGEST || stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let body = format!(
        "<html><body>{}</body></html>\n",
        format!("this is {} ", role.name()).repeat(40)
    );
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

async fn serve_redis(mut stream: TcpStream) -> std::io::Result<()> {
    let mut input = Vec::new();
    loop {
        while let Some((command, used)) = redis_command(&input) {
            input.drain(..used);
            let answer: &[u8] = match command.as_slice() {
                b"PING" => b"+PONG\r\n",
                b"SET" => b"+OK\r\n",
                b"GET" => b"$5\r\nhello\r\n",
                _ => b"-ERR unknown command\r\n",
            };
            stream.write_all(answer).await?;
        }
        if input.len() > LONGEST || stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
    }
}

/// First word of the first command (an array of bulk strings, RESP 2) and the bytes of the command; `None` while it is
/// not complete. What is no command at all is taken as one unknown word, up to the end.
fn redis_command(input: &[u8]) -> Option<(Vec<u8>, usize)> {
    if input.is_empty() {
        return None;
    }
    let malformed = Some((b"?".to_vec(), input.len()));
    let number = |at: usize, mark: u8| -> Result<Option<(usize, usize)>, ()> {
        let Some(line) = input.get(at..) else {
            return Ok(None);
        };
        let Some(end) = line.windows(2).position(|part| part == b"\r\n") else {
            return if line.len() > 32 { Err(()) } else { Ok(None) };
        };
        let text = line
            .get(1..end)
            .filter(|_| line.first() == Some(&mark))
            .ok_or(())?;
        let value = std::str::from_utf8(text)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or(())?;
        if value > LONGEST {
            Err(())
        } else {
            Ok(Some((value, at + end + 2)))
        }
    };
    let (count, mut at) = match number(0, b'*') {
        Ok(Some(found)) => found,
        Ok(None) => return None,
        Err(()) => return malformed,
    };
    let mut first = None;
    for _ in 0..count {
        let (length, start) = match number(at, b'$') {
            Ok(Some(found)) => found,
            Ok(None) => return None,
            Err(()) => return malformed,
        };
        let word = input.get(start..start + length)?;
        first.get_or_insert_with(|| word.to_ascii_uppercase());
        at = start + length + 2;
        if input.len() < at {
            return None;
        }
    }
    Some((first.unwrap_or_default(), at))
}

async fn ask_pages(tries: Arc<Tries>) {
    for round in 0u64.. {
        let page = page(round % 2 == 1).await;
        tries.count(page.is_ok());
        tokio::time::sleep(HTTP_PAUSE).await;
    }
}

async fn page(v6: bool) -> Result<(), String> {
    let mut stream = connect(Role::App, v6).await?;
    let request = b"GET /page HTTP/1.1\r\nHost: app\r\nUser-Agent: nv-demo\r\nConnection: close\r\n\r\n";
    let mut answer = Vec::new();
    let exchange = async {
        stream.write_all(request).await?;
        let mut limited = stream.take(LONGEST as u64);
        limited.read_to_end(&mut answer).await
    };
    in_time(exchange).await?;
    if answer.starts_with(b"HTTP/1.1 200 OK") {
        Ok(())
    } else {
        Err("no page".to_owned())
    }
}

/// Keeps one connection open for its questions, and now and then opens one over IPv6.
async fn ask_values(tries: Arc<Tries>) {
    let mut kept: Option<TcpStream> = None;
    for round in 0u64.. {
        let asked = if round % 5 == 4 {
            match connect(Role::Db, true).await {
                Ok(mut stream) => redis(&mut stream, &["PING"]).await,
                Err(error) => Err(error),
            }
        } else {
            match ask_value(&mut kept).await {
                Ok(answer) => Ok(answer),
                Err(error) => {
                    kept = None;
                    Err(error)
                }
            }
        };
        tries.count(asked.is_ok());
        tokio::time::sleep(REDIS_PAUSE).await;
    }
}

async fn ask_value(kept: &mut Option<TcpStream>) -> Result<Vec<u8>, String> {
    let stream = match kept {
        Some(stream) => stream,
        None => kept.insert(connect(Role::Db, false).await?),
    };
    redis(stream, &["SET", "greeting", "hello"]).await?;
    redis(stream, &["GET", "greeting"]).await
}

async fn redis(stream: &mut TcpStream, words: &[&str]) -> Result<Vec<u8>, String> {
    let mut command = format!("*{}\r\n", words.len());
    for word in words {
        command.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    let mut answer = vec![0; 64];
    let exchange = async {
        stream.write_all(command.as_bytes()).await?;
        stream.read(&mut answer).await
    };
    let length = in_time(exchange).await?;
    answer.truncate(length);
    if answer.is_empty() {
        Err("closed without an answer".to_owned())
    } else {
        Ok(answer)
    }
}

async fn connect(to: Role, v6: bool) -> Result<TcpStream, String> {
    in_time(TcpStream::connect(SocketAddr::new(to.address(v6), to.port()))).await
}

async fn in_time<T>(work: impl Future<Output = std::io::Result<T>>) -> Result<T, String> {
    match timeout(PATIENCE, work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_commands_are_read_one_by_one_and_only_when_complete() {
        let two = b"*2\r\n$3\r\nget\r\n$1\r\nk\r\n*1\r\n$4\r\nPING\r\n";
        assert_eq!(redis_command(two), Some((b"GET".to_vec(), 20)));
        assert_eq!(redis_command(&two[20..]), Some((b"PING".to_vec(), 14)));
        for end in 1..20 {
            assert_eq!(redis_command(&two[..end]), None, "{end}");
        }
        assert_eq!(redis_command(b"GET / HTTP/1.1\r\n"), Some((b"?".to_vec(), 16)));
        assert_eq!(redis_command(b"*99999999\r\n"), Some((b"?".to_vec(), 11)));
    }
}
