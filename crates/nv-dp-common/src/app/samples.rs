//! Samples of every recognizer, and what must not be taken for it.

extern crate std;

use std::vec;
use std::vec::Vec;

use nv_types::{Application, IpProto};

use super::{Payload, identify, recognize};
use crate::layout::{APP_HTTP2, APP_PENDING};
use crate::packet::{Packet as _, SlicePacket, WINDOW};

pub(super) fn app(proto: IpProto, from_client: bool, bytes: &[u8]) -> Option<Application> {
    let packet = SlicePacket(bytes);
    let mut payload = Payload {
        bytes: [0; WINDOW],
        len: u32::try_from(bytes.len()).unwrap(),
        from_client,
    };
    assert!(packet.window(0, payload.len, &mut payload.bytes));
    identify(proto, &mut payload, &packet, 0)
}

/// What a payload says of a flow of which so much is known.
pub(super) fn staged(proto: IpProto, from_client: bool, bytes: &[u8], before: u8) -> u8 {
    let packet = SlicePacket(bytes);
    let mut payload = Payload {
        bytes: [0; WINDOW],
        len: u32::try_from(bytes.len()).unwrap(),
        from_client,
    };
    assert!(packet.window(0, payload.len, &mut payload.bytes));
    recognize(proto, &mut payload, &packet, 0, before)
}

fn client(bytes: &[u8]) -> Option<Application> {
    app(IpProto::TCP, true, bytes)
}

fn server(bytes: &[u8]) -> Option<Application> {
    app(IpProto::TCP, false, bytes)
}

fn datagram(from_client: bool, bytes: &[u8]) -> Option<Application> {
    app(IpProto::UDP, from_client, bytes)
}

/// No proper prefix that ends before the signature does may be recognized as something else.
fn only_ever(expected: Application, from_client: bool, proto: IpProto, bytes: &[u8]) {
    assert_eq!(app(proto, from_client, bytes), Some(expected));
    for end in 1..bytes.len() {
        let found = app(proto, from_client, &bytes[..end]);
        assert!(
            found.is_none() || found == Some(expected),
            "{end} bytes of {expected}: {found:?}"
        );
    }
}

#[test]
fn http() {
    for request in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"POST /x HTTP/1.0\r\n",
        b"HEAD / HTTP/1.1\r\n",
        b"PUT /a HTTP/1.1\r\n",
        b"DELETE /a HTTP/1.1\r\n",
        b"PATCH /a HTTP/1.1\r\n",
        b"TRACE / HTTP/1.1\r\n",
        b"OPTIONS * HTTP/1.1\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\n",
        b"GET http://example.org/ HTTP/1.1\r\n",
    ] {
        only_ever(Application::HTTP, true, IpProto::TCP, request);
        assert_eq!(server(request), None, "a server sends no requests");
    }
    only_ever(Application::HTTP, false, IpProto::TCP, b"HTTP/1.1 200 OK\r\n");
    assert_eq!(client(b"HTTP/1.1 200 OK\r\n"), None);
    for none in [
        &b"GET"[..],
        b"GETX / HTTP",
        b"GET \r\n",
        b"get / HTTP/1.1",
        b"HTTP/2 200 OK\r\n\r\n",
    ] {
        assert_eq!(client(none), None);
        assert_eq!(server(none), None);
    }
}

