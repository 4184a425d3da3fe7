//! Static libraries (`ar` archives in GNU's format, as LLVM writes them): read the symbol index, join two.
//!
//! The `ar` of binutils drops the index of WebAssembly objects and LLVM's own is not installed everywhere, hence
//! these few lines. Only what wasi-libc's archives use is understood; all else is refused.

use anyhow::{Context, Result, bail, ensure};

const MAGIC: &[u8] = b"!<arch>\n";
const HEADER_BYTES: usize = 60;

/// An archive taken apart.
struct Archive<'a> {
    /// Symbol name, and which of `members` defines it.
    index: Vec<(&'a [u8], usize)>,
    /// The table of names longer than a header holds.
    long_names: &'a [u8],
    members: Vec<Member<'a>>,
}

struct Member<'a> {
    header: &'a [u8],
    data: &'a [u8],
}

/// The symbols that an archive's index lists, in its order.
///
/// # Errors
/// When the bytes are no archive or it has no index.
pub(super) fn symbols(archive: &[u8]) -> Result<Vec<String>> {
    let index = parse(archive)?.index;
    Ok(index
        .iter()
        .map(|(name, _)| String::from_utf8_lossy(name).into_owned())
        .collect())
}

/// One archive with the members and symbols of both, those of `first` first.
///
/// # Errors
/// When either is no archive with an index.
pub(super) fn join(first: &[u8], second: &[u8]) -> Result<Vec<u8>> {
    let first = parse(first).context("read the first archive")?;
    let second = parse(second).context("read the second archive")?;
    let long_names = [first.long_names, second.long_names].concat();

    let mut members = Vec::new();
    for member in &first.members {
        members.push((member.header.to_vec(), member.data));
    }
    for member in &second.members {
        members.push((moved_name(member.header, first.long_names.len())?, member.data));
    }
    let symbols: Vec<(&[u8], usize)> = first
        .index
        .iter()
        .copied()
        .chain(
            second
                .index
                .iter()
                .map(|(name, member)| (*name, member + first.members.len())),
        )
        .collect();

    let names_bytes: usize = symbols.iter().map(|(name, _)| name.len() + 1).sum();
    let index_bytes = 4 + 4 * symbols.len() + names_bytes;
    let mut offset = MAGIC.len() + HEADER_BYTES + even(index_bytes);
    if !long_names.is_empty() {
        offset += HEADER_BYTES + even(long_names.len());
    }
    let mut offsets = Vec::new();
    for (_, data) in &members {
        offsets.push(u32::try_from(offset).context("the joined archive is over 4 GiB")?);
        offset += HEADER_BYTES + even(data.len());
    }

    let mut index = u32::try_from(symbols.len())
        .context("too many symbols")?
        .to_be_bytes()
        .to_vec();
    symbols
        .iter()
        .for_each(|(_, member)| index.extend(offsets[*member].to_be_bytes()));
    symbols
        .iter()
        .for_each(|(name, _)| index.extend([*name, b"\0".as_slice()].concat()));

    let mut out = MAGIC.to_vec();
    push(&mut out, &header("/", index.len()), &index);
    if !long_names.is_empty() {
        push(&mut out, &header("//", long_names.len()), &long_names);
    }
    members
        .iter()
        .for_each(|(header, data)| push(&mut out, header, data));
    Ok(out)
}

fn parse(bytes: &[u8]) -> Result<Archive<'_>> {
    ensure!(
        bytes.starts_with(MAGIC),
        "no archive: it does not start with !<arch>"
    );
    let mut index = None;
    let mut long_names: &[u8] = &[];
    let mut members = Vec::new();
    let mut starts = Vec::new();
    let mut at = MAGIC.len();
    while at < bytes.len() {
        let header = bytes
            .get(at..at + HEADER_BYTES)
            .context("cut off inside a member's header")?;
        ensure!(header.ends_with(b"`\n"), "no member header at byte {at}");
        let size: usize = std::str::from_utf8(&header[48..58])?
            .trim()
            .parse()
            .context("size of a member")?;
        let data_at = at + HEADER_BYTES;
        let data = bytes
            .get(data_at..data_at + size)
            .context("cut off inside a member")?;
        match std::str::from_utf8(&header[..16])?.trim_end() {
            "/" => index = Some(data),
            "//" => long_names = data,
            "/SYM64/" => bail!("an archive with 64-bit offsets is not understood"),
            _ => {
                starts.push(at);
                members.push(Member { header, data });
            }
        }
        at = data_at + even(size);
    }
    let index = parse_index(index.context("the archive has no symbol index")?, &starts)?;
    Ok(Archive {
        index,
        long_names,
        members,
    })
}

