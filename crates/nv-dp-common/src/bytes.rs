//! Byte views of the layouts for userspace, which reads and writes kernel tables as byte arrays: no transmutes, and a
//! struct whose fields do not add up to its size does not compile.

use core::cell::Cell;

use crate::layout::{
    AddressData, AddressValue, ChainLink, ChainValue, EndpointValue, EventValue, FlowCell, FlowData,
    FlowKeyValue, LocalView, OverheardValue, OwnKey, PairKey, PortData, ShareCell, SideCell, Switches,
};

/// Something with a fixed place in a layout. Numbers are native-endian, as the kernel programs write them.
pub trait Field: Sized {
    /// Bytes that it takes.
    const SIZE: usize;
    /// Writes it to the first [`Field::SIZE`] bytes of `out`, which must have as many.
    fn put(&self, out: &mut [u8]);
    /// Reads it from the first [`Field::SIZE`] bytes of `bytes`, which must have as many.
    fn take(bytes: &[u8]) -> Self;
}

macro_rules! number {
    ($($type:ty),*) => {$(
        impl Field for $type {
            const SIZE: usize = size_of::<$type>();
            fn put(&self, out: &mut [u8]) {
                out[..Self::SIZE].copy_from_slice(&self.to_ne_bytes());
            }
            fn take(bytes: &[u8]) -> Self {
                let mut array = [0; size_of::<$type>()];
                array.copy_from_slice(&bytes[..Self::SIZE]);
                Self::from_ne_bytes(array)
            }
        }
    )*};
}
number!(u8, u16, u32, u64);

impl<T: Field, const N: usize> Field for [T; N] {
    const SIZE: usize = T::SIZE * N;
    fn put(&self, out: &mut [u8]) {
        for (item, place) in self.iter().zip(out.chunks_exact_mut(T::SIZE)) {
            item.put(place);
        }
    }
    fn take(bytes: &[u8]) -> Self {
        core::array::from_fn(|i| T::take(&bytes[i * T::SIZE..]))
    }
}

impl<T: Field + Copy> Field for Cell<T> {
    const SIZE: usize = T::SIZE;
    fn put(&self, out: &mut [u8]) {
        self.get().put(out);
    }
    fn take(bytes: &[u8]) -> Self {
        Self::new(T::take(bytes))
    }
}

macro_rules! layout {
    ($($type:ident { $($field:ident: $kind:ty),* $(,)? })*) => {$(
        impl Field for $type {
            const SIZE: usize = {
                let sum = 0 $(+ <$kind as Field>::SIZE)*;
                assert!(sum == size_of::<$type>());
                sum
            };
            fn put(&self, out: &mut [u8]) {
                let mut at = 0;
                $(
                    self.$field.put(&mut out[at..]);
                    at += <$kind as Field>::SIZE;
                )*
                debug_assert_eq!(at, Self::SIZE);
            }
            fn take(bytes: &[u8]) -> Self {
                let mut at = 0;
                $(
                    let $field = <$kind as Field>::take(&bytes[at..]);
                    at += <$kind as Field>::SIZE;
                )*
                debug_assert_eq!(at, Self::SIZE);
                Self { $($field),* }
            }
        }
        impl $type {
            /// As the kernel's table holds it.
            #[must_use]
            pub fn to_bytes(&self) -> [u8; size_of::<$type>()] {
                let mut out = [0; size_of::<$type>()];
                self.put(&mut out);
                out
            }
            /// From the kernel's table.
            #[must_use]
            pub fn from_bytes(bytes: &[u8; size_of::<$type>()]) -> Self {
                Self::take(bytes)
            }
        }
    )*};
}

layout! {
    AddressData { slot: u32, addr: [u8; 16] }
    AddressValue { identity: u32, flags: u32 }
    PairKey { local: u32, peer: u32, slot: u8, direction: u8, pad: [u8; 2] }
    PortData { table: u32, proto: u8, port: [u8; 2], pad: u8 }
    ChainLink { apps: u64, rule: u32, verdict: u8, reason: u8, pad: [u8; 2] }
    ChainValue { len: u32, pad: u32, links: [ChainLink; nv_types::MAX_CHAIN] }
    LocalView { identity: u32, state: u8, mode: u8, pad: [u8; 2] }
    EndpointValue { views: [LocalView; 2], index: u32, mac: [u8; 6], flags: u8, pad: u8 }
    OwnKey { addr: [u8; 16], ifindex: u32 }
    Switches { revision: u64, share: u32, idle: [u32; 8], unknown: u8, valid: u8, answers: u8, names: u8 }
    ShareCell { used: Cell<u64>, counted_ns: Cell<u64> }
    FlowKeyValue {
        local: [u8; 16], peer: [u8; 16], ifindex: u32, local_port: u16, peer_port: u16, proto: u8, pad: [u8; 3],
    }
    FlowData {
        tx_packets: u64, tx_bytes: u64, rx_packets: u64, rx_bytes: u64, first_ns: u64, last_ns: u64,
        epoch: u32, rule: u32, verdict: u8, reason: u8, direction: u8, app: u8,
        tx_flags: u8, rx_flags: u8, flags: u8, pad: u8,
    }
    SideCell {
        packets: Cell<u64>, bytes: Cell<u64>, last_ns: Cell<u64>, next: Cell<u32>, tcp_flags: Cell<u8>,
        payloads: Cell<u8>, pad: [u8; 2], digest: Cell<u32>, apart: [u32; 7],
    }
    FlowCell {
        first_ns: Cell<u64>, epoch: Cell<u32>, rule: Cell<u32>, verdict: Cell<u8>, reason: Cell<u8>,
        direction: Cell<u8>, app: Cell<u8>, index: Cell<u16>, flags: Cell<u8>, guards: Cell<u8>,
        mac: Cell<[u8; 6]>, pad: [u8; 2], tx: SideCell, rx: SideCell,
    }
    OverheardValue { at_ns: u64, ifindex: u32, len: u32, direction: u8, held: u8, pad: [u8; 6] }
    EventValue {
        at_ns: u64, flow: FlowData, key: FlowKeyValue, kind: u8, state: u8, direction: u8, pad: u8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_reads_back_what_it_wrote() {
        let key = FlowKeyValue {
            local: [1; 16],
            peer: [2; 16],
            ifindex: 3,
            local_port: 4,
            peer_port: 5,
            proto: 6,
            pad: [0; 3],
        };
        let flow = FlowData {
            tx_bytes: 7,
            epoch: 8,
            app: 9,
            flags: 10,
            ..FlowData::default()
        };
        let event = EventValue {
            at_ns: 11,
            flow,
            key,
            kind: 1,
            state: 2,
            direction: 1,
            pad: 0,
        };
        assert_eq!(EventValue::from_bytes(&event.to_bytes()), event);
        let mut chain = ChainValue {
            len: 2,
            ..ChainValue::default()
        };
        chain.links[1] = ChainLink {
            apps: 1 << 63,
            rule: 9,
            verdict: 2,
            reason: 1,
            pad: [0; 2],
        };
        assert_eq!(ChainValue::from_bytes(&chain.to_bytes()), chain);
    }
}