#[test]
fn grpc_and_other_http2_by_the_first_request() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const SETTINGS: &[u8] = b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64";
    const UPDATE: &[u8] = b"\0\0\x04\x08\0\0\0\0\0\0\x0f\0\x01";
    let request = |fields: &[u8]| {
        let mut frame = vec![0, 0, u8::try_from(fields.len()).unwrap(), 1, 4, 0, 0, 0, 1];
        frame.extend(fields);
        frame
    };
    let grpc = request(b"\x83\x86\x45\x02/a\x41\x01b\x5f\x10application/grpc\x40\x02te\x08trailers");
    let coded = request(b"\x83\x86\x45\x02/a\x5f\x8b\x1d\x75\xd0\x62\x0d\x26\x3d\x4c\x4d\x65\x64");
    let web = request(b"\x82\x86\x84\x41\x01b\x53\x03*/*");
    let all = |parts: &[&[u8]]| parts.concat();
    assert_eq!(
        client(&all(&[PREFACE, SETTINGS, UPDATE, &grpc])),
        Some(Application::GRPC)
    );
    assert_eq!(
        client(&all(&[PREFACE, SETTINGS, &coded])),
        Some(Application::GRPC)
    );
    assert_eq!(client(&all(&[PREFACE, SETTINGS, &web])), Some(Application::HTTP2));
    let stage = |before, bytes: &[u8]| staged(IpProto::TCP, true, bytes, before);
    assert_eq!(stage(APP_PENDING, PREFACE), APP_HTTP2);
    assert_eq!(stage(APP_PENDING, &all(&[PREFACE, SETTINGS, UPDATE])), APP_HTTP2);
    assert_eq!(stage(APP_HTTP2, SETTINGS), APP_HTTP2, "still nothing asked");
    assert_eq!(
        stage(APP_HTTP2, &all(&[b"\0\0\0\x04\x01\0\0\0\0", &grpc])),
        Application::GRPC.index()
    );
    assert_eq!(stage(APP_HTTP2, &web), Application::HTTP2.index());
    assert_eq!(stage(APP_HTTP2, b"SSH-2.0-OpenSSH"), APP_PENDING);
    assert_eq!(stage(APP_PENDING, &grpc), APP_PENDING, "no preface");
    assert_eq!(
        staged(IpProto::TCP, false, SETTINGS, APP_PENDING),
        APP_HTTP2,
        "the server first"
    );
    assert_eq!(client(b"PRI * HTTP/1.1\r\n"), None);
    assert_eq!(client(&PREFACE[..23]), None);
}

/// A hello with one cipher suite and `rest` of extensions.
fn hello(kind: u8, session: u8, suites: &[u8], rest: usize) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(session);
    body.extend(std::iter::repeat_n(9, session.into()));
    body.extend(suites);
    body.extend(std::iter::repeat_n(1, rest));
    let len = u16::try_from(body.len()).unwrap();
    let mut record = vec![22, 3, 1];
    record.extend((len + 4).to_be_bytes());
    record.extend([kind, 0]);
    record.extend(len.to_be_bytes());
    record.extend(body);
    record
}

#[test]
fn tls() {
    for session in [0, 32] {
        let client_hello = hello(1, session, &[0, 2, 0x13, 1, 1, 0], 40);
        only_ever(Application::SSL, true, IpProto::TCP, &client_hello);
        assert_eq!(server(&client_hello), None, "a server sends no ClientHello");
        let server_hello = hello(2, session, &[0x13, 1, 0], 40);
        assert_eq!(server(&server_hello), Some(Application::SSL));
        assert_eq!(client(&server_hello), None);
    }
    assert_eq!(
        client(&hello(1, 32, &[0, 3, 0, 0, 0], 40)),
        None,
        "half a cipher suite"
    );
    assert_eq!(client(&hello(1, 32, &[0, 0, 1, 0], 40)), None, "no cipher suite");
    assert_eq!(
        client(&hello(1, 32, &[9, 0, 1, 0], 40)),
        None,
        "more suites than hello"
    );
    for (place, wrong) in [
        (0, 21),
        (1, 2),
        (2, 5),
        (3, 0xff),
        (5, 3),
        (6, 1),
        (9, 2),
        (10, 9),
        (43, 33),
    ] {
        let mut bad = hello(1, 32, &[0, 2, 0x13, 1, 1, 0], 40);
        bad[place] = wrong;
        assert_eq!(client(&bad), None, "byte {place}");
    }
}

