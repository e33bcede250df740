//! What a selector says about a message: true, false, or (`None`) unknown.

use std::{borrow::Cow, cmp::Ordering};

use super::{
    Fields,
    expr::{Comparison, Expr, Number, Operation},
};

/// What an expression comes to.
enum Value<'a> {
    Null,
    Bool(bool),
    Number(Number),
    Text(Cow<'a, str>),
    /// A text that may stand for a number or a truth value, too.
    Header(Cow<'a, str>),
}

/// Whether a condition holds.
pub(super) fn condition(expr: &Expr, fields: &impl Fields) -> Option<bool> {
    match expr {
        Expr::Not(one) => condition(one, fields).map(|holds| !holds),
        // One that settles it is enough; else one that is unknown leaves it open.
        Expr::And(all) => settled_by(false, all, fields),
        Expr::Or(all) => settled_by(true, all, fields),
        Expr::Compare(how, one, two) => compare(*how, &value(one, fields), &value(two, fields)),
        Expr::Between { negated, what, low, high } => {
            let what = value(what, fields);
            let low = compare(Comparison::GreaterOrEqual, &what, &value(low, fields));
            let high = compare(Comparison::LessOrEqual, &what, &value(high, fields));
            let within = match (low, high) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            };
            within.map(|within| within != *negated)
        }
        Expr::In { negated, header, texts } => {
            let text = text_of(field(header, fields))?;
            Some(texts.iter().any(|one| *one == text) != *negated)
        }
        Expr::Like { negated, header, pattern } => {
            let text = text_of(field(header, fields))?;
            Some(pattern.matches(&text) != *negated)
        }
        Expr::IsNull { negated, header } => Some(matches!(field(header, fields), Value::Null) != *negated),
        Expr::Bool(value) => Some(*value),
        Expr::Header(name) => match field(name, fields) {
            Value::Bool(value) => Some(value),
            Value::Header(text) => truth(&text),
            Value::Null | Value::Number(_) | Value::Text(_) => None,
        },
        // The parser lets none of these stand for a condition.
        Expr::Number(_) | Expr::Text(_) | Expr::Negative(_) | Expr::Arithmetic(..) => None,
    }
}

fn settled_by(settling: bool, all: &[Expr], fields: &impl Fields) -> Option<bool> {
    let mut answer = Some(!settling);
    for one in all {
        match condition(one, fields) {
            Some(holds) if holds == settling => return Some(settling),
            Some(_) => {}
            None => answer = None,
        }
    }
    answer
}

fn value<'a>(expr: &'a Expr, fields: &'a impl Fields) -> Value<'a> {
    match expr {
        Expr::Bool(value) => Value::Bool(*value),
        Expr::Number(number) => Value::Number(*number),
        Expr::Text(text) => Value::Text(Cow::Borrowed(text)),
        Expr::Header(name) => field(name, fields),
        Expr::Negative(one) => {
            let zero = Number::Integer(0);
            number(&value(one, fields)).map_or(Value::Null, |one| calculate(Operation::Minus, zero, one))
        }
        Expr::Arithmetic(how, one, two) => match (number(&value(one, fields)), number(&value(two, fields))) {
            (Some(one), Some(two)) => calculate(*how, one, two),
            _ => Value::Null,
        },
        condition_of => condition(condition_of, fields).map_or(Value::Null, Value::Bool),
    }
}

/// A header, or one of the fields of a message in JMS.
fn field<'a>(name: &'a str, fields: &'a impl Fields) -> Value<'a> {
    let header = |name| fields.field(name).map_or(Value::Null, Value::Header);
    match name {
        "JMSPriority" => {
            let priority = fields.field("priority").and_then(|text| text.trim().parse().ok());
            Value::Number(Number::Integer(priority.unwrap_or(4)))
        }
        "JMSMessageID" => header("message-id"),
        "JMSTimestamp" => header("timestamp"),
        "JMSCorrelationID" => header("correlation-id"),
        "JMSType" => header("type"),
        "JMSDeliveryMode" => {
            let transient = fields.field("persistent").is_some_and(|text| text.trim().eq_ignore_ascii_case("false"));
            Value::Text(Cow::Borrowed(if transient { "NON_PERSISTENT" } else { "PERSISTENT" }))
        }
        name => header(name),
    }
}

