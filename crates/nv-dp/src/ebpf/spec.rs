//! An endpoint as a fixed block of bytes, pinned beside the tables so that a restarted agent knows what it adopts.

use nv_types::{MacAddr, WorkloadId, v4_mapped};

use crate::{DatapathError, EndpointSpec, convert};

/// Size of the block.
pub(crate) const SPEC_BYTES: usize = 1024;
const VERSION: u8 = 2;
const NAME: usize = 64;

/// Writes one field after the other.
struct Writer {
    bytes: [u8; SPEC_BYTES],
    at: usize,
}

impl Writer {
    fn put(&mut self, field: &[u8]) -> Option<()> {
        let end = self.at + field.len();
        self.bytes.get_mut(self.at..end)?.copy_from_slice(field);
        self.at = end;
        Some(())
    }

    fn put_text(&mut self, text: &str) -> Option<()> {
        self.put(&u16::try_from(text.len()).ok()?.to_le_bytes())?;
        self.put(text.as_bytes())
    }
}

/// The block of an endpoint.
pub(crate) fn encode(spec: &EndpointSpec) -> Result<[u8; SPEC_BYTES], DatapathError> {
    let mut writer = Writer {
        bytes: [0; SPEC_BYTES],
        at: 0,
    };
    write(&mut writer, spec).ok_or(DatapathError::TooLarge {
        table: "addresses of an endpoint",
        needed: spec.addresses.len(),
        capacity: (SPEC_BYTES - 2 * NAME - 256) / 16,
    })?;
    Ok(writer.bytes)
}

fn write(writer: &mut Writer, spec: &EndpointSpec) -> Option<()> {
    writer.put(&[VERSION])?;
    writer.put_text(spec.name.get(..NAME).unwrap_or(&spec.name))?;
    writer.put_text(spec.workload.as_ref().map_or("", WorkloadId::as_str))?;
    writer.put(&[u8::from(spec.mac.is_some()), u8::from(spec.quarantine)])?;
    writer.put(&spec.mac.map_or([0; 6], |mac| mac.0))?;
    writer.put(&u16::try_from(spec.addresses.len()).ok()?.to_le_bytes())?;
    for addr in &spec.addresses {
        writer.put(&v4_mapped(*addr))?;
    }
    Some(())
}

/// Reads one field after the other.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    fn take_text(&mut self) -> Option<&'a str> {
        let len = usize::from(u16::from_le_bytes(self.take()?));
        let (text, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }
}

/// The endpoint of a block; `None` if the block is of another version or damaged.
pub(crate) fn decode(ifindex: u32, bytes: &[u8; SPEC_BYTES]) -> Option<EndpointSpec> {
    let mut reader = Reader(bytes);
    if reader.take::<1>()? != [VERSION] {
        return None;
    }
    let name = reader.take_text()?.to_owned();
    let workload = match reader.take_text()? {
        "" => None,
        id => Some(WorkloadId::try_new(id).ok()?),
    };
    let [has_mac, quarantine] = reader.take::<2>()?;
    let mac = reader.take::<6>()?;
    let count = u16::from_le_bytes(reader.take()?);
    let addresses = (0..count)
        .map(|_| reader.take::<16>().map(convert::addr))
        .collect::<Option<Vec<_>>>()?;
    Some(EndpointSpec {
        ifindex,
        name,
        workload,
        mac: (has_mac != 0).then_some(MacAddr(mac)),
        addresses,
        quarantine: quarantine != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_reads_back() {
        let full = EndpointSpec {
            ifindex: 9,
            name: "veth0".into(),
            workload: Some(WorkloadId::try_new("netns:web").unwrap()),
            mac: Some(MacAddr([2, 0, 0, 0, 0, 1])),
            addresses: vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            quarantine: true,
        };
        let bare = EndpointSpec {
            workload: None,
            mac: None,
            addresses: vec![],
            quarantine: false,
            ..full.clone()
        };
        for spec in [full.clone(), bare] {
            assert_eq!(decode(9, &encode(&spec).unwrap()), Some(spec));
        }
        let many = EndpointSpec {
            addresses: vec!["10.0.0.1".parse().unwrap(); 100],
            ..full
        };
        assert!(encode(&many).is_err());
        assert_eq!(decode(9, &[0; SPEC_BYTES]), None);
        assert_eq!(decode(9, &[1; SPEC_BYTES]), None);
    }
}
