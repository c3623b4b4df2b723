//! A sample of each row of the table, built after the document that the row names, against all other rows; and what is none.

extern crate std;

use std::string::String;
use std::vec::Vec;
use std::{eprintln, format, vec};

use nv_types::{Application, IpProto};

use super::rows;
use super::samples::{app, staged};
use crate::layout::{APP_GREETED, APP_PENDING};

const TCP: IpProto = IpProto::TCP;
const UDP: IpProto = IpProto::UDP;

struct Sample {
    app: Application,
    proto: IpProto,
    from_client: bool,
    bytes: Vec<u8>,
}

fn sample(app: Application, proto: IpProto, from_client: bool, bytes: impl Into<Vec<u8>>) -> Sample {
    Sample {
        app,
        proto,
        from_client,
        bytes: bytes.into(),
    }
}

/// Bytes written as hex, with spaces, and text between quotation marks.
fn hex(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (place, part) in text.split('\'').enumerate() {
        if place % 2 == 1 {
            bytes.extend(part.as_bytes());
            continue;
        }
        let digits: Vec<char> = part.chars().filter(|c| !c.is_whitespace()).collect();
        for pair in digits.chunks(2) {
            let pair: String = pair.iter().collect();
            bytes.push(u8::from_str_radix(&pair, 16).unwrap());
        }
    }
    bytes
}

fn padded(mut bytes: Vec<u8>, len: usize) -> Vec<u8> {
    bytes.resize(len, 0);
    bytes
}

