//! The table of recognizers: which application, from which side, by which first bytes, after which document.

use nv_types::Application;

use super::Payload;
use super::{
    amqp, bittorrent, cassandra, dhcp, dns, ftp, http, http2, kafka, ldap, memcached, mongodb, mqtt, mssql,
    mysql, nats, ntp, oracle, postgresql, quic, rdp, redis, rtsp, sip, smb, smtp, spark, ssh, tftp, tls,
    wireguard, zookeeper,
};
use crate::layout::APP_PENDING;
use crate::packet::Packet;

/// First bytes that a payload of a protocol can have.
#[derive(Clone, Copy, Debug)]
enum First {
    /// Any: the byte is the low end of a number.
    Any,
    /// One of these.
    Of(&'static [u8]),
    /// One from here to there.
    Range(u8, u8),
}

impl First {
    const fn allows(self, byte: u8) -> bool {
        match self {
            Self::Any => true,
            Self::Range(low, high) => low <= byte && byte <= high,
            Self::Of(bytes) => {
                let mut i = 0;
                while i < bytes.len() {
                    if bytes[i] == byte {
                        return true;
                    }
                    i += 1;
                }
                false
            }
        }
    }
}

/// For each first byte the rows that it allows, a bit each.
const fn by_first_byte<const N: usize>(rows: [First; N]) -> [u32; 256] {
    assert!(N <= 32);
    let mut table = [0; 256];
    let mut byte = 0u8;
    loop {
        let mut row = 0;
        while row < N {
            if rows[row].allows(byte) {
                table[byte as usize] |= 1 << row;
            }
            row += 1;
        }
        if byte == u8::MAX {
            return table;
        }
        byte += 1;
    }
}

/// A row of the table, for whoever wants to see all of them: tests, documentation.
#[cfg(any(test, feature = "user"))]
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Application.
    pub application: Application,
    /// `tcp` or `udp`.
    pub transport: &'static str,
    /// Which side's payload.
    pub from_client: bool,
    /// Standard, or document of the protocol's makers.
    pub document: &'static str,
}

