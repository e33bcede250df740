//! The stored header section: what the engine keeps of a SEND's headers, and what goes into the MESSAGE of it.
//!
//! Canonical 1.2 form: `name:value` lines, escaped, each ended by a line feed, first of repeated names only. It is made
//! once, when the SEND comes in; for a consumer of 1.2 (and nearly always of 1.1) it is copied as it is.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};

use super::{
    DecodeError, Headers, Version,
    decode::split_header,
    escape::{Escaping, Part},
};

/// Headers which belong to one hop and are not stored: those that speak to this broker about the SEND, and those that
/// the broker writes itself into a MESSAGE (a producer must not be able to forge them).
pub const HOP_HEADERS: [&str; 24] = [
    "destination",
    "receipt",
    "transaction",
    "content-length",
    "message-id",
    "subscription",
    "ack",
    "redelivered",
    "receipt-id",
    "expires",
    "expiration",
    "delivery-count",
    "browser",
    "dead-letter-reason",
    "dead-letter-from",
    "dead-letter-id",
    "dead-letter-deliveries",
    "dead-letter-time",
    "dead-letter-origin",
    "x-delay",
    "AMQ_SCHEDULED_DELAY",
    "AMQ_SCHEDULED_PERIOD",
    "AMQ_SCHEDULED_REPEAT",
    "AMQ_SCHEDULED_CRON",
];

/// The section to store for a SEND with these headers.
pub fn encode_stored_head(headers: &Headers) -> Bytes {
    let mut out = BytesMut::new();
    for (name, value) in headers.iter().filter(|entry| !HOP_HEADERS.contains(&entry.0)) {
        put_line(&mut out, Escaping::CrLf, name, value);
    }
    out.freeze()
}

/// The headers in a stored section.
pub fn decode_stored_head(stored_head: &[u8]) -> Result<Headers, DecodeError> {
    let mut headers = Headers::new();
    for line in lines(stored_head) {
        let (name, value) = split_header(line, Escaping::CrLf, Version::V1_2)?;
        headers.push(&name, &value);
    }
    Ok(headers)
}

/// The value of a header in a stored section, as it stands there: escaped.
pub(crate) fn stored_header<'a>(stored_head: &'a [u8], name: &str) -> Option<&'a [u8]> {
    memchr::memmem::find_iter(stored_head, name).find_map(|at| {
        let is_line = at == 0 || stored_head[at - 1] == b'\n';
        let rest = stored_head[at + name.len()..].strip_prefix(b":").filter(|_| is_line)?;
        Some(&rest[..memchr::memchr(b'\n', rest).unwrap_or(rest.len())])
    })
}

/// A stored section without some headers, and with others instead.
pub(crate) fn edit_stored_head(stored_head: &[u8], without: &[&str], with: &[(&str, &str)]) -> Bytes {
    let is_named =
        |line: &[u8], name: &&str| line.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.starts_with(b":"));
    let mut out = BytesMut::with_capacity(stored_head.len() + 32 * with.len());
    for line in lines(stored_head).filter(|line| !without.iter().any(|name| is_named(line, name))) {
        out.extend_from_slice(line);
        out.extend_from_slice(b"\n");
    }
    with.iter().for_each(|(name, value)| put_line(&mut out, Escaping::CrLf, name, value));
    out.freeze()
}

/// A stored section with more headers behind it.
pub(crate) fn append_stored_head(stored_head: &Bytes, lines: &[(&str, &str)]) -> Bytes {
    if lines.is_empty() {
        return stored_head.clone();
    }
    let more: usize = lines.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    let mut out = BytesMut::with_capacity(stored_head.len() + more);
    out.extend_from_slice(stored_head);
    lines.iter().for_each(|(name, value)| put_line(&mut out, Escaping::CrLf, name, value));
    out.freeze()
}

/// The value of a header in a stored section.
pub(crate) fn find_stored<'a>(stored_head: &'a [u8], name: &str) -> Option<Cow<'a, str>> {
    lines(stored_head).find_map(|line| {
        let (found, value) = split_header(line, Escaping::CrLf, Version::V1_2).ok()?;
        (found == name).then_some(value)
    })
}

/// The section to store for a message whose inbox is not called like its destination: that goes in front.
pub(crate) fn encode_routed_head(destination: &str, stored_head: &[u8]) -> Bytes {
    prefix_head(DESTINATION, destination, stored_head)
}

/// The two parts of what [`encode_routed_head`] made; `None` if it did not.
pub(crate) fn decode_routed_head(routed_head: &Bytes) -> Option<(String, Bytes)> {
    take_prefix(DESTINATION, routed_head)
}

/// A stored section with a line of the broker's own in front.
pub(crate) fn prefix_head(name: &str, value: &str, stored_head: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(name.len() + value.len() + 2 + stored_head.len());
    put_line(&mut out, Escaping::CrLf, name, value);
    out.extend_from_slice(stored_head);
    out.freeze()
}

