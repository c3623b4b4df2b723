//! SMTP (RFC 5321) and LMTP (RFC 2033). A server's greeting is looked at with FTP's: see `ftp`.

use super::Payload;

/// `EHLO`, `HELO` or `LHLO` and a name.
#[inline(never)]
pub(super) const fn is_hello(payload: &Payload) -> bool {
    payload.len > 7
        && (payload.begins_in_any_case(b"ehlo ")
            | payload.begins_in_any_case(b"helo ")
            | payload.begins_in_any_case(b"lhlo "))
        && payload.bytes[4] == b' '
        && (payload.bytes[5].is_ascii_alphanumeric() || payload.bytes[5] == b'[')
}
