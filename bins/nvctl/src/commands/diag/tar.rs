//! Tar archives (POSIX.1-1988 ustar) of small files, as far as a bundle needs them.

use std::io::{self, Write};

const BLOCK: usize = 512;

/// An archive that is being written. All files are in one folder.
#[derive(Debug)]
pub(super) struct Archive<W> {
    out: W,
    folder: String,
    /// Seconds since the epoch.
    time: i64,
}

impl<W: Write> Archive<W> {
    pub(super) const fn new(out: W, folder: String, time: i64) -> Self {
        Self { out, folder, time }
    }

    /// Adds a file.
    pub(super) fn add(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        let path = format!("{}/{name}", self.folder);
        self.out.write_all(&header(&path, content.len(), self.time)?)?;
        self.out.write_all(content)?;
        let rest = content.len() % BLOCK;
        if rest > 0 {
            self.out.write_all(&[0; BLOCK][rest..])?;
        }
        Ok(())
    }

    /// Writes the end, and gives the output back.
    pub(super) fn end(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        Ok(self.out)
    }
}

fn header(path: &str, size: usize, time: i64) -> io::Result<[u8; BLOCK]> {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, room: usize, text: &str| match block.get_mut(at..at + text.len()) {
        Some(place) if text.len() <= room => {
            place.copy_from_slice(text.as_bytes());
            Ok(())
        }
        _ => Err(io::Error::other(format!("'{text}' is too long for an archive"))),
    };
    put(0, 100, path)?;
    put(100, 8, "0000600\0")?;
    put(108, 8, "0000000\0")?;
    put(116, 8, "0000000\0")?;
    put(124, 12, &format!("{size:011o}\0"))?;
    put(136, 12, &format!("{:011o}\0", time.max(0)))?;
    // The sum counts its own place as blanks.
    put(148, 8, "        ")?;
    put(156, 1, "0")?;
    put(257, 8, "ustar\u{0}00")?;
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    let text = format!("{sum:06o}\0 ");
    if let Some(place) = block.get_mut(148..156) {
        place.copy_from_slice(text.as_bytes());
    }
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn tar_reads_what_is_written() {
        let mut archive = Archive::new(Vec::new(), "top".into(), 1_000_000_000);
        let long = vec![b'x'; 1500];
        archive.add("a.txt", b"hello\n").unwrap();
        archive.add("deep/b.txt", &long).unwrap();
        archive.add("empty", b"").unwrap();
        let bytes = archive.end().unwrap();
        assert_eq!(bytes.len() % BLOCK, 0);
        let tar = |args: &[&str]| {
            let mut child = Command::new("tar")
                .args(args)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(&bytes).unwrap();
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{output:?}");
            output.stdout
        };
        assert_eq!(tar(&["t"]), b"top/a.txt\ntop/deep/b.txt\ntop/empty\n");
        assert_eq!(tar(&["xO", "top/deep/b.txt"]), long);
        assert!(
            Archive::new(Vec::new(), "top".into(), 0)
                .add(&"x".repeat(100), b"")
                .is_err()
        );
    }
}
