//! Words to an expression.

use super::{
    MAX_DEPTH, SelectorError,
    expr::{Comparison, Expr, Kind, Number, Operation},
    lexer::{Token, tokens},
    like::Pattern,
};

/// Reads all of a text; `None` if there is nothing in it.
pub(super) fn parse(text: &str) -> Result<Option<Expr>, SelectorError> {
    let tokens = tokens(text)?;
    if tokens.is_empty() {
        return Ok(None);
    }
    let mut parser = Parser { tokens, next: 0, depth: 0, end: text.chars().count() + 1 };
    let start = parser.at();
    let expr = parser.or()?;
    if parser.next < parser.tokens.len() {
        return Err(parser.fail("AND, OR or the end is expected"));
    }
    condition(expr, start).map(Some)
}

struct Parser {
    tokens: Vec<(usize, Token)>,
    next: usize,
    /// Brackets, signs and NOTs around what is being read.
    depth: usize,
    end: usize,
}

fn error(at: usize, what: &str) -> SelectorError {
    SelectorError { at, what: what.to_owned() }
}

/// What may be true or not.
fn condition(expr: Expr, at: usize) -> Result<Expr, SelectorError> {
    match expr.kind() {
        Kind::Condition | Kind::Bool | Kind::Header => Ok(expr),
        Kind::Number | Kind::Text => Err(error(at, "this is a value, and a condition is expected, such as `a = 1`")),
    }
}

/// What may be a number.
fn numeric(expr: Expr, at: usize) -> Result<Expr, SelectorError> {
    match expr.kind() {
        Kind::Number | Kind::Header => Ok(expr),
        Kind::Text | Kind::Bool => Err(error(at, "a number is expected; texts, TRUE and FALSE have no order")),
        Kind::Condition => Err(error(at, "a number is expected, and this is a condition")),
    }
}

/// What can be compared.
fn value(expr: Expr, at: usize) -> Result<Expr, SelectorError> {
    match expr.kind() {
        Kind::Condition => Err(error(at, "a condition can't be compared")),
        _ => Ok(expr),
    }
}

impl Parser {
    fn or(&mut self) -> Result<Expr, SelectorError> {
        self.chain("OR", Self::and, Expr::Or)
    }

    fn and(&mut self) -> Result<Expr, SelectorError> {
        self.chain("AND", Self::not, Expr::And)
    }

    fn chain(
        &mut self,
        keyword: &'static str,
        part: impl Fn(&mut Self) -> Result<Expr, SelectorError>,
        join: impl Fn(Vec<Expr>) -> Expr,
    ) -> Result<Expr, SelectorError> {
        let start = self.at();
        let first = part(self)?;
        if !self.is_keyword(keyword) {
            return Ok(first);
        }
        let mut all = vec![condition(first, start)?];
        while self.take_keyword(keyword) {
            let start = self.at();
            all.push(condition(part(self)?, start)?);
        }
        self.checked(join(all), start)
    }

    fn not(&mut self) -> Result<Expr, SelectorError> {
        let start = self.at();
        if !self.take_keyword("NOT") {
            return self.predicate();
        }
        let inner = self.nested(Self::not)?;
        let inner = condition(inner, start)?;
        self.checked(Expr::Not(Box::new(inner)), start)
    }

    fn predicate(&mut self) -> Result<Expr, SelectorError> {
        let start = self.at();
        let first = self.sum()?;
        if let Some(how) = self.take_sign(&Comparison::ALL) {
            let other = self.at();
            let second = self.sum()?;
            let check = if how.is_ordering() { numeric } else { value };
            let (first, second) = (check(first, start)?, check(second, other)?);
            return self.checked(Expr::Compare(how, Box::new(first), Box::new(second)), start);
        }
        if self.take_keyword("IS") {
            let negated = self.take_keyword("NOT");
            self.need_keyword("NULL")?;
            return Ok(Expr::IsNull { negated, header: header(first, start)? });
        }
        let negated = self.take_keyword("NOT");
        if self.take_keyword("BETWEEN") {
            let what = Box::new(numeric(first, start)?);
            let low = self.bound()?;
            self.need_keyword("AND")?;
            let high = self.bound()?;
            return self.checked(Expr::Between { negated, what, low, high }, start);
        }
        if self.take_keyword("IN") {
            let header = header(first, start)?;
            self.need_sign("(")?;
            let mut texts = vec![self.text()?];
            while self.take_sign(&[(",", ())]).is_some() {
                texts.push(self.text()?);
            }
            self.need_sign(")")?;
            return Ok(Expr::In { negated, header, texts });
        }
        if self.take_keyword("LIKE") {
            let header = header(first, start)?;
            let at = self.at();
            let text = self.text()?;
            let escape = if self.take_keyword("ESCAPE") { Some(self.escape()?) } else { None };
            let pattern = Pattern::new(&text, escape).map_err(|what| error(at, what))?;
            return Ok(Expr::Like { negated, header, pattern });
        }
        if negated {
            return Err(self.fail("BETWEEN, IN or LIKE is expected"));
        }
        Ok(first)
    }

    fn bound(&mut self) -> Result<Box<Expr>, SelectorError> {
        let at = self.at();
        let bound = self.sum()?;
        numeric(bound, at).map(Box::new)
    }

    fn escape(&mut self) -> Result<char, SelectorError> {
        let at = self.at();
        let text = self.text()?;
        let mut chars = text.chars();
        match (chars.next(), chars.next()) {
            (Some(one), None) => Ok(one),
            _ => Err(error(at, "ESCAPE takes a single character")),
        }
    }

