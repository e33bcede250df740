//! How many members there are to be: a number, the median of what nodes propose, or rules for the number of nodes within
//! reach.

use std::{fmt, str::FromStr};

/// Characters of a policy as text.
pub const MAX_SIZE_CHARS: usize = 1024;

/// Rules of one preset.
const MAX_RULES: usize = 32;

/// The policy for the number of members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Size {
    /// So many, 1 at least. If there are fewer nodes all are members until more come.
    Fixed(u32),
    /// The median of what the nodes within reach propose.
    Negotiate,
    /// As rules say for the number of nodes within reach.
    Preset(Preset),
}

/// Rules that cover every number of nodes from 1 on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preset(Vec<Rule>);

/// For so many nodes, `from` to `to` (to any number if there is no `to`), so many members (all if there is no number).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    from: u32,
    to: Option<u32>,
    members: Option<u32>,
}

/// Why a text is not a policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Neither a number nor one of the words.
    #[error("`{0}` is no size; write a number such as 5, `negotiate`, or `preset` with rules such as `1-3:all, 4+:3`")]
    Unknown(String),
    /// Zero members.
    #[error("a cluster has 1 member at least; write 1 or more")]
    Zero,
    /// Longer than any sensible one.
    #[error("at most {MAX_SIZE_CHARS} characters and {MAX_RULES} rules are possible; put ranges together")]
    TooLong,
    /// No rules.
    #[error("there are no rules; write some, such as `1-3:all, 4-9:3, 10+:5`")]
    Empty,
    /// Not a rule.
    #[error("`{0}` is no rule; write nodes:members, such as `1-3:all`, `4:2` or `10+:5`")]
    Rule(String),
    /// A number of nodes has no rule, or two.
    #[error("`{rule}` begins at {found} nodes, and the rules before it end so that it must begin at {expected}")]
    Gap {
        /// The rule.
        rule: String,
        /// Where it has to begin.
        expected: u32,
        /// Where it does.
        found: u32,
    },
    /// A rule after one that covers everything.
    #[error("`{0}` follows a rule for any number of nodes; put that one last")]
    AfterLast(String),
    /// The last rule ends.
    #[error("no rule covers more than {0} nodes; let the last one end in a plus sign, such as `10+:5`")]
    NoLast(u32),
}

impl Default for Size {
    /// All are members.
    fn default() -> Self {
        Self::Preset(Preset(vec![Rule { from: 1, to: None, members: None }]))
    }
}

impl Size {
    /// Whether a cluster can be of this size; what was read from a text always is.
    ///
    /// # Errors
    /// [`SizeError::Zero`].
    pub fn check(&self) -> Result<(), SizeError> {
        if *self == Self::Fixed(0) { Err(SizeError::Zero) } else { Ok(()) }
    }

    /// How many members there are to be among nodes that propose these numbers, one each. At least 1.
    pub(crate) fn wanted(&self, proposals: &mut [u32]) -> u32 {
        let nodes = u32::try_from(proposals.len()).unwrap_or(u32::MAX);
        let wanted = match self {
            Self::Fixed(size) => *size,
            Self::Negotiate => {
                proposals.sort_unstable();
                // Of two in the middle the smaller: more than half never wanted more.
                proposals.get(proposals.len().saturating_sub(1) / 2).copied().unwrap_or(1)
            }
            Self::Preset(preset) => preset.wanted(nodes),
        };
        wanted.max(1)
    }
}

impl Preset {
    fn wanted(&self, nodes: u32) -> u32 {
        let rule = self.0.iter().find(|rule| rule.to.is_none_or(|to| nodes <= to));
        rule.and_then(|rule| rule.members).unwrap_or(nodes)
    }
}

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        if text.len() > MAX_SIZE_CHARS {
            return Err(SizeError::TooLong);
        }
        let text = text.trim();
        match text.split_once(char::is_whitespace) {
            Some(("preset", rules)) => rules.parse().map(Self::Preset),
            _ if text == "preset" => Err(SizeError::Empty),
            _ if text == "negotiate" => Ok(Self::Negotiate),
            _ => match number(text) {
                Some(0) => Err(SizeError::Zero),
                Some(size) => Ok(Self::Fixed(size)),
                None => Err(SizeError::Unknown(text.to_owned())),
            },
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(size) => write!(f, "{size}"),
            Self::Negotiate => f.write_str("negotiate"),
            Self::Preset(preset) => write!(f, "preset {preset}"),
        }
    }
}

impl FromStr for Preset {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        if text.len() > MAX_SIZE_CHARS {
            return Err(SizeError::TooLong);
        }
        if text.trim().is_empty() {
            return Err(SizeError::Empty);
        }
        let mut rules: Vec<Rule> = Vec::new();
        for part in text.split(',') {
            let rule = parse_rule(part.trim())?;
            let expected = match rules.last().map(|last| last.to) {
                None => 1,
                Some(Some(to)) => to.saturating_add(1),
                Some(None) => return Err(SizeError::AfterLast(part.trim().to_owned())),
            };
            if rule.from != expected {
                return Err(SizeError::Gap { rule: part.trim().to_owned(), expected, found: rule.from });
            }
            if rules.len() == MAX_RULES {
                return Err(SizeError::TooLong);
            }
            rules.push(rule);
        }
        match rules.last().and_then(|last| last.to) {
            Some(to) => Err(SizeError::NoLast(to)),
            None => Ok(Self(rules)),
        }
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, Rule { from, to, members }) in self.0.iter().enumerate() {
            f.write_str(if place == 0 { "" } else { ", " })?;
            match to {
                None => write!(f, "{from}+:")?,
                Some(to) if to == from => write!(f, "{from}:")?,
                Some(to) => write!(f, "{from}-{to}:")?,
            }
            match members {
                None => f.write_str("all")?,
                Some(members) => write!(f, "{members}")?,
            }
        }
        Ok(())
    }
}

/// Digits and nothing else: no sign.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn parse_rule(text: &str) -> Result<Rule, SizeError> {
    let read = || {
        let (nodes, members) = text.split_once(':')?;
        let (nodes, members) = (nodes.trim(), members.trim());
        let (from, to) = match (nodes.strip_suffix('+'), nodes.split_once('-')) {
            (Some(from), _) => (number(from.trim())?, None),
            (None, Some((from, to))) => (number(from.trim())?, Some(number(to.trim())?)),
            (None, None) => (number(nodes)?, Some(number(nodes)?)),
        };
        let members = if members == "all" { None } else { Some(number(members)?) };
        to.is_none_or(|to| from <= to).then_some(Rule { from, to, members })
    };
    match read() {
        Some(Rule { members: Some(0), .. }) => Err(SizeError::Zero),
        Some(rule) => Ok(rule),
        None => Err(SizeError::Rule(text.to_owned())),
    }
}
