//! Selectors: the conditions on headers that a SUBSCRIBE may set, in the part of SQL-92 that JMS defines (JMS 2.0, 3.8.1).
//!
//! ```text
//! region = 'north' AND (weight > 2.5 OR NOT urgent) AND colour IN ('red', 'blue') AND note LIKE 'a\_%' ESCAPE '\'
//! ```
//!
//! - `lexer.rs`: text to words; `parser.rs`: words to an expression; `expr.rs`: that, and how it is written out again
//! - `eval.rs`: what it says about a message; `like.rs`: patterns of LIKE; `stored.rs`: the headers of a message that is kept
//!
//! What follows from STOMP, whose headers are all texts:
//! - An identifier is the name of a header, and `"..."` may be put around one that is no word: `"content-type" = 'text/plain'`.
//! - A header that is compared with a number or with TRUE or FALSE is read as one, as both ActiveMQs do for STOMP. One that can't be
//!   is of another type, and what compares different types is false: `a = 1` and `a <> 1` both are for `a:x`.
//! - `JMSPriority`, `JMSMessageID`, `JMSTimestamp`, `JMSCorrelationID`, `JMSType` and `JMSDeliveryMode` are the headers
//!   `priority` (4 where it is missing), `message-id`, `timestamp`, `correlation-id`, `type` and `persistent` (`'NON_PERSISTENT'`
//!   for `persistent:false`, else `'PERSISTENT'`).
//! - `convert_string_expressions:` in front changes nothing. After `hyphenated_props:` identifiers may have hyphens; a minus
//!   needs a space before it then.
//!
//! What is missing is NULL, and what is said about NULL is neither true nor false but unknown; only what is true gets through.

mod eval;
mod expr;
mod lexer;
mod like;
mod parser;
mod stored;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, fmt, sync::Arc};

use expr::Expr;
pub(crate) use stored::StoredFields;

/// Bytes of the longest selector.
pub const MAX_SELECTOR_LEN: usize = 1024;

/// Expressions within each other, at most.
const MAX_DEPTH: usize = 64;

/// A selector that has been read. Two are equal if they were written alike.
#[derive(Clone, Debug)]
pub struct Selector {
    text: Arc<str>,
    expr: Arc<Expr>,
    weight: usize,
}

/// The text is no selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the selector can't be read at character {at}: {what}")]
pub struct SelectorError {
    /// Of the text, from 1.
    at: usize,
    what: String,
}

/// The headers of a message.
pub trait Fields {
    /// The first one of that name.
    fn field(&self, name: &str) -> Option<Cow<'_, str>>;
}

impl Selector {
    /// Reads one. `None` if there is nothing but space: then everything matches.
    ///
    /// # Errors
    /// [`SelectorError`], with the place.
    pub fn parse(text: &str) -> Result<Option<Self>, SelectorError> {
        if text.len() > MAX_SELECTOR_LEN {
            let what = format!("it is longer than {MAX_SELECTOR_LEN} bytes");
            let at = text.char_indices().take_while(|(place, _)| *place < MAX_SELECTOR_LEN).count() + 1;
            return Err(SelectorError { at, what });
        }
        let Some(expr) = parser::parse(text)? else { return Ok(None) };
        Ok(Some(Self { text: text.trim().into(), weight: expr.weight(), expr: Arc::new(expr) }))
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it lets a message with these headers through.
    pub fn matches(&self, fields: &impl Fields) -> bool {
        eval::condition(&self.expr, fields) == Some(true)
    }

    /// About how much work a byte of headers is.
    pub(crate) fn weight(&self) -> usize {
        self.weight
    }
}

impl PartialEq for Selector {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Selector {}

/// As an equal expression is written with all brackets, and nothing in front.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expr.fmt(f)
    }
}