    fn sum(&mut self) -> Result<Expr, SelectorError> {
        self.arithmetic(&Operation::ALL[..2], Self::product)
    }

    fn product(&mut self) -> Result<Expr, SelectorError> {
        self.arithmetic(&Operation::ALL[2..], Self::signed)
    }

    fn arithmetic(
        &mut self,
        signs: &[(&'static str, Operation)],
        part: impl Fn(&mut Self) -> Result<Expr, SelectorError>,
    ) -> Result<Expr, SelectorError> {
        let start = self.at();
        let mut all = part(self)?;
        while let Some(how) = self.take_sign(signs) {
            let at = self.at();
            let next = numeric(part(self)?, at)?;
            all = self.checked(Expr::Arithmetic(how, Box::new(numeric(all, start)?), Box::new(next)), start)?;
        }
        Ok(all)
    }

    fn signed(&mut self) -> Result<Expr, SelectorError> {
        let start = self.at();
        match self.take_sign(&[("-", true), ("+", false)]) {
            None => self.primary(),
            Some(is_negative) => {
                // The smallest whole number has no positive one that it is the negative of.
                if let Some((_, Token::Integer(size))) = self.tokens.get(self.next)
                    && is_negative
                {
                    let least = 0_i64.checked_sub_unsigned(*size);
                    let least = least.ok_or_else(|| error(start, "the number is too small"))?;
                    self.next += 1;
                    return Ok(Expr::Number(Number::Integer(least)));
                }
                let at = self.at();
                let inner = self.nested(Self::signed)?;
                match numeric(inner, at)? {
                    inner if !is_negative => Ok(inner),
                    Expr::Number(Number::Float(value)) => Ok(Expr::Number(Number::Float(-value))),
                    Expr::Number(Number::Integer(value)) if value != i64::MIN => {
                        Ok(Expr::Number(Number::Integer(-value)))
                    }
                    inner => self.checked(Expr::Negative(Box::new(inner)), start),
                }
            }
        }
    }

    fn primary(&mut self) -> Result<Expr, SelectorError> {
        let fail = || self.fail("a header, a value or an opening bracket is expected");
        let at = self.at();
        let (_, token) = self.tokens.get(self.next).ok_or_else(fail)?;
        let expr = match token {
            Token::Identifier(name) => Expr::Header(name.clone()),
            Token::Text(text) => Expr::Text(text.clone()),
            Token::Float(value) => Expr::Number(Number::Float(*value)),
            Token::Integer(size) => {
                let value = i64::try_from(*size).map_err(|_| error(at, "the number is too large"))?;
                Expr::Number(Number::Integer(value))
            }
            Token::Keyword("TRUE") => Expr::Bool(true),
            Token::Keyword("FALSE") => Expr::Bool(false),
            Token::Sign("(") => {
                self.next += 1;
                let inner = self.nested(Self::or)?;
                self.need_sign(")")?;
                return Ok(inner);
            }
            _ => return Err(fail()),
        };
        self.next += 1;
        Ok(expr)
    }

    fn text(&mut self) -> Result<String, SelectorError> {
        match self.tokens.get(self.next) {
            Some((_, Token::Text(text))) => {
                self.next += 1;
                Ok(text.clone())
            }
            _ => Err(self.fail("a text in single quotes is expected")),
        }
    }

    /// Reads what lies one deeper.
    fn nested(&mut self, read: impl Fn(&mut Self) -> Result<Expr, SelectorError>) -> Result<Expr, SelectorError> {
        if self.depth >= MAX_DEPTH {
            return Err(self.fail(TOO_DEEP));
        }
        self.depth += 1;
        let inner = read(self);
        self.depth -= 1;
        inner
    }

    /// An expression that is not too deep.
    fn checked(&self, expr: Expr, at: usize) -> Result<Expr, SelectorError> {
        if expr.depth() > MAX_DEPTH { Err(error(at, TOO_DEEP)) } else { Ok(expr) }
    }

    fn at(&self) -> usize {
        self.tokens.get(self.next).map_or(self.end, |(at, _)| *at)
    }

    fn fail(&self, what: &str) -> SelectorError {
        error(self.at(), what)
    }

    fn is_keyword(&self, keyword: &'static str) -> bool {
        matches!(self.tokens.get(self.next), Some((_, Token::Keyword(word))) if *word == keyword)
    }

    fn take_keyword(&mut self, keyword: &'static str) -> bool {
        let is_it = self.is_keyword(keyword);
        self.next += usize::from(is_it);
        is_it
    }

    fn need_keyword(&mut self, keyword: &'static str) -> Result<(), SelectorError> {
        if self.take_keyword(keyword) { Ok(()) } else { Err(self.fail(&format!("{keyword} is expected"))) }
    }

    fn take_sign<T: Copy>(&mut self, signs: &[(&'static str, T)]) -> Option<T> {
        let Some((_, Token::Sign(sign))) = self.tokens.get(self.next) else { return None };
        let found = signs.iter().find(|(text, _)| text == sign)?;
        self.next += 1;
        Some(found.1)
    }

    fn need_sign(&mut self, sign: &'static str) -> Result<(), SelectorError> {
        let found = self.take_sign(&[(sign, ())]);
        found.ok_or_else(|| self.fail(&format!("`{sign}` is expected")))
    }
}

const TOO_DEEP: &str = "too much is nested here";

fn header(expr: Expr, at: usize) -> Result<String, SelectorError> {
    match expr {
        Expr::Header(name) => Ok(name),
        _ => Err(error(at, "IN, LIKE and IS NULL ask about a header")),
    }
}
