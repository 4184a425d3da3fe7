//! The compressors of OP_COMPRESSED. What comes out is never longer than its header said, whatever went in.

use std::io::{Read as _, Write as _};

/// Agreed at the handshake, and used for a reply when the request used it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compressor {
    /// No compression, in the frame of a compressed message.
    Noop,
    Snappy,
    Zlib,
    Zstd,
}

impl Compressor {
    /// Those a handshake may agree on.
    pub(crate) const OFFERED: [Compressor; 3] = [Compressor::Snappy, Compressor::Zstd, Compressor::Zlib];

    /// The number in the frame.
    pub(crate) fn id(self) -> u8 {
        match self {
            Compressor::Noop => 0,
            Compressor::Snappy => 1,
            Compressor::Zlib => 2,
            Compressor::Zstd => 3,
        }
    }

    /// The compressor of that number.
    pub(crate) fn from_id(id: u8) -> Option<Self> {
        [
            Compressor::Noop,
            Compressor::Snappy,
            Compressor::Zlib,
            Compressor::Zstd,
        ]
        .into_iter()
        .find(|compressor| compressor.id() == id)
    }

    /// The name in the handshake.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Compressor::Noop => "noop",
            Compressor::Snappy => "snappy",
            Compressor::Zlib => "zlib",
            Compressor::Zstd => "zstd",
        }
    }

    /// Compresses; `None` when the compressor fails, which it does for want of memory only.
    pub(crate) fn compress(self, data: &[u8]) -> Option<Vec<u8>> {
        match self {
            Compressor::Noop => Some(data.to_vec()),
            Compressor::Snappy => snap::raw::Encoder::new().compress_vec(data).ok(),
            Compressor::Zlib => {
                let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(data).ok()?;
                encoder.finish().ok()
            }
            Compressor::Zstd => zstd::bulk::compress(data, 1).ok(),
        }
    }

    /// The data, if they are exactly `size` bytes. Memory grows with what comes out, not with what was promised.
    pub(crate) fn decompress(self, data: &[u8], size: usize) -> Option<Vec<u8>> {
        let out = match self {
            Compressor::Noop => data.to_vec(),
            Compressor::Snappy => {
                let most = data.len().saturating_mul(SNAPPY_EXPANSION_MAX);
                if size > most || snap::raw::decompress_len(data).ok()? != size {
                    return None;
                }
                snap::raw::Decoder::new().decompress_vec(data).ok()?
            }
            Compressor::Zlib => bounded(flate2::read::ZlibDecoder::new(data), size)?,
            Compressor::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::new(data).ok()?;
                // A window beyond the data has no use, and would be allocated for a frame that names one.
                let window = size.checked_next_power_of_two()?.ilog2();
                decoder.window_log_max(window.max(ZSTD_WINDOW_LOG)).ok()?;
                bounded(decoder, size)?
            }
        };
        (out.len() == size).then_some(out)
    }
}

/// Bytes that come of one byte of snappy, at most: a copy of 64 bytes takes two or three.
const SNAPPY_EXPANSION_MAX: usize = 32;
/// The window (its logarithm to the base 2: 8 MiB) that RFC 8878, section 3.1.1.1.2, asks every decoder of zstd to have.
const ZSTD_WINDOW_LOG: u32 = 23;

/// Reads at most one byte more than `size`.
fn bounded(reader: impl std::io::Read, size: usize) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let most = u64::try_from(size).ok()?.checked_add(1)?;
    reader.take(most).read_to_end(&mut out).ok()?;
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_back_what_it_was_given_and_no_more() {
        let data = b"all work and no play ".repeat(1000);
        for id in 0..4 {
            let compressor = Compressor::from_id(id).unwrap();
            assert_eq!(compressor.id(), id);
            let small = compressor.compress(&data).unwrap();
            assert_eq!(compressor.decompress(&small, data.len()).unwrap(), data);
            for wrong in [0, data.len() - 1, data.len() + 1] {
                assert_eq!(
                    compressor.decompress(&small, wrong),
                    None,
                    "{compressor:?} {wrong}"
                );
            }
            if id > 0 {
                assert_eq!(compressor.decompress(&small[1..], data.len()), None);
                assert_eq!(compressor.decompress(&[], data.len()), None);
            }
        }
        assert_eq!(Compressor::from_id(4), None);
    }

    #[test]
    fn a_few_bytes_claim_no_memory() {
        // Snappy: a length of 40 MB, and nothing behind it.
        let claim = [0x80, 0xB4, 0x89, 0x13, 0];
        assert_eq!(snap::raw::decompress_len(&claim).unwrap(), 40_000_000);
        assert_eq!(Compressor::Snappy.decompress(&claim, 40_000_000), None);
        // Zstandard: a frame with a window of 128 MiB and one raw block of a byte (RFC 8878, sections 3.1.1 and 3.1.1.2).
        let claim = [0x28, 0xB5, 0x2F, 0xFD, 0, 17 << 3, 0x09, 0, 0, b'x'];
        assert_eq!(zstd::stream::decode_all(&claim[..]).unwrap(), b"x");
        assert_eq!(Compressor::Zstd.decompress(&claim, 1), None);
        let usual = [0x28, 0xB5, 0x2F, 0xFD, 0, 13 << 3, 0x09, 0, 0, b'x'];
        assert_eq!(Compressor::Zstd.decompress(&usual, 1).unwrap(), b"x");
        // The best that snappy can do stays within its bound.
        let same = vec![7; 1 << 20];
        let small = Compressor::Snappy.compress(&same).unwrap();
        assert_eq!(Compressor::Snappy.decompress(&small, same.len()), Some(same));
    }
}