macro_rules! side {
    (
        $(#[$doc:meta])* $name:ident, $first_bytes:ident, $rows:ident, $transport:literal, $client:literal;
        $($app:ident $($first:ident)::+ $(($($arg:expr),*))? => $file:ident::$function:ident $(($deep:ident))?, $document:literal;)*
    ) => {
        static $first_bytes: [u32; 256] = by_first_byte([$($($first)::+ $(($($arg),*))?),*]);

        $(#[$doc])*
        #[inline(never)] // a frame of its own on the kernel's small stack
        pub(super) fn $name<P: Packet>(payload: &mut Payload, packet: &P, offset: u32) -> u8 {
            let rows = $first_bytes[payload.bytes[0] as usize];
            let _ = (packet, offset);
            let mut row = 1;
            $(
                if rows & row != 0 {
                    let found = side!(@ask $file $function payload packet offset $($deep)?; $app);
                    if found != APP_PENDING {
                        return found;
                    }
                }
                row <<= 1;
            )*
            let _ = row;
            APP_PENDING
        }

        #[cfg(any(test, feature = "user"))]
        const $rows: &[Row] = &[$(Row {
            application: Application::$app,
            transport: $transport,
            from_client: $client,
            document: $document,
        }),*];
    };
    (@ask $file:ident $function:ident $payload:ident $packet:ident $offset:ident; $app:ident) => {
        if $file::$function($payload) { Application::$app.index() } else { APP_PENDING }
    };
    (@ask $file:ident $function:ident $payload:ident $packet:ident $offset:ident deep; $app:ident) => {
        if $file::$function($payload, $packet, $offset) { Application::$app.index() } else { APP_PENDING }
    };
    (@ask $file:ident $function:ident $payload:ident $packet:ident $offset:ident deep_staged; $app:ident) => {
        $file::$function($payload, $packet, $offset)
    };
    (@ask $file:ident $function:ident $payload:ident $packet:ident $offset:ident staged; $app:ident) => {
        $file::$function($payload)
    };
}

side! {
    /// What a client's first bytes on a stream show.
    tcp_client, TCP_CLIENT, TCP_CLIENT_ROWS, "tcp", true;
    HTTP First::Range(b'A', b'Z') => http::is_request, "RFC 9112, 3";
    SSL First::Of(&[22]) => tls::is_client_hello(deep), "RFC 8446, 4.1.2 and 5.1";
    GRPC First::Of(b"P") => http2::opening(deep_staged), "RFC 9113, 3.4; gRPC over HTTP/2";
    SSH First::Of(b"S") => ssh::is_ssh, "RFC 4253, 4.2";
    REDIS First::Of(b"*P") => redis::is_command, "redis.io, RESP protocol description";
    POSTGRESQL First::Of(&[0]) => postgresql::is_startup, "PostgreSQL documentation, Message Formats";
    MONGODB First::Any => mongodb::is_message, "MongoDB manual, Wire Protocol";
    DNS First::Range(0, 16) => dns::is_stream, "RFC 1035, 4.2.2; RFC 7766";
    KAFKA First::Of(&[0]) => kafka::is_request, "Apache Kafka protocol guide, Request Header";
    MQTT First::Of(&[0x10]) => mqtt::is_connect, "MQTT 3.1.1 and 5.0 (OASIS), 3.1";
    AMQP First::Of(b"A") => amqp::is_header, "AMQP 0-9-1, 4.2.2; AMQP 1.0, 2.2";
    LDAP First::Of(&[0x30]) => ldap::is_request, "RFC 4511, 4.1.1, 4.2, 4.5, 4.12";
    NATS First::Of(b"C") => nats::is_connect, "NATS documentation, Client Protocol";
    SMB First::Of(&[0]) => smb::is_smb, "MS-SMB2, 2.1 and 2.2.1; MS-CIFS, 2.2.3.1";
    RDP First::Of(&[3]) => rdp::is_request, "MS-RDPBCGR, 2.2.1.1; RFC 1006, 6";
    MSSQL First::Of(&[0x10, 0x12]) => mssql::is_login, "MS-TDS, 2.2.6.4 and 2.2.6.5";
    ORACLE First::Range(0, 0x20) => oracle::is_connect, "Oracle Net Services, TNS Connect packet, as its thin drivers write it";
    CASSANDRA First::Of(&[1, 2, 3, 4, 5, 6, 0x41, 0x42]) => cassandra::is_request, "Apache Cassandra, CQL binary protocol, 2 and 4.1";
    ZOOKEEPER First::Of(b"\0rmis") => zookeeper::is_request, "Apache ZooKeeper, ConnectRequest (zookeeper.jute), four letter words";
    COUCHBASE First::Of(&[0x80]) => memcached::is_couchbase, "Couchbase key-value engine, HELO and its other own commands";
    MEMCACHED First::Of(&[0x80]) => memcached::is_binary_request, "memcached, binary protocol";
    MEMCACHED First::Range(b'a', b'z') => memcached::is_text, "memcached, doc/protocol.txt";
    SPARK First::Of(&[0]) => spark::is_message, "Apache Spark, network-common, Message and MessageEncoder";
    BITTORRENT First::Of(&[19]) => bittorrent::is_handshake, "BEP 3, peer protocol";
    RTSP First::Range(b'A', b'Z') => rtsp::is_request, "RFC 2326, 6; RFC 7826, 7";
    SIP First::Range(b'A', b'Z') => sip::is_message, "RFC 3261, 7.1";
    SMTP First::Of(b"EHLehl") => smtp::is_hello, "RFC 5321, 4.1.1.1; RFC 2033";
    FTP First::Of(b"Aa") => ftp::is_auth, "RFC 4217, 4";
}

side! {
    /// What a server's first bytes on a stream show.
    tcp_server, TCP_SERVER, TCP_SERVER_ROWS, "tcp", false;
    HTTP First::Of(b"H") => http::is_response, "RFC 9112, 4";
    SSL First::Of(&[22]) => tls::is_server_hello(deep), "RFC 8446, 4.1.3";
    HTTP2 First::Of(&[0]) => http2::settings(staged), "RFC 9113, 6.5";
    SSH First::Of(b"S") => ssh::is_ssh, "RFC 4253, 4.2";
    MYSQL First::Any => mysql::is_greeting, "MySQL source documentation, Protocol::HandshakeV10";
    REDIS First::Of(b"-+") => redis::is_reply, "redis.io, RESP protocol description";
    MONGODB First::Any => mongodb::is_message, "MongoDB manual, Wire Protocol";
    DNS First::Any => dns::is_stream, "RFC 1035, 4.2.2; RFC 7766";
    SMTP First::Of(b"2") => ftp::greeting(staged), "RFC 5321, 4.2 and 4.3.1; RFC 959, 5.4";
    NATS First::Of(b"I") => nats::is_info, "NATS documentation, Client Protocol";
    SMB First::Of(&[0]) => smb::is_smb, "MS-SMB2, 2.1 and 2.2.1; MS-CIFS, 2.2.3.1";
    CASSANDRA First::Range(0x81, 0x86) => cassandra::is_response, "Apache Cassandra, CQL binary protocol, 2 and 4.2";
    ZOOKEEPER First::Of(&[0]) => zookeeper::is_response, "Apache ZooKeeper, ConnectResponse (zookeeper.jute)";
    MEMCACHED First::Of(&[0x81]) => memcached::is_binary_response, "memcached, binary protocol";
    BITTORRENT First::Of(&[19]) => bittorrent::is_handshake, "BEP 3, peer protocol";
    RTSP First::Of(b"R") => rtsp::is_response, "RFC 2326, 7; RFC 7826, 8";
    SIP First::Range(b'A', b'Z') => sip::is_message, "RFC 3261, 7.1 and 7.2";
    AMQP First::Of(b"A") => amqp::is_header, "AMQP 0-9-1, 4.2.2; AMQP 1.0, 2.2";
}

side! {
    /// What a client's datagram shows.
    udp_client, UDP_CLIENT, UDP_CLIENT_ROWS, "udp", true;
    DNS First::Any => dns::is_datagram, "RFC 1035, 4.1";
    DHCP First::Of(&[1, 2]) => dhcp::is_dhcp(deep), "RFC 2131, 2 and 3";
    NTP First::Any => ntp::is_ntp, "RFC 5905, 7.3; RFC 7822";
    QUIC First::Range(0xc0, 0xff) => quic::is_client_initial, "RFC 9000, 14.1 and 17.2; RFC 9369, 3.2";
    WIREGUARD First::Of(&[1, 2, 3, 4]) => wireguard::is_message, "WireGuard protocol, 5.4";
    TFTP First::Of(&[0]) => tftp::is_tftp, "RFC 1350, 5; RFC 2347";
    SIP First::Range(b'A', b'Z') => sip::is_message, "RFC 3261, 7.1 and 7.2";
    BITTORRENT First::Of(&[0, b'd', 0x41]) => bittorrent::is_datagram, "BEP 5; BEP 15; BEP 29";
}

side! {
    /// What a server's datagram shows.
    udp_server, UDP_SERVER, UDP_SERVER_ROWS, "udp", false;
    DNS First::Any => dns::is_datagram, "RFC 1035, 4.1";
    DHCP First::Of(&[1, 2]) => dhcp::is_dhcp(deep), "RFC 2131, 2 and 3";
    NTP First::Any => ntp::is_ntp, "RFC 5905, 7.3; RFC 7822";
    QUIC First::Range(0x80, 0xff) => quic::is_server_hello, "RFC 9000, 17.2; RFC 9369, 3.2";
    WIREGUARD First::Of(&[1, 2, 3, 4]) => wireguard::is_message, "WireGuard protocol, 5.4";
    SIP First::Range(b'A', b'Z') => sip::is_message, "RFC 3261, 7.1 and 7.2";
    BITTORRENT First::Of(&[0, b'd', 0x41]) => bittorrent::is_datagram, "BEP 5; BEP 15; BEP 29";
}

/// All rows; Echo, which is known by an answer that is its request, stands in none (RFC 862).
#[cfg(any(test, feature = "user"))]
pub fn rows() -> impl Iterator<Item = &'static Row> {
    [TCP_CLIENT_ROWS, TCP_SERVER_ROWS, UDP_CLIENT_ROWS, UDP_SERVER_ROWS]
        .into_iter()
        .flatten()
}