fn samples() -> Vec<Sample> {
    use Application as A;
    let client = |app, bytes: &str| sample(app, TCP, true, hex(bytes));
    let server = |app, bytes: &str| sample(app, TCP, false, hex(bytes));
    let asks = |app, bytes: &str| sample(app, UDP, true, hex(bytes));
    let answers = |app, bytes: &str| sample(app, UDP, false, hex(bytes));
    vec![
        client(A::HTTP, "'PROPFIND /dav HTTP/1.1' 0d0a 'Host: a' 0d0a0d0a"),
        client(A::HTTP, "'OPTIONS * HTTP/1.1' 0d0a0d0a"),
        client(
            A::RTSP,
            "'OPTIONS rtsp://cam.example/1 RTSP/1.0' 0d0a 'CSeq: 1' 0d0a0d0a",
        ),
        client(
            A::RTSP,
            "'DESCRIBE rtsp://cam.example/1 RTSP/1.0' 0d0a 'CSeq: 2' 0d0a0d0a",
        ),
        client(A::RTSP, "'OPTIONS * RTSP/2.0' 0d0a 'CSeq: 1' 0d0a0d0a"),
        server(A::RTSP, "'RTSP/1.0 200 OK' 0d0a 'CSeq: 1' 0d0a0d0a"),
        client(A::SIP, "'REGISTER sip:example.com SIP/2.0' 0d0a0d0a"),
        asks(
            A::SIP,
            "'INVITE sip:bob@biloxi.example.com SIP/2.0' 0d0a 'Via: SIP/2.0/UDP a' 0d0a0d0a",
        ),
        asks(A::SIP, "'OPTIONS sips:carol@chicago.com SIP/2.0' 0d0a0d0a"),
        answers(A::SIP, "'SIP/2.0 100 Trying' 0d0a0d0a"),
        server(A::SMTP, "'220 mail.example.org ESMTP Postfix' 0d0a"),
        server(A::SMTP, "'220-ftp.example.org ESMTP ready' 0d0a"),
        client(A::SMTP, "'EHLO client.example.org' 0d0a"),
        client(A::SMTP, "'helo [192.0.2.1]' 0d0a"),
        server(A::FTP, "'220 (vsFTPd 3.0.3)' 0d0a"),
        server(A::FTP, "'220 ProFTPD Server (Debian) [192.0.2.1]' 0d0a"),
        client(A::FTP, "'AUTH TLS' 0d0a"),
        client(
            A::KAFKA,
            "00000023 0012 0003 00000001 0007 'kclient' 00 07 'rdkafka' 06 '2.3.0' 00 0000",
        ),
        client(A::KAFKA, "0000000a 0012 0000 00000000 ffff"),
        client(A::MQTT, "10 0d 0004 'MQTT' 04 02 003c 0001 'a'"),
        client(A::MQTT, "10 10 0006 'MQIsdp' 03 02 003c 0002 'ab'"),
        client(A::MQTT, "10 12 0004 'MQTT' 05 02 003c 00 0005 'cl-01'"),
        client(A::AMQP, "'AMQP' 00000901"),
        client(A::AMQP, "'AMQP' 03010000"),
        server(A::AMQP, "'AMQP' 00000901"),
        server(
            A::NATS,
            "'INFO {\"server_id\":\"NA\",\"version\":\"2.9.10\"} ' 0d0a",
        ),
        client(A::NATS, "'CONNECT {\"verbose\":false}' 0d0a"),
        client(A::LDAP, "30 0c 02 01 01 60 07 02 01 03 04 00 80 00"),
        client(
            A::LDAP,
            "30 84 0000 0014 02 01 01 60 84 0000 000b 02 01 03 04 02 'cn' 80 02 'pw'",
        ),
        client(A::LDAP, "30 1d 02 01 01 77 18 80 16 '1.3.6.1.4.1.1466.20037'"),
        client(
            A::LDAP,
            "30 25 02 01 02 63 20 04 00 0a 01 00 0a 01 00 02 01 00 02 01 00 01 01 00 87 0b 'objectclass' 30 00",
        ),
        client(A::RDP, "03 00 00 13 0e e0 0000 0000 00 01 00 0800 0b000000"),
        client(
            A::RDP,
            "03 00 00 23 1e e0 0000 0000 00 'Cookie: mstshash=admin' 0d0a",
        ),
        sample(
            A::SMB,
            TCP,
            true,
            padded(hex("00000040 fe 'SMB' 4000 0000 0000 0000 0000 1f00"), 68),
        ),
        sample(
            A::SMB,
            TCP,
            false,
            padded(hex("00000040 fe 'SMB' 4000 0100 0000 0000 0000 0100"), 68),
        ),
        sample(
            A::SMB,
            TCP,
            true,
            padded(hex("00000040 ff 'SMB' 72 00000000 18 53c8"), 68),
        ),
        sample(
            A::ORACLE,
            TCP,
            true,
            padded(
                hex("0060 0000 01 00 0000 013e 012c 0c41 2000 ffff 4f98 0000 0001 0026 003a"),
                96,
            ),
        ),
        client(
            A::MSSQL,
            "12 01 002f 0000 01 00 00 001a 0006 01 0020 0001 02 0021 0001 03 0022 0004 04 0026 0001 ff 0900 0000 0000 01 00 00000000 00",
        ),
        client(A::CASSANDRA, "04 00 0000 05 00000000"),
        client(
            A::CASSANDRA,
            "04 00 0001 01 00000016 0001 000b 'CQL_VERSION' 0005 '3.0.0'",
        ),
        client(A::CASSANDRA, "02 00 00 05 00000000"),
        server(A::CASSANDRA, "84 00 0001 02 00000000"),
        server(
            A::CASSANDRA,
            "84 00 0000 06 00000014 0001 000b 'COMPRESSION' 0001 0001 'x'",
        ),
        client(
            A::ZOOKEEPER,
            "0000002d 00000000 0000000000000000 00007530 0000000000000000 00000010 00000000000000000000000000000000 00",
        ),
        client(A::ZOOKEEPER, "'ruok'"),
        server(
            A::ZOOKEEPER,
            "00000025 00000000 00007530 0100000000000001 00000010 0102030405060708090a0b0c0d0e0f10 00",
        ),
        client(A::MEMCACHED, "'get key' 0d0a"),
        client(A::MEMCACHED, "'set key 0 60 5' 0d0a 'value' 0d0a"),
        client(A::MEMCACHED, "'version' 0d0a"),
        client(
            A::MEMCACHED,
            "80 0a 0000 00 00 0000 00000000 00000000 0000000000000000",
        ),
        client(
            A::MEMCACHED,
            "80 00 0005 00 00 0000 00000005 00000000 0000000000000000 'Hello'",
        ),
        server(
            A::MEMCACHED,
            "81 0a 0000 00 00 0000 00000000 00000000 0000000000000000",
        ),
        client(
            A::COUCHBASE,
            "80 1f 0003 00 00 0000 00000007 00000000 0000000000000000 'sdk' 0003 0006",
        ),
        client(A::SPARK, "0000000000000019 03 0000000000000001 00000004 '1234'"),
        client(A::SPARK, "0000000000000011 09 00000004 '1234'"),
        client(A::SPARK, "0000000000000017 06 0000000a '/jars/a.ja'"),
        client(A::BITTORRENT, "13 'BitTorrent protocol' 0000000000100005 00"),
        server(A::BITTORRENT, "13 'BitTorrent protocol' 0000000000100005 00"),
        asks(
            A::BITTORRENT,
            "'d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe'",
        ),
        answers(A::BITTORRENT, "'d1:rd2:id20:mnopqrstuvwxyz123456e1:t2:aa1:y1:re'"),
        asks(A::BITTORRENT, "00000417 27101980 00000000 12345678"),
        asks(A::BITTORRENT, "41 00 1234 01020304 00000000 00100000 0001 0000"),
        sample(
            A::QUIC,
            UDP,
            true,
            padded(hex("c3 00000001 08 8394c8f03e515708 00 00 449e"), 1200),
        ),
        sample(
            A::QUIC,
            UDP,
            true,
            padded(hex("d3 6b3343cf 08 8394c8f03e515708 00 00 449e"), 1200),
        ),
        sample(
            A::QUIC,
            UDP,
            false,
            padded(hex("cf 00000001 00 08 f067a5502a4262b5 00 4075"), 135),
        ),
        sample(A::WIREGUARD, UDP, true, padded(hex("01000000 11223344"), 148)),
        sample(A::WIREGUARD, UDP, false, padded(hex("02000000 11223344"), 92)),
        asks(A::TFTP, "0001 'pxelinux.0' 00 'octet' 00"),
        asks(A::TFTP, "0002 'a' 00 'NETASCII' 00 'blksize' 00 '1432' 00"),
    ]
}