/// The index: a count, that many offsets of members, that many names ended by NUL; numbers are big endian.
fn parse_index<'a>(index: &'a [u8], starts: &[usize]) -> Result<Vec<(&'a [u8], usize)>> {
    let number = |at: usize| -> Result<usize> {
        let bytes = index.get(at..at + 4).context("the symbol index is cut off")?;
        Ok(u32::from_be_bytes(bytes.try_into().expect("four bytes were taken")) as usize)
    };
    let count = number(0)?;
    let names = index
        .get(4 + 4 * count..)
        .context("the symbol index is cut off")?;
    let mut symbols = Vec::new();
    for (i, name) in names.split(|byte| *byte == 0).take(count).enumerate() {
        let member = starts
            .binary_search(&number(4 + 4 * i)?)
            .ok()
            .context("the symbol index points nowhere")?;
        symbols.push((name, member));
    }
    ensure!(
        symbols.len() == count,
        "the symbol index has {} names for {count} symbols",
        symbols.len()
    );
    Ok(symbols)
}

/// A member's header whose long name (`/OFFSET`), if it has one, points `by` bytes further.
fn moved_name(header: &[u8], by: usize) -> Result<Vec<u8>> {
    let mut header = header.to_vec();
    let name = std::str::from_utf8(&header[..16])?.trim_end();
    if let Some(offset) = name.strip_prefix('/') {
        let offset: usize = offset
            .parse()
            .with_context(|| format!("member name \"{name}\""))?;
        header[..16].copy_from_slice(format!("{:<16}", format!("/{}", offset + by)).as_bytes());
    }
    Ok(header)
}

fn header(name: &str, size: usize) -> Vec<u8> {
    format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`\n", 0, 0, 0, 0).into_bytes()
}

/// Members start at even offsets.
fn push(out: &mut Vec<u8>, header: &[u8], data: &[u8]) {
    out.extend(header);
    out.extend(data);
    if data.len() % 2 == 1 {
        out.push(b'\n');
    }
}

fn even(bytes: usize) -> usize {
    bytes.next_multiple_of(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An archive of one member with one long name, defining `symbols`.
    fn one(member: &str, data: &[u8], symbols: &[&str]) -> Vec<u8> {
        let names = format!("{member}/\n");
        let mut index = u32::try_from(symbols.len()).unwrap().to_be_bytes().to_vec();
        let index_bytes = 4 + symbols.iter().map(|name| 4 + name.len() + 1).sum::<usize>();
        let start = MAGIC.len() + 2 * HEADER_BYTES + even(index_bytes) + even(names.len());
        symbols
            .iter()
            .for_each(|_| index.extend(u32::try_from(start).unwrap().to_be_bytes()));
        symbols
            .iter()
            .for_each(|name| index.extend(format!("{name}\0").bytes()));
        let mut out = MAGIC.to_vec();
        push(&mut out, &header("/", index.len()), &index);
        push(&mut out, &header("//", names.len()), names.as_bytes());
        push(&mut out, &header("/0", data.len()), data);
        out
    }

    #[test]
    fn a_joined_archive_has_members_names_and_symbols_of_both() {
        let first = one("a-name-longer-than-a-header.o", b"odd", &["socket", "bind"]);
        let second = one("another-name-that-is-too-long.o", b"even", &["pthread_create"]);
        let joined = join(&first, &second).unwrap();

        assert_eq!(symbols(&joined).unwrap(), ["socket", "bind", "pthread_create"]);
        let parsed = parse(&joined).unwrap();
        assert_eq!(
            parsed.index.iter().map(|(_, member)| *member).collect::<Vec<_>>(),
            [0, 0, 1]
        );
        assert_eq!(
            parsed
                .members
                .iter()
                .map(|member| member.data)
                .collect::<Vec<_>>(),
            [&b"odd"[..], b"even"]
        );
        let name = std::str::from_utf8(&parsed.members[1].header[..16])
            .unwrap()
            .trim_end();
        let offset: usize = name.strip_prefix('/').unwrap().parse().unwrap();
        assert!(parsed.long_names[offset..].starts_with(b"another-name-that-is-too-long.o/"));
    }

    #[test]
    fn what_is_no_archive_is_refused() {
        let whole = one("a-name-longer-than-a-header.o", b"data", &["socket"]);
        assert!(symbols(b"\0asm").is_err());
        assert!(symbols(MAGIC).is_err(), "no index");
        for cut in [MAGIC.len() + 10, MAGIC.len() + HEADER_BYTES + 2, whole.len() - 1] {
            assert!(symbols(&whole[..cut]).is_err(), "cut at {cut}");
        }
    }
}
