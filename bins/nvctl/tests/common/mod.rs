//! A stub of the controller, and the program beside it.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::Command;

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

/// Runs the program with a token and a configuration of its own: exit code, standard output, standard error.
pub(crate) fn nvctl(server: &str, token: &str, args: &[&str]) -> (i32, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, token).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_nvctl"))
        .args(args)
        .env("NV_SERVER", server)
        .env("NV_TOKEN_FILE", &file)
        .env("NV_CONFIG", folder.path().join("config.toml"))
        .env_remove("NV_CONTEXT")
        .env_remove("NV_CA")
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}
