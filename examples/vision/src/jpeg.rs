//! The part of a JPEG file that says how large the picture is. No decoding.

/// The frame header.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    pub width: u16,
    pub height: u16,
    pub components: u8,
}

/// Reads the frame header: walks the marker segments up to the first start of frame.
///
/// # Errors
/// A text that tells what is wrong with the file.
pub fn frame(file: &[u8]) -> Result<Frame, &'static str> {
    let mut rest = file
        .strip_prefix(&[0xff, 0xd8])
        .ok_or("not a JPEG: it does not begin with FF D8")?;
    loop {
        let [0xff, after @ ..] = rest else {
            return Err("broken JPEG: no marker where one must be");
        };
        // Any number of FF may fill the gap before a marker.
        let fill = after.iter().take_while(|byte| **byte == 0xff).count();
        let [marker, after @ ..] = &after[fill..] else {
            return Err("broken JPEG: it ends in a marker");
        };
        match marker {
            // Markers that stand alone.
            0x01 | 0xd0..=0xd7 => rest = after,
            0xd9 | 0xda => return Err("broken JPEG: the picture begins before its frame header"),
            _ => {
                let [high, low, ..] = after else {
                    return Err("broken JPEG: it ends in a segment's length");
                };
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                if length < 2 || after.len() < length {
                    return Err("broken JPEG: it ends in a segment");
                }
                let segment = &after[2..length];
                // Start of frame, but for the three in its range that are tables.
                if matches!(marker, 0xc0..=0xcf) && !matches!(marker, 0xc4 | 0xc8 | 0xcc) {
                    let [_precision, h1, h0, w1, w0, components, ..] = segment else {
                        return Err("broken JPEG: the frame header is too short");
                    };
                    return Ok(Frame {
                        width: u16::from_be_bytes([*w1, *w0]),
                        height: u16::from_be_bytes([*h1, *h0]),
                        components: *components,
                    });
                }
                rest = &after[length..];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_size_behind_other_segments() {
        let file = [
            0xff, 0xd8, 0xff, 0xe0, 0, 4, 1, 2, 0xff, 0xff, 0xc0, 0, 11, 8, 0, 120, 0, 160, 3, 0, 0, 0,
        ];
        let expected = Frame {
            width: 160,
            height: 120,
            components: 3,
        };
        assert_eq!(frame(&file), Ok(expected));
    }

    #[test]
    fn reads_shipped_photos_and_refuses_every_cut_of_their_heads() {
        let photo = include_bytes!("../../hotel/photos/li.jpg");
        let whole = frame(photo).expect("a JPEG");
        assert_eq!((whole.width, whole.height), (160, 120));
        for cut in 0..photo.len() {
            if let Ok(found) = frame(&photo[..cut]) {
                assert_eq!(found, whole);
            }
        }
    }

    #[test]
    fn refuses_what_is_no_jpeg() {
        for file in [
            b"".as_slice(),
            b"GIF89a",
            &[0xff, 0xd8],
            &[0xff, 0xd8, 0xff, 0xd9],
        ] {
            assert!(frame(file).is_err(), "{file:?}");
        }
    }
}
