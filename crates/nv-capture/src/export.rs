//! Captures on their way out and back in: pcapng as it is or classic pcap, as it is or compressed.

use std::fmt;
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::str::FromStr;

use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

use nv_types::Timestamp;

use crate::{
    CaptureLimits, CaptureSink as _, InterfaceInfo, LinkType, Packet, PacketReader, PcapSink, ReadError,
    SinkError,
};

/// Largest window of zstd that is read: 8 MiB, what compressors use unless they are told otherwise (RFC 8878, 3.1.1.1.2).
const WINDOW_LOG: u32 = 23;

/// What a file is written as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FileForm {
    /// With everything that is known.
    #[default]
    Pcapng,
    /// Packets alone, for programs that read nothing else.
    Pcap,
}

/// How it is packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not.
    #[default]
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

/// A name of neither.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{given}' is none of {known}")]
pub struct UnknownForm {
    given: String,
    known: &'static str,
}

impl FromStr for FileForm {
    type Err = UnknownForm;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "" | "pcapng" => Ok(Self::Pcapng),
            "pcap" => Ok(Self::Pcap),
            _ => Err(UnknownForm {
                given: text.to_owned(),
                known: "pcapng, pcap",
            }),
        }
    }
}

impl FromStr for Compression {
    type Err = UnknownForm;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "" | "none" => Ok(Self::None),
            "gzip" => Ok(Self::Gzip),
            "zstd" => Ok(Self::Zstd),
            _ => Err(UnknownForm {
                given: text.to_owned(),
                known: "gzip, zstd, none",
            }),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

/// Why a capture could not be written out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// It could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It has no form in pcap, or could not be written.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// It could not be read or written.
    #[error("cannot write the capture out")]
    Io(#[from] io::Error),
}

/// Writes a pcapng stream out in this form, in constant memory.
///
/// # Errors
/// [`ExportError`]; what was written until then is not whole.
pub fn export(
    input: impl Read,
    form: FileForm,
    compression: Compression,
    mut output: impl Write,
) -> Result<(), ExportError> {
    match compression {
        Compression::None => convert(input, form, &mut output),
        Compression::Gzip => {
            let mut packed = GzEncoder::new(&mut output, flate2::Compression::fast());
            convert(input, form, &mut packed)?;
            packed.finish()?;
            Ok(())
        }
        Compression::Zstd => {
            let mut packed = zstd::Encoder::new(&mut output, zstd::DEFAULT_COMPRESSION_LEVEL)?;
            convert(input, form, &mut packed)?;
            packed.finish()?;
            Ok(())
        }
    }?;
    Ok(output.flush()?)
}

fn convert(mut input: impl Read, form: FileForm, output: &mut impl Write) -> Result<(), ExportError> {
    if form == FileForm::Pcapng {
        io::copy(&mut input, output)?;
        return Ok(());
    }
    let mut reader = PacketReader::new(input)?;
    let mut sink = PcapSink::new(output, CaptureLimits::MAX_SNAP_LEN);
    let mut begun = 0;
    while let Some(view) = reader.next_view()? {
        // Its own sink has one list of interfaces; sections of a file may each have another.
        if begun == 0 || view.interface.link != begun_link(&sink) {
            sink.begin_interface(view.interface)?;
            begun += 1;
        }
        sink.write(&Packet {
            timestamp: view.timestamp,
            original_len: view.original_len,
            data: view.data,
            ..Packet::default()
        })?;
    }
    if begun == 0 {
        sink.begin_interface(&InterfaceInfo::new("", LinkType::ETHERNET))?;
    }
    sink.finish(&[], Timestamp(0))?;
    Ok(())
}

fn begun_link<W: Write>(sink: &PcapSink<W>) -> LinkType {
    sink.link().unwrap_or(LinkType::ETHERNET)
}

/// The bytes of a file that may be compressed: gzip and zstd are told by their first bytes. Memory is bounded whatever the
/// file says of itself: at most a window of 8 MiB.
///
/// # Errors
/// When the first bytes cannot be read.
pub fn decompressed<'a>(input: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut input = BufReader::with_capacity(64 << 10, input);
    let start = input.fill_buf()?;
    if start.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(MultiGzDecoder::new(input)));
    }
    if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let mut decoder = zstd::Decoder::with_buffer(input)?;
        decoder.window_log_max(WINDOW_LOG)?;
        return Ok(Box::new(decoder));
    }
    Ok(Box::new(input))
}
