//! Patterns of LIKE: `%` is any text, `_` any one character, and what follows the escape is itself.

/// One pattern, cut at each `%`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    text: String,
    escape: Option<char>,
    /// What must follow each other, with anything in between; `None` is any one character. Never empty.
    pieces: Vec<Vec<Option<char>>>,
}

impl Pattern {
    /// Reads one. An error where the escape stands before something else than `%`, `_` and itself.
    pub(super) fn new(text: &str, escape: Option<char>) -> Result<Self, &'static str> {
        let mut pieces = vec![Vec::new()];
        let mut chars = text.chars();
        while let Some(char) = chars.next() {
            let piece = pieces.last_mut();
            let next = match char {
                _ if Some(char) == escape => match chars.next() {
                    Some(next) if next == '%' || next == '_' || Some(next) == escape => Some(next),
                    _ => return Err("in a pattern the escape stands before %, _ or itself"),
                },
                '%' => {
                    pieces.push(Vec::new());
                    continue;
                }
                '_' => None,
                other => Some(other),
            };
            piece.into_iter().for_each(|piece| piece.push(next));
        }
        Ok(Self { text: text.to_owned(), escape, pieces })
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn escape(&self) -> Option<char> {
        self.escape
    }

    /// How much work a character of the text may be, at most.
    pub(super) fn weight(&self) -> usize {
        let inner = self.pieces.len().saturating_sub(2);
        self.pieces.iter().skip(1).take(inner).map(Vec::len).max().unwrap_or(1).max(1)
    }

    pub(super) fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        let fits = |piece: &[Option<char>], at: usize| {
            let there = text.get(at..at + piece.len());
            there.is_some_and(|there| piece.iter().zip(there).all(|(want, char)| want.is_none_or(|want| want == *char)))
        };
        let Some((first, others)) = self.pieces.split_first() else { return text.is_empty() };
        if !fits(first, 0) {
            return false;
        }
        let mut at = first.len();
        let Some((last, inner)) = others.split_last() else { return at == text.len() };
        // Each as early as it can be: that leaves the most for those that follow.
        for piece in inner {
            match (at..=text.len()).find(|at| fits(piece, *at)) {
                Some(place) => at = place + piece.len(),
                None => return false,
            }
        }
        text.len().checked_sub(last.len()).is_some_and(|place| place >= at && fits(last, place))
    }
}