#[test]
fn ssh() {
    only_ever(Application::SSH, true, IpProto::TCP, b"SSH-2.0-OpenSSH_9.2p1\r\n");
    only_ever(Application::SSH, false, IpProto::TCP, b"SSH-1.99-old\r\n");
    assert_eq!(client(b"SSH-3.0-x\r\n"), None);
    assert_eq!(client(b"SSH"), None);
}

fn question(flags: u16, name: &[u8]) -> Vec<u8> {
    let mut message = vec![0x12, 0x34];
    message.extend(flags.to_be_bytes());
    message.extend([0, 1, 0, 0, 0, 0, 0, 0]);
    message.extend(name);
    message.extend([0, 1, 0, 1]);
    message
}

#[test]
fn dns() {
    let query = question(0x0100, b"\x07example\x03org\x00");
    only_ever(Application::DNS, true, IpProto::UDP, &query);
    let response = question(0x8180, b"\x07example\x03org\x00");
    assert_eq!(datagram(false, &response), Some(Application::DNS));
    assert_eq!(datagram(true, &response), None, "a client does not answer");
    let long = question(
        0x0100,
        b"\x3fabcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijklm\x03org\x00",
    );
    assert_eq!(
        datagram(true, &long),
        Some(Application::DNS),
        "a name beyond the window"
    );
    let many = question(0x0100, b"\x01a\x01b\x01c\x01d\x01e\x01f\x01g\x01h\x01i\x01j\x00");
    assert_eq!(datagram(true, &many), Some(Application::DNS));
    assert_eq!(
        datagram(true, &question(0x0100, b"\xc0\x0c\x00")),
        None,
        "a pointer in a question"
    );
    assert_eq!(
        datagram(true, &question(0x7800, b"\x01a\x00")),
        None,
        "an opcode that is none"
    );
    assert_eq!(
        datagram(true, &question(0x0100, b"\x3fa\x00")),
        None,
        "a label beyond the message"
    );
    let mut class = query.clone();
    *class.last_mut().unwrap() = 99;
    assert_eq!(datagram(true, &class), None, "a class that is none");
    let mut stream = u16::try_from(query.len()).unwrap().to_be_bytes().to_vec();
    stream.extend(&query);
    only_ever(Application::DNS, true, IpProto::TCP, &stream);
    stream[1] -= 1;
    assert_eq!(client(&stream), None, "more than its length says");
}

#[test]
fn redis() {
    only_ever(Application::REDIS, true, IpProto::TCP, b"*1\r\n$4\r\nPING\r\n");
    only_ever(Application::REDIS, true, IpProto::TCP, b"*12\r\n$3\r\nSET\r\n");
    assert_eq!(client(b"PING\r\n"), Some(Application::REDIS));
    assert_eq!(server(b"+PONG\r\n"), Some(Application::REDIS));
    assert_eq!(
        server(b"-NOAUTH Authentication required.\r\n"),
        Some(Application::REDIS)
    );
    assert_eq!(
        server(b"-DENIED Redis is running in protected mode\r\n"),
        Some(Application::REDIS)
    );
    for none in [
        &b"*0\r\n$4\r\n"[..],
        b"*x\r\n$4\r\n",
        b"*1\r\n+4\r\n",
        b"PING",
        b"+OK\r\n",
        b"-ERR no\r\n",
    ] {
        assert_eq!(client(none), None);
        assert_eq!(server(none), None);
    }
}

fn greeting(version: &[u8]) -> Vec<u8> {
    let mut body = vec![10];
    body.extend(version);
    body.push(0);
    body.extend([1; 60]);
    let mut packet = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
    packet.extend(body);
    packet
}