#[test]
fn every_row_has_a_sample_and_each_is_recognized_as_itself() {
    let all = samples();
    for sample in &all {
        let found = app(sample.proto, sample.from_client, &sample.bytes);
        assert_eq!(found, Some(sample.app), "{:x?}", sample.bytes);
    }
    // The other test file has those of these.
    let elsewhere = [
        Application::HTTP,
        Application::SSL,
        Application::GRPC,
        Application::HTTP2,
        Application::SSH,
        Application::REDIS,
        Application::POSTGRESQL,
        Application::MONGODB,
        Application::DNS,
        Application::MYSQL,
        Application::DHCP,
        Application::NTP,
    ];
    for row in rows() {
        let proto = if row.transport == "tcp" { TCP } else { UDP };
        let has = all.iter().any(|sample| {
            (sample.app, sample.proto, sample.from_client) == (row.application, proto, row.from_client)
        });
        let is_reverse = row.transport == "udp" || row.application == Application::SIP;
        assert!(
            has || elsewhere.contains(&row.application) || is_reverse,
            "no sample of {:?}",
            row
        );
        assert!(!row.document.is_empty());
    }
}

#[test]
fn what_is_cut_off_is_itself_or_nothing() {
    for sample in samples() {
        for end in 1..sample.bytes.len() {
            let found = app(sample.proto, sample.from_client, &sample.bytes[..end]);
            assert!(
                found.is_none() || found == Some(sample.app),
                "{end} bytes of {:?} are {found:?}",
                sample.app
            );
        }
    }
}

