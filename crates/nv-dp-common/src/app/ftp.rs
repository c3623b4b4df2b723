//! FTP, its control connection (RFC 959, RFC 4217).
//!
//! A server greets with `220`, as SMTP's does; what follows is free text. If it says neither, the flow is pending with both as
//! candidates until the client's first command.

use nv_types::Application;

use super::Payload;
use super::payload::words;
use crate::layout::{APP_GREETED, APP_PENDING};

/// What a greeting with `220` says: SMTP if it has the word, as nearly every server's does; else FTP if it has that.
#[inline(never)]
pub(super) fn greeting(payload: &Payload) -> u8 {
    let is_ready = payload.len >= 6 && (payload.begins(b"220 ") | payload.begins(b"220-"));
    if !is_ready {
        return APP_PENDING;
    }
    let found = payload.holds(words(*b"\0MTP", *b"\0FTP"), 0x00ff_ffff);
    if found & 1 != 0 {
        Application::SMTP.index()
    } else if found != 0 {
        Application::FTP.index()
    } else {
        APP_GREETED
    }
}

/// A command that only FTP has, after a greeting that SMTP has too.
#[inline(never)]
pub(super) const fn is_command(payload: &Payload) -> bool {
    payload.len >= 6
        && (payload.begins_in_any_case(b"user ")
            | payload.begins_in_any_case(b"feat")
            | payload.begins_in_any_case(b"syst")
            | payload.begins_in_any_case(b"acct ")
            | payload.begins_in_any_case(b"opts "))
        || is_auth(payload)
}

/// `AUTH TLS` or `AUTH SSL` before anything else.
#[inline(never)]
pub(super) const fn is_auth(payload: &Payload) -> bool {
    payload.len >= 10
        && (payload.begins_in_any_case(b"auth tls") | payload.begins_in_any_case(b"auth ssl"))
        && payload.bytes[8] == b'\r'
}