#[test]
fn mysql() {
    for version in [&b"8.0.36"[..], b"5.5.5-10.11.6-MariaDB", b"11.4.2-MariaDB"] {
        let greeting = greeting(version);
        assert_eq!(server(&greeting), Some(Application::MYSQL));
        assert_eq!(client(&greeting), None, "a client does not greet");
    }
    assert_eq!(server(&greeting(b"x.0")), None);
    let mut other = greeting(b"8.0.36");
    other[3] = 1;
    assert_eq!(server(&other), None, "not the first packet");
    other[3] = 0;
    other[4] = 9;
    assert_eq!(server(&other), None, "another protocol version");
}

fn startup(code: u32, rest: &[u8]) -> Vec<u8> {
    let mut message = u32::try_from(8 + rest.len()).unwrap().to_be_bytes().to_vec();
    message.extend(code.to_be_bytes());
    message.extend(rest);
    message
}

#[test]
fn postgresql() {
    only_ever(
        Application::POSTGRESQL,
        true,
        IpProto::TCP,
        &startup(3 << 16, b"user\0nv\0\0"),
    );
    only_ever(
        Application::POSTGRESQL,
        true,
        IpProto::TCP,
        &startup(80_877_103, b""),
    );
    only_ever(
        Application::POSTGRESQL,
        true,
        IpProto::TCP,
        &startup(80_877_104, b""),
    );
    only_ever(
        Application::POSTGRESQL,
        true,
        IpProto::TCP,
        &startup(80_877_102, &[9; 8]),
    );
    assert_eq!(server(&startup(80_877_103, b"")), None);
    assert_eq!(client(&startup(2 << 16, b"user\0nv\0\0")), None, "version 2");
    assert_eq!(
        client(&startup(80_877_103, b"x")),
        None,
        "a request with more in it"
    );
}

fn mongo(operation: u32, response_to: u32, flags: u32) -> Vec<u8> {
    let mut message = Vec::new();
    for word in [60, 1, response_to, operation, flags] {
        message.extend(word.to_le_bytes());
    }
    message.extend([0; 40]);
    message
}

#[test]
fn mongodb() {
    assert_eq!(client(&mongo(2013, 0, 0)), Some(Application::MONGODB));
    assert_eq!(server(&mongo(2013, 1, 0)), Some(Application::MONGODB));
    assert_eq!(client(&mongo(2004, 0, 4)), Some(Application::MONGODB));
    assert_eq!(server(&mongo(1, 5, 8)), Some(Application::MONGODB));
    assert_eq!(client(&mongo(2013, 7, 0)), None, "a client answers nothing");
    assert_eq!(client(&mongo(2013, 0, 1 << 20)), None, "a flag that is none");
    assert_eq!(client(&mongo(9999, 0, 0)), None);
}

#[test]
fn ntp() {
    let mut request = [0; 48];
    request[0] = 4 << 3 | 3;
    only_ever(Application::NTP, true, IpProto::UDP, &request);
    let mut answer = request;
    answer[0] = 4 << 3 | 4;
    assert_eq!(datagram(false, &answer), Some(Application::NTP));
    assert_eq!(datagram(true, &answer), None);
    request[1] = 17;
    assert_eq!(datagram(true, &request), None, "a stratum that is none");
    assert_eq!(datagram(true, &[0x23; 49]), None, "a length that is none");
}

#[test]
fn dhcp() {
    let mut discover = vec![0; 300];
    discover[..3].copy_from_slice(&[1, 1, 6]);
    discover[236..240].copy_from_slice(&[99, 130, 83, 99]);
    assert_eq!(datagram(true, &discover), Some(Application::DHCP));
    discover[236] = 0;
    assert_eq!(datagram(true, &discover), None, "BOOTP without the cookie");
    assert_eq!(datagram(true, &discover[..238]), None);
}

#[test]
fn nothing_of_the_above() {
    for bytes in [&b""[..], b"\0", b"hello", &[0xff; 100], &[0; 100], b"\r\n\r\n"] {
        for from_client in [true, false] {
            for proto in [IpProto::TCP, IpProto::UDP, IpProto::SCTP] {
                assert_eq!(app(proto, from_client, bytes), None);
            }
        }
    }
}
