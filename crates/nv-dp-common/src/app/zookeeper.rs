//! Apache ZooKeeper (`zookeeper.jute`: ConnectRequest and ConnectResponse) and those of its four letter words that no other protocol begins with.

use super::Payload;

/// Longest session timeout that is plausible, milliseconds.
const MAX_TIMEOUT: u32 = 1 << 26;

/// ConnectRequest: version 0, the last transaction, a timeout, session, its password of 16 bytes or none, and since 3.4 whether
/// reading is enough.
#[inline(never)]
pub(super) const fn is_request(payload: &Payload) -> bool {
    if payload.len == 4 || payload.len == 5 {
        return payload.starts(b"ruok")
            || payload.starts(b"srvr")
            || payload.starts(b"mntr")
            || payload.starts(b"isro");
    }
    let length = payload.be32(0);
    let timeout = payload.be32(16);
    let password = payload.be32(28);
    length + 4 == payload.len
        && payload.be32(4) == 0
        && timeout != 0
        && timeout < MAX_TIMEOUT
        && (password == 0 || password == 16)
        && (length == 28 + password || length == 29 + password)
}

/// ConnectResponse: version 0, the timeout, session, password.
#[inline(never)]
pub(super) const fn is_response(payload: &Payload) -> bool {
    let length = payload.be32(0);
    let timeout = payload.be32(8);
    length + 4 == payload.len
        && (length == 36 || length == 37)
        && payload.be32(4) == 0
        && timeout != 0
        && timeout < MAX_TIMEOUT
        && payload.be32(20) == 16
}
