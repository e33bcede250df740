//! Whether text that comes in pieces is UTF-8: a character may be cut anywhere.

/// What was seen so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Utf8 {
    /// The beginning of a character that the last piece ended in.
    cut: [u8; 4],
    len: usize,
}

impl Utf8 {
    /// Takes the next piece. False: what has come is no UTF-8, whatever follows.
    pub(super) fn push(&mut self, mut piece: &[u8]) -> bool {
        while self.len > 0 {
            let Some((first, rest)) = piece.split_first() else { return true };
            // A cut character has at most three bytes here: with a fourth it is whole, or wrong.
            self.cut[self.len] = *first;
            self.len += 1;
            piece = rest;
            match std::str::from_utf8(&self.cut[..self.len]) {
                Ok(_) => self.len = 0,
                Err(error) if error.error_len().is_none() => {}
                Err(_) => {
                    self.len = 0;
                    return false;
                }
            }
        }
        match std::str::from_utf8(piece) {
            Ok(_) => true,
            Err(error) if error.error_len().is_none() => {
                let cut = &piece[error.valid_up_to()..];
                self.cut[..cut.len()].copy_from_slice(cut);
                self.len = cut.len();
                true
            }
            Err(_) => false,
        }
    }

    /// Whether no character is cut: the text may end here.
    pub(super) fn is_whole(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_utf8<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> bool {
        let mut text = Utf8::default();
        for piece in pieces {
            if !text.push(piece) {
                return false;
            }
        }
        text.is_whole()
    }

    proptest! {
        #[test]
        fn pieces_are_utf8_exactly_when_the_whole_is(
            text in ".{0,12}", junk in prop::option::of((any::<u8>(), 0..40_usize)), size in 1..5_usize
        ) {
            let mut bytes = text.into_bytes();
            if let Some((byte, at)) = junk {
                bytes.insert(at.min(bytes.len()), byte);
            }
            prop_assert_eq!(is_utf8(bytes.chunks(size)), std::str::from_utf8(&bytes).is_ok());
        }
    }

    #[test]
    fn a_cut_character_at_the_end_is_none() {
        assert!(!is_utf8([&b"a\xe2\x82"[..]].into_iter()));
        assert!(is_utf8([&b"a\xe2"[..], b"\x82", b"\xac"].into_iter()));
        assert!(!is_utf8([&b"\xf0\x9f"[..], b"a"].into_iter()));
    }
}