/// The value of that line, and what is behind it; `None` if the first line is another.
pub(crate) fn take_prefix(name: &str, head: &Bytes) -> Option<(String, Bytes)> {
    let end = memchr::memchr(b'\n', head)?;
    let (found, value) = split_header(&head[..end], Escaping::CrLf, Version::V1_2).ok()?;
    (found == name).then(|| (value.to_string(), head.slice(end + 1..)))
}

const DESTINATION: &str = "destination";

/// Writes a stored section into a MESSAGE for a session of this version.
pub(super) fn put_stored_head(out: &mut BytesMut, stored_head: &[u8], version: Version) {
    let verbatim = match version {
        Version::V1_2 => true,
        // `\\r` (an escaped backslash and an r) is found too; it only takes the slow path needlessly.
        Version::V1_1 => memchr::memmem::find(stored_head, b"\\r").is_none(),
        Version::V1_0 => memchr::memchr(b'\\', stored_head).is_none(),
    };
    if verbatim {
        out.extend_from_slice(stored_head);
        return;
    }
    let escaping = if version == Version::V1_0 { Escaping::None } else { Escaping::Lf };
    for line in lines(stored_head) {
        // A line that is not in the canonical form was stored by no version of this code; the message goes without it.
        if let Ok((name, value)) = split_header(line, Escaping::CrLf, Version::V1_2) {
            put_line(out, escaping, &name, &value);
        }
    }
}

fn lines(stored_head: &[u8]) -> impl Iterator<Item = &[u8]> {
    stored_head.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

fn put_line(out: &mut BytesMut, escaping: Escaping, name: &str, value: &str) {
    escaping.put(out, name, Part::Name);
    out.extend_from_slice(b":");
    escaping.put(out, value, Part::Value);
    out.extend_from_slice(b"\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(stored: &[u8], version: Version) -> String {
        let mut out = BytesMut::new();
        put_stored_head(&mut out, stored, version);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn hop_headers_stay_out_and_the_rest_survives() {
        let hop = HOP_HEADERS.iter().map(|name| (*name, "x"));
        let own = [("content-type", "text/plain"), ("k:1", "a\nb"), ("persistent", "true")];
        let headers: Headers = hop.chain(own).collect();
        let stored = encode_stored_head(&headers);
        assert_eq!(stored, "content-type:text/plain\nk\\c1:a\\nb\npersistent:true\n");
        assert_eq!(decode_stored_head(&stored).unwrap(), own.into_iter().collect());
        assert_eq!(find_stored(&stored, "k:1").as_deref(), Some("a\nb"));
        assert_eq!(find_stored(&stored, "k"), None);
    }

    #[test]
    fn one_header_is_found_and_only_as_a_whole_line() {
        let stored = b"x-expires:1\nnote:expires:2\nexpires:3\nexpires:4\nlast:";
        assert_eq!(stored_header(stored, "expires"), Some(&b"3"[..]));
        assert_eq!(stored_header(stored, "last"), Some(&b""[..]));
        assert_eq!(stored_header(stored, "note"), Some(&b"expires:2"[..]));
        assert_eq!(stored_header(stored, "expire"), None);
        let edited = edit_stored_head(stored, &["expires"], &[("why", "a:b\n")]);
        assert_eq!(edited, "x-expires:1\nnote:expires:2\nlast:\nwhy:a\\cb\\n\n");
    }

    #[test]
    fn a_destination_in_front_comes_off_again_and_nobody_else_can_put_one_there() {
        let forged = encode_stored_head(&[("destination", "/topic/x"), ("a", "b")].into_iter().collect());
        assert_eq!(decode_routed_head(&forged), None);
        let routed = encode_routed_head("/topic/a:b\nc", &forged);
        assert_eq!(decode_routed_head(&routed), Some(("/topic/a:b\nc".to_owned(), forged)));
        assert_eq!(decode_routed_head(&Bytes::new()), None);
    }

    #[test]
    fn older_versions_get_the_section_in_their_own_form() {
        let plain = encode_stored_head(&[("a", "b c")].into_iter().collect());
        assert!(Version::ALL.iter().all(|version| put(&plain, *version) == "a:b c\n"));

        let rich = encode_stored_head(&[("a", "l\nc:b\\"), ("cr", "x\ry")].into_iter().collect());
        assert_eq!(put(&rich, Version::V1_2), "a:l\\nc\\cb\\\\\ncr:x\\ry\n");
        assert_eq!(put(&rich, Version::V1_1), "a:l\\nc\\cb\\\\\ncr:x y\n");
        assert_eq!(put(&rich, Version::V1_0), "a:l c:b\\\ncr:x y\n");
    }

    #[test]
    fn broken_lines_are_an_error_to_read_and_left_out_to_older_versions() {
        assert!(decode_stored_head(b"no colon\n").is_err());
        assert_eq!(put(b"no colon\\\na:b\n", Version::V1_0), "a:b\n");
    }
}
