//! A selector as an expression.

use std::fmt;

use super::{lexer::is_plain, like::Pattern};

/// See the module docs. Chains of AND and OR are one expression each, so that they are not deep.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Expr {
    Bool(bool),
    Number(Number),
    Text(String),
    Header(String),
    Or(Vec<Expr>),
    And(Vec<Expr>),
    Not(Box<Expr>),
    Compare(Comparison, Box<Expr>, Box<Expr>),
    Between { negated: bool, what: Box<Expr>, low: Box<Expr>, high: Box<Expr> },
    In { negated: bool, header: String, texts: Vec<String> },
    Like { negated: bool, header: String, pattern: Pattern },
    IsNull { negated: bool, header: String },
    Negative(Box<Expr>),
    Arithmetic(Operation, Box<Expr>, Box<Expr>),
}

/// Whole numbers are kept exactly, as in Java.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    Integer(i64),
    Float(f64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Plus,
    Minus,
    Times,
    Divided,
    Remainder,
}

/// What can be done with an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Condition,
    Bool,
    Number,
    Text,
    /// It depends on the message.
    Header,
}

impl Comparison {
    pub(super) const ALL: [(&'static str, Self); 6] = [
        ("=", Self::Equal),
        ("<>", Self::Unequal),
        ("<", Self::Less),
        ("<=", Self::LessOrEqual),
        (">", Self::Greater),
        (">=", Self::GreaterOrEqual),
    ];

    /// Whether it asks for an order.
    pub(super) fn is_ordering(self) -> bool {
        !matches!(self, Self::Equal | Self::Unequal)
    }
}

impl Operation {
    pub(super) const ALL: [(&'static str, Self); 5] =
        [("+", Self::Plus), ("-", Self::Minus), ("*", Self::Times), ("/", Self::Divided), ("%", Self::Remainder)];
}

impl Expr {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Bool(_) => Kind::Bool,
            Self::Number(_) | Self::Negative(_) | Self::Arithmetic(..) => Kind::Number,
            Self::Text(_) => Kind::Text,
            Self::Header(_) => Kind::Header,
            Self::Or(_)
            | Self::And(_)
            | Self::Not(_)
            | Self::Compare(..)
            | Self::Between { .. }
            | Self::In { .. }
            | Self::Like { .. }
            | Self::IsNull { .. } => Kind::Condition,
        }
    }

    fn parts(&self) -> Vec<&Self> {
        match self {
            Self::Or(all) | Self::And(all) => all.iter().collect(),
            Self::Not(one) | Self::Negative(one) => vec![one],
            Self::Compare(_, one, two) | Self::Arithmetic(_, one, two) => vec![one, two],
            Self::Between { what, low, high, .. } => vec![what, low, high],
            Self::Bool(_)
            | Self::Number(_)
            | Self::Text(_)
            | Self::Header(_)
            | Self::In { .. }
            | Self::Like { .. }
            | Self::IsNull { .. } => Vec::new(),
        }
    }

    /// How many expressions are within each other.
    pub(super) fn depth(&self) -> usize {
        1 + self.parts().into_iter().map(Self::depth).max().unwrap_or(0)
    }

    /// About how much work a byte of headers is: how often they are looked through, and what patterns may need.
    pub(super) fn weight(&self) -> usize {
        let own = match self {
            Self::Like { pattern, .. } => 1 + pattern.weight(),
            Self::Header(_) | Self::In { .. } | Self::IsNull { .. } => 1,
            _ => 0,
        };
        own + self.parts().into_iter().map(Self::weight).sum::<usize>()
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = |negated: &bool| if *negated { "NOT " } else { "" };
        match self {
            Self::Bool(value) => f.write_str(if *value { "TRUE" } else { "FALSE" }),
            Self::Number(Number::Integer(value)) => write!(f, "{value}"),
            Self::Number(Number::Float(value)) => write!(f, "{value:?}"),
            Self::Text(text) => put_quoted(f, text, '\''),
            Self::Header(name) => put_name(f, name),
            Self::Or(all) => put_chain(f, all, " OR "),
            Self::And(all) => put_chain(f, all, " AND "),
            Self::Not(one) => write!(f, "(NOT {one})"),
            Self::Compare(how, one, two) => write!(f, "({one} {} {two})", written(&Comparison::ALL, how)),
            Self::Between { negated, what, low, high } => {
                write!(f, "({what} {}BETWEEN {low} AND {high})", not(negated))
            }
            Self::In { negated, header, texts } => {
                f.write_str("(")?;
                put_name(f, header)?;
                write!(f, " {}IN (", not(negated))?;
                for (place, text) in texts.iter().enumerate() {
                    f.write_str(if place == 0 { "" } else { ", " })?;
                    put_quoted(f, text, '\'')?;
                }
                f.write_str("))")
            }
            Self::Like { negated, header, pattern } => {
                f.write_str("(")?;
                put_name(f, header)?;
                write!(f, " {}LIKE ", not(negated))?;
                put_quoted(f, pattern.text(), '\'')?;
                if let Some(escape) = pattern.escape() {
                    f.write_str(" ESCAPE ")?;
                    put_quoted(f, escape.encode_utf8(&mut [0; 4]), '\'')?;
                }
                f.write_str(")")
            }
            Self::IsNull { negated, header } => {
                f.write_str("(")?;
                put_name(f, header)?;
                write!(f, " IS {}NULL)", not(negated))
            }
            Self::Negative(one) => write!(f, "(- {one})"),
            Self::Arithmetic(how, one, two) => write!(f, "({one} {} {two})", written(&Operation::ALL, how)),
        }
    }
}

fn put_chain(f: &mut fmt::Formatter<'_>, all: &[Expr], between: &str) -> fmt::Result {
    f.write_str("(")?;
    for (place, one) in all.iter().enumerate() {
        f.write_str(if place == 0 { "" } else { between })?;
        write!(f, "{one}")?;
    }
    f.write_str(")")
}

fn put_quoted(f: &mut fmt::Formatter<'_>, text: &str, quote: char) -> fmt::Result {
    let doubled = [quote, quote].iter().collect::<String>();
    write!(f, "{quote}{}{quote}", text.replace(quote, &doubled))
}

fn put_name(f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
    if is_plain(name) { f.write_str(name) } else { put_quoted(f, name, '"') }
}

fn written<T: PartialEq>(all: &[(&'static str, T)], wanted: &T) -> &'static str {
    all.iter().find(|(_, one)| one == wanted).map_or("", |(text, _)| *text)
}
