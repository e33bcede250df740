//! Escaping of header texts, which differs between the versions.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};

use super::{Command, Version};

/// How header texts travel in one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Escaping {
    /// As they are (1.0, and the frames that start a session).
    None,
    /// `\n`, `\c` and `\\` (1.1).
    Lf,
    /// The same and `\r` (1.2).
    CrLf,
}

/// Names and values differ in one point: a value may hold a colon where there are no escapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Name,
    Value,
}

impl Escaping {
    pub(super) fn of(command: Command, version: Version) -> Self {
        match version {
            _ if !command.escapes() => Self::None,
            Version::V1_0 => Self::None,
            Version::V1_1 => Self::Lf,
            Version::V1_2 => Self::CrLf,
        }
    }

    /// Writes a header text. What this version can't carry is replaced (line breaks and NUL, in a name also a colon), so
    /// that no text ever ends a header line or a frame.
    pub(super) fn put(self, out: &mut BytesMut, text: &str, part: Part) {
        let mut rest = text.as_bytes();
        while let Some(at) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r' | b':' | b'\\' | 0)) {
            out.put_slice(&rest[..at]);
            let replacement: &[u8] = match (rest[at], self) {
                (b'\n', Self::Lf | Self::CrLf) => b"\\n",
                (b'\r', Self::CrLf) => b"\\r",
                (b':', Self::Lf | Self::CrLf) => b"\\c",
                (b'\\', Self::Lf | Self::CrLf) => b"\\\\",
                (b'\\', Self::None) => b"\\",
                (b':', Self::None) if part == Part::Value => b":",
                _ if part == Part::Name => b"_",
                _ => b" ",
            };
            out.put_slice(replacement);
            rest = &rest[at + 1..];
        }
        out.put_slice(rest);
    }

    /// The text that `raw` stands for. `Err` is the escape sequence that this version does not know.
    pub(super) fn undo(self, raw: &str) -> Result<Cow<'_, str>, String> {
        if self == Self::None || !raw.contains('\\') {
            return Ok(Cow::Borrowed(raw));
        }
        let mut text = String::with_capacity(raw.len());
        let mut rest = raw;
        while let Some((before, after)) = rest.split_once('\\') {
            text.push_str(before);
            let mut after = after.chars();
            text.push(match after.next() {
                Some('n') => '\n',
                Some('c') => ':',
                Some('\\') => '\\',
                Some('r') if self == Self::CrLf => '\r',
                other => return Err(format!("\\{}", other.map(String::from).unwrap_or_default())),
            });
            rest = after.as_str();
        }
        text.push_str(rest);
        Ok(Cow::Owned(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(escaping: Escaping, text: &str, part: Part) -> String {
        let mut out = BytesMut::new();
        escaping.put(&mut out, text, part);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn each_version_writes_what_it_can_carry() {
        let text = "a\nb\rc:d\\e\0f";
        assert_eq!(put(Escaping::None, text, Part::Value), "a b c:d\\e f");
        assert_eq!(put(Escaping::None, text, Part::Name), "a_b_c_d\\e_f");
        assert_eq!(put(Escaping::Lf, text, Part::Value), "a\\nb c\\cd\\\\e f");
        assert_eq!(put(Escaping::CrLf, text, Part::Value), "a\\nb\\rc\\cd\\\\e f");
    }

    #[test]
    fn undefined_escapes_are_named() {
        let undo = |escaping: Escaping, raw: &str| escaping.undo(raw).map(Cow::into_owned);
        assert_eq!(undo(Escaping::CrLf, "a\\r\\n\\c\\\\n"), Ok("a\r\n:\\n".into()));
        assert_eq!(undo(Escaping::Lf, "a\\r"), Err("\\r".into()));
        assert_eq!(undo(Escaping::CrLf, "a\\t"), Err("\\t".into()));
        assert_eq!(undo(Escaping::CrLf, "a\\"), Err("\\".into()));
        assert_eq!(undo(Escaping::None, "a\\t\\"), Ok("a\\t\\".into()));
    }
}
