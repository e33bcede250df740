//! Words of a selector.

use super::SelectorError;

/// One word, or sign.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// In capitals.
    Keyword(&'static str),
    Identifier(String),
    Text(String),
    /// Without a sign.
    Integer(u64),
    Float(f64),
    Sign(&'static str),
}

const KEYWORDS: [&str; 11] = ["AND", "BETWEEN", "ESCAPE", "FALSE", "IN", "IS", "LIKE", "NOT", "NULL", "OR", "TRUE"];

/// Longer ones first.
const SIGNS: [&str; 14] = ["<>", "<=", ">=", "=", "<", ">", "+", "-", "*", "/", "%", "(", ")", ","];

/// All tokens, each with the character at which it begins, from 1.
pub(super) fn tokens(text: &str) -> Result<Vec<(usize, Token)>, SelectorError> {
    let mut rest = text.trim_start();
    let mut is_hyphenated = false;
    // In any order, and as often as somebody likes.
    loop {
        if let Some(after) = rest.strip_prefix("convert_string_expressions:") {
            rest = after;
        } else if let Some(after) = rest.strip_prefix("hyphenated_props:") {
            (rest, is_hyphenated) = (after, true);
        } else {
            break;
        }
    }
    let mut tokens = Vec::new();
    loop {
        rest = rest.trim_start();
        let Some(first) = rest.chars().next() else { return Ok(tokens) };
        let at = text[..text.len() - rest.len()].chars().count() + 1;
        let fail = |what: &str| SelectorError { at, what: what.to_owned() };
        let (token, len) = match first {
            '\'' => {
                let (value, len) = quoted(rest, '\'').ok_or_else(|| fail("the text has no closing quote"))?;
                (Token::Text(value), len)
            }
            '"' => {
                let (name, len) = quoted(rest, '"').ok_or_else(|| fail("the name has no closing quote"))?;
                if name.is_empty() {
                    return Err(fail("the name is empty"));
                }
                (Token::Identifier(name), len)
            }
            '0'..='9' => number(rest).map_err(fail)?,
            '.' if rest[1..].starts_with(|next: char| next.is_ascii_digit()) => number(rest).map_err(fail)?,
            _ if is_start(first) => {
                let is_part = |char: char| is_start(char) || char.is_numeric() || (is_hyphenated && char == '-');
                let len = rest.find(|char| !is_part(char)).unwrap_or(rest.len());
                let word = &rest[..len];
                let keyword = KEYWORDS.into_iter().find(|keyword| word.eq_ignore_ascii_case(keyword));
                (keyword.map_or_else(|| Token::Identifier(word.to_owned()), Token::Keyword), len)
            }
            _ => {
                let sign = SIGNS.into_iter().find(|sign| rest.starts_with(sign));
                let unknown = || fail(&format!("`{}` means nothing here", first.escape_debug()));
                let sign = sign.ok_or_else(unknown)?;
                (Token::Sign(sign), sign.len())
            }
        };
        tokens.push((at, token));
        rest = &rest[len..];
    }
}

/// Whether a word that may stand without quotes may begin so.
pub(super) fn is_start(char: char) -> bool {
    char.is_alphabetic() || char == '_' || char == '$'
}

/// Whether this is read as an identifier without quotes.
pub(super) fn is_plain(name: &str) -> bool {
    name.starts_with(is_start)
        && name.chars().all(|char| is_start(char) || char.is_numeric())
        && !KEYWORDS.iter().any(|keyword| name.eq_ignore_ascii_case(keyword))
}

/// What stands in quotes, which are doubled within, and the bytes that it takes.
fn quoted(text: &str, quote: char) -> Option<(String, usize)> {
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((place, char)) = chars.next() {
        if char != quote {
            value.push(char);
        } else if chars.next_if(|(_, next)| *next == quote).is_some() {
            value.push(quote);
        } else {
            return Some((value, place + 1));
        }
    }
    None
}

/// A number as Java writes it: decimal, hexadecimal after 0x, octal after 0; with point or exponent a float.
fn number(text: &str) -> Result<(Token, usize), &'static str> {
    const TOO_LARGE: &str = "the number is too large";
    let digits = |from: usize, radix: u32| {
        text[from..].find(|char: char| !char.is_digit(radix)).map_or(text.len(), |len| from + len)
    };
    let (token, end) = if text.starts_with("0x") || text.starts_with("0X") {
        let end = digits(2, 16);
        if end == 2 {
            return Err("a hexadecimal number needs digits after 0x");
        }
        (Token::Integer(u64::from_str_radix(&text[2..end], 16).map_err(|_| TOO_LARGE)?), end)
    } else {
        let mut end = digits(0, 10);
        let mut is_float = false;
        if text[end..].starts_with('.') {
            is_float = true;
            end = digits(end + 1, 10);
        }
        if text[end..].starts_with(['e', 'E']) {
            let sign = usize::from(text[end + 1..].starts_with(['+', '-']));
            let after = digits(end + 1 + sign, 10);
            if after == end + 1 + sign {
                return Err("the exponent has no digits");
            }
            is_float = true;
            end = after;
        }
        if is_float {
            let value: f64 = text[..end].parse().map_err(|_| "this is no number")?;
            if !value.is_finite() {
                return Err(TOO_LARGE);
            }
            (Token::Float(value), end)
        } else if text.starts_with('0') && end > 1 {
            let octal = u64::from_str_radix(&text[1..end], 8);
            (Token::Integer(octal.map_err(|_| "a number that begins with 0 is octal, and this one can't be")?), end)
        } else {
            (Token::Integer(text[..end].parse().map_err(|_| TOO_LARGE)?), end)
        }
    };
    // Java's suffixes of type.
    let suffixes: &[char] = if matches!(token, Token::Float(_)) { &['f', 'F', 'd', 'D'] } else { &['l', 'L'] };
    let end = end + usize::from(text[end..].starts_with(suffixes));
    if text[end..].starts_with(|char: char| is_start(char) || char.is_numeric()) {
        return Err("a number ends in letters");
    }
    Ok((token, end))
}
