//! A stub of the controller.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

/// Gives every request's head to `answer`, and sends what it says: status line and body. Ends with the test's process.
pub(crate) fn stub(answer: impl Fn(&str) -> (&'static str, &'static str) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            let mut chunk = [0; 4096];
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                let count = stream.read(&mut chunk).unwrap();
                if count == 0 {
                    break;
                }
                head.extend_from_slice(&chunk[..count]);
            }
            let (status, body) = answer(&String::from_utf8_lossy(&head));
            let length = body.len();
            write!(stream, "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}").unwrap();
        }
    });
    format!("http://{address}")
}

/// The path that a request's head asks for.
pub(crate) fn path(head: &str) -> &str {
    head.split_whitespace().nth(1).unwrap_or_default()
}