fn text_of(value: Value<'_>) -> Option<Cow<'_, str>> {
    match value {
        Value::Null => None,
        Value::Text(text) | Value::Header(text) => Some(text),
        Value::Bool(value) => Some(Cow::Borrowed(if value { "true" } else { "false" })),
        Value::Number(Number::Integer(value)) => Some(Cow::Owned(value.to_string())),
        Value::Number(Number::Float(value)) => Some(Cow::Owned(value.to_string())),
    }
}

fn truth(text: &str) -> Option<bool> {
    let text = text.trim();
    let is = |word| text.eq_ignore_ascii_case(word);
    if is("true") { Some(true) } else { is("false").then_some(false) }
}

fn number(value: &Value<'_>) -> Option<Number> {
    match value {
        Value::Number(number) => Some(*number),
        Value::Header(text) => read_number(text.trim()),
        Value::Null | Value::Bool(_) | Value::Text(_) => None,
    }
}

/// A header as a number: decimal, as people write them.
fn read_number(text: &str) -> Option<Number> {
    if let Ok(value) = text.parse() {
        return Some(Number::Integer(value));
    }
    // Rust reads some words as numbers.
    let is_written_out = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
    let value: f64 = text.parse().ok().filter(|_| is_written_out)?;
    value.is_finite().then_some(Number::Float(value))
}

/// Unknown where one is NULL; false where they are of different types.
fn compare(how: Comparison, one: &Value<'_>, two: &Value<'_>) -> Option<bool> {
    let ordering = match (one, two) {
        (Value::Null, _) | (_, Value::Null) => return None,
        (Value::Bool(one), other) | (other, Value::Bool(one)) => {
            let other = match other {
                Value::Bool(other) => Some(*other),
                Value::Header(text) => truth(text),
                _ => None,
            };
            other.map(|other| one.cmp(&other))
        }
        (Value::Number(_), _) | (_, Value::Number(_)) => compare_numbers(number(one), number(two)),
        (Value::Header(_), Value::Header(_)) if how.is_ordering() => compare_numbers(number(one), number(two)),
        (Value::Text(one) | Value::Header(one), Value::Text(two) | Value::Header(two)) => Some(one.cmp(two)),
    };
    let Some(ordering) = ordering else { return Some(false) };
    Some(match how {
        Comparison::Equal => ordering.is_eq(),
        Comparison::Unequal => ordering.is_ne(),
        Comparison::Less => ordering.is_lt(),
        Comparison::LessOrEqual => ordering.is_le(),
        Comparison::Greater => ordering.is_gt(),
        Comparison::GreaterOrEqual => ordering.is_ge(),
    })
}

fn compare_numbers(one: Option<Number>, two: Option<Number>) -> Option<Ordering> {
    match (one?, two?) {
        (Number::Integer(one), Number::Integer(two)) => Some(one.cmp(&two)),
        (one, two) => float(one).partial_cmp(&float(two)),
    }
}

fn float(number: Number) -> f64 {
    match number {
        Number::Integer(value) => value as f64,
        Number::Float(value) => value,
    }
}

/// Whole numbers give whole numbers, as in Java; where they have no room for it, floats. What is divided by zero is NULL.
fn calculate<'a>(how: Operation, one: Number, two: Number) -> Value<'a> {
    if let (Number::Integer(one), Number::Integer(two)) = (one, two) {
        let whole = match how {
            Operation::Plus => one.checked_add(two),
            Operation::Minus => one.checked_sub(two),
            Operation::Times => one.checked_mul(two),
            Operation::Divided | Operation::Remainder if two == 0 => return Value::Null,
            Operation::Divided => one.checked_div(two),
            Operation::Remainder => one.checked_rem(two),
        };
        if let Some(whole) = whole {
            return Value::Number(Number::Integer(whole));
        }
    }
    let (one, two) = (float(one), float(two));
    let value = match how {
        Operation::Plus => one + two,
        Operation::Minus => one - two,
        Operation::Times => one * two,
        Operation::Divided => one / two,
        Operation::Remainder => one % two,
    };
    if value.is_finite() { Value::Number(Number::Float(value)) } else { Value::Null }
}
