//! Login and logout.

use std::io::{BufRead as _, IsTerminal as _, Read as _, Write as _};
use std::path::Path;

use nix::sys::termios;
use reqwest::Method;
use serde_json::{Value, json};

use super::Context;
use crate::client::Client;
use crate::error::{CtlError, EXIT_OK};
use crate::output::note;

pub(super) async fn login(context: &Context, username: &str, file: Option<&Path>) -> Result<u8, CtlError> {
    let password = password(context, username, file)?;
    let client = Client::anonymous(&context.config)?;
    let body = json!({"password": {"username": username, "password": password}});
    let answer = client.send(Method::POST, "/v1/auth", Some(&body)).await?;
    let token = answer.body.pointer("/token/token").and_then(Value::as_str);
    let token = token.ok_or_else(|| client.garbled("a login without a token"))?;
    context.config.save_token(token)?;
    note(&format!("logged in at {} as {username}", context.config.server.0));
    Ok(EXIT_OK)
}

pub(super) async fn logout(context: &Context) -> Result<u8, CtlError> {
    let ended = context.client()?.send(Method::DELETE, "/v1/auth", None).await;
    context.config.forget_token()?;
    match ended {
        // The session had ended already: what was asked for is so.
        Err(CtlError::Refused { status: 401, .. }) | Ok(_) => {
            note("logged out");
            Ok(EXIT_OK)
        }
        Err(error) => Err(error),
    }
}

fn password(context: &Context, username: &str, file: Option<&Path>) -> Result<String, CtlError> {
    let text = if let Some(file) = file {
        let problem = |problem: std::io::Error| CtlError::File {
            file: file.display().to_string(),
            problem: problem.to_string(),
        };
        if file.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin()
                .lock()
                .take(4096)
                .read_to_string(&mut text)
                .map_err(problem)?;
            text
        } else {
            std::fs::read_to_string(file).map_err(problem)?
        }
    } else if let Ok(text) = std::env::var("NV_PASSWORD") {
        text
    } else if context.no_input || !std::io::stdin().is_terminal() {
        return Err(CtlError::Usage(
            "a password is needed: use --password-file or NV_PASSWORD".into(),
        ));
    } else {
        ask(username)?
    };
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

/// Asks on the terminal with echo off.
fn ask(username: &str) -> Result<String, CtlError> {
    let io = |source| CtlError::Io {
        action: "cannot ask for the password".into(),
        source,
    };
    let stdin = std::io::stdin();
    let before = termios::tcgetattr(&stdin).map_err(|error| io(error.into()))?;
    let mut quiet = before.clone();
    quiet.local_flags.remove(termios::LocalFlags::ECHO);
    let mut err = std::io::stderr();
    write!(err, "password of {}: ", crate::output::escape(username, false))
        .and_then(|()| err.flush())
        .map_err(io)?;
    termios::tcsetattr(&stdin, termios::SetArg::TCSANOW, &quiet).map_err(|error| io(error.into()))?;
    let mut text = String::new();
    let read = stdin.lock().read_line(&mut text);
    termios::tcsetattr(&stdin, termios::SetArg::TCSANOW, &before).map_err(|error| io(error.into()))?;
    let _ = writeln!(err);
    read.map_err(io)?;
    Ok(text)
}