#[test]
fn the_other_side_and_the_other_transport_never_give_another_name() {
    for sample in samples() {
        for proto in [TCP, UDP] {
            for from_client in [true, false] {
                let found = app(proto, from_client, &sample.bytes);
                assert!(
                    found.is_none() || found == Some(sample.app),
                    "{:?} on {proto} is {found:?}",
                    sample.app
                );
            }
        }
    }
}

#[test]
fn what_resembles_a_protocol_is_none() {
    for (proto, from_client, bytes) in [
        (TCP, false, "'+OK POP3 ready' 0d0a"),
        (TCP, true, "'USER bob' 0d0a"),
        (TCP, false, "'* OK IMAP4rev1 ready' 0d0a"),
        (TCP, true, "'NICK bob' 0d0a"),
        (TCP, true, "'stat'"),
        (TCP, true, "'get / HTTP/1.1' 0d0a"),
        (TCP, true, "'set key'"),
        (TCP, true, "'EHLO' 0d0a"),
        (TCP, true, "'AMQP' 00000902"),
        (TCP, true, "10 0d 0004 'MQTX' 04 02 003c 0001 'a'"),
        (TCP, true, "30 0c 02 01 01 61 07 02 01 03 04 00 80 00"),
        // X.224 of a programmable controller.
        (
            TCP,
            true,
            "03 00 00 16 11 e0 0000 0001 00 c0 01 0a c1 02 0100 c2 02 0102",
        ),
        // The binary protocol with a key that is longer than the body.
        (
            TCP,
            true,
            "80 00 0009 00 00 0000 00000005 00000000 0000000000000000 'Hello'",
        ),
        (
            TCP,
            true,
            "00000023 0300 0003 00000001 0007 'kclient' 00 07 'rdkafka' 06 '2.3.0' 00 0000",
        ),
        (TCP, true, "0000000000000019 03 0000000000000001 00000005 '1234'"),
        (UDP, true, "c3 00000001 08 8394c8f03e515708 00 00 449e"),
        (UDP, true, "01000000 11223344"),
        (UDP, true, "0001 'pxelinux.0' 00 'binary' 00"),
    ] {
        assert_eq!(app(proto, from_client, &hex(bytes)), None, "{bytes}");
    }
}

#[test]
fn a_greeting_that_says_neither_waits_for_the_first_command() {
    let greeting = b"220 example.org ready\r\n";
    assert_eq!(staged(TCP, false, greeting, APP_PENDING), APP_GREETED);
    let after = |bytes: &[u8]| staged(TCP, true, bytes, APP_GREETED);
    assert_eq!(after(b"EHLO me\r\n"), Application::SMTP.index());
    assert_eq!(after(b"USER anonymous\r\n"), Application::FTP.index());
    assert_eq!(after(b"feat\r\n"), Application::FTP.index());
    assert_eq!(after(b"QUIT\r\n"), APP_PENDING);
}

/// Bytes that nobody meant anything by: a generator whose numbers are the same everywhere (xorshift).
#[test]
fn random_bytes_are_hardly_ever_anything() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let rounds = 200_000;
    let mut named = Vec::new();
    for round in 0..rounds {
        let len = usize::try_from(next() % 300).unwrap();
        let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| next().to_le_bytes()).collect();
        bytes.truncate(len);
        // Half of them of printable letters only.
        if round % 2 == 1 {
            for byte in &mut bytes {
                *byte = 32 + *byte % 95;
            }
        }
        let proto = if next() & 1 == 0 { TCP } else { UDP };
        if let Some(app) = app(proto, next() & 2 == 0, &bytes) {
            named.push(app);
        }
    }
    eprintln!(
        "{} of {rounds} random payloads were named: {named:?}",
        named.len()
    );
    assert!(named.len() * 10_000 <= rounds, "{}", format!("{named:?}"));
}
