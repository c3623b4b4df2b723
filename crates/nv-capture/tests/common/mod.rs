//! Packets for tests: every protocol that filters speak of, well-formed and cut, from a seed.
#![allow(dead_code, reason = "each test uses its part")]

use etherparse::{EtherType, IpNumber, PacketBuilder};

/// A small generator (Steele, Lea, Flood: SplitMix64), so that a failure can be repeated.
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

fn mac(random: &mut Random) -> [u8; 6] {
    random.pick(&[
        [2, 0, 0, 0, 0, 1],
        [2, 0, 0, 0, 0, 2],
        [0xff; 6],
        [1, 0, 0x5e, 0, 0, 1],
        [0x33, 0x33, 0, 0, 0, 1],
    ])
}

fn port(random: &mut Random) -> u16 {
    random.pick(&[22, 53, 80, 123, 443, 1024, 8080, 40_000, 55])
}

fn v4(random: &mut Random) -> [u8; 4] {
    random.pick(&[
        [10, 0, 0, 1],
        [10, 0, 0, 2],
        [10, 0, 1, 1],
        [192, 168, 1, 1],
        [224, 0, 0, 1],
        [10, 9, 9, 9],
    ])
}

fn v6(random: &mut Random) -> [u8; 16] {
    let mut address = [0; 16];
    address[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    address[15] = random.pick(&[1, 2]);
    address[4] = random.pick(&[0, 0x80]);
    if random.below(5) == 0 {
        address[..2].copy_from_slice(&[0xff, 2]);
    }
    address
}

fn payload(random: &mut Random) -> Vec<u8> {
    match random.below(4) {
        0 => Vec::new(),
        1 => b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        _ => (0..random.below(120)).map(|n| n as u8).collect(),
    }
}

/// IP and what is inside.
fn ip(random: &mut Random) -> (u16, Vec<u8>) {
    let is_v6 = random.below(3) == 0;
    let (a, b) = (port(random), port(random));
    let data = payload(random);
    let ttl = random.pick(&[1, 63, 64, 255]);
    let builder = if is_v6 {
        PacketBuilder::ipv6(v6(random), v6(random), ttl)
    } else {
        PacketBuilder::ipv4(v4(random), v4(random), ttl)
    };
    let mut out = Vec::new();
    match random.below(8) {
        0..=2 => {
            let mut tcp = builder.tcp(a, b, 1, 1000);
            let flags = random.below(64);
            if flags & 1 != 0 {
                tcp = tcp.syn();
            }
            if flags & 2 != 0 {
                tcp = tcp.ack(5);
            }
            if flags & 4 != 0 {
                tcp = tcp.fin();
            }
            if flags & 24 == 24 {
                tcp = tcp.rst();
            }
            tcp.write(&mut out, &data).unwrap();
        }
        3 | 4 => builder.udp(a, b).write(&mut out, &data).unwrap(),
        5 if is_v6 => builder
            .icmpv6_raw(random.pick(&[128, 129, 135, 1]), 0, [0, 9, 0, 1])
            .write(&mut out, &data)
            .unwrap(),
        5 => builder
            .icmpv4_raw(random.pick(&[0, 8, 3]), 0, [0, 9, 0, 1])
            .write(&mut out, &data)
            .unwrap(),
        6 => {
            let mut chunk = [a.to_be_bytes(), b.to_be_bytes()].concat();
            chunk.extend(&data);
            builder.write(&mut out, IpNumber(132), &chunk).unwrap();
        }
        _ => builder
            .write(&mut out, IpNumber(random.pick(&[2, 47, 50, 51, 103, 44])), &data)
            .unwrap(),
    }
    if !is_v6 {
        match random.below(6) {
            // A later fragment.
            0 => out[7] = 3,
            // Options: four bytes more.
            1 => {
                out[0] = 0x46;
                out.splice(20..20, [1, 1, 1, 1]);
            }
            _ => {}
        }
    }
    (if is_v6 { 0x86dd } else { 0x0800 }, out)
}

fn arp(random: &mut Random) -> Vec<u8> {
    let mut out = vec![0, 1, 8, 0, 6, 4, 0, 1];
    out.extend(mac(random));
    out.extend(v4(random));
    out.extend([0; 6]);
    out.extend(v4(random));
    out
}

/// One packet with its Ethernet header.
pub(crate) fn packet(random: &mut Random) -> Vec<u8> {
    let mut out = [mac(random), mac(random)].concat();
    let (kind, inner) = match random.below(12) {
        0 => (0x0806, arp(random)),
        1 => (0x8035, arp(random)),
        2 => (38, vec![0x42, 0x42, 3, 0, 0, 0, 0, 0]),
        3 => (random.pick(&[0x88cc, 0x6003, 0x8847]), payload(random)),
        _ => ip(random),
    };
    for _ in 0..random.pick(&[0, 0, 0, 1, 1, 2]) {
        out.extend(random.pick(&[0x8100_u16, 0x88a8, 0x9100]).to_be_bytes());
        out.extend(random.pick(&[5_u16, 6, 0x2005]).to_be_bytes());
    }
    out.extend(EtherType(kind).0.to_be_bytes());
    out.extend(inner);
    if random.below(8) == 0 {
        let keep = random.below(out.len() as u64 + 1) as usize;
        out.truncate(keep);
    }
    out
}

/// Many of them.
pub(crate) fn packets(random: &mut Random, count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|_| packet(random)).collect()
}
