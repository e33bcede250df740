//! What clients are held to: the settings for it, their defaults and bounds.

use std::time::Duration;

use clap::Args;
use rhizomq_stomp::{
    DuplicateWindow,
    limits::{Limits, MAX_BODY, MAX_HEADER_SECTION},
    rim::ListenerConfig,
    session::SessionConfig,
};

use crate::{config::ConfigError, memory::parse_bytes};

/// Files that the node may open besides its clients' sockets: the log, the index, links, the admin interface.
pub(crate) const OWN_FILES: u64 = 160;

/// Options of `serve` about what clients may ask for.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct LimitArgs {
    /// Connections of clients at a time [default: 10000, or what the limit on open files leaves]
    #[arg(long, value_name = "N", env = "RHIZOMQ_MAX_CONNECTIONS")]
    pub(crate) max_connections: Option<u64>,
    /// Of these from one address (of IPv6: from one network of 64 bits) [default: half of --max-connections]
    #[arg(long, value_name = "N", env = "RHIZOMQ_MAX_CONNECTIONS_PER_ADDRESS")]
    pub(crate) max_connections_per_address: Option<u64>,
    /// Bytes of a message's body, with a unit or without; at most 23 MiB [default: 23MiB]
    #[arg(long, value_name = "BYTES", env = "RHIZOMQ_MAX_BODY")]
    pub(crate) max_body: Option<String>,
    /// Headers of a frame [default: 64]
    #[arg(long, value_name = "N", env = "RHIZOMQ_MAX_HEADERS")]
    pub(crate) max_headers: Option<u64>,
    /// Bytes of one header line [default: 8KiB]
    #[arg(long, value_name = "BYTES", env = "RHIZOMQ_MAX_HEADER")]
    pub(crate) max_header: Option<String>,
    /// Bytes of all header lines of a frame; at most 256 KiB [default: 64KiB]
    #[arg(long, value_name = "BYTES", env = "RHIZOMQ_MAX_HEAD")]
    pub(crate) max_head: Option<String>,
    /// Subscriptions of one connection [default: 1024]
    #[arg(long, value_name = "N", env = "RHIZOMQ_MAX_SUBSCRIPTIONS")]
    pub(crate) max_subscriptions: Option<u64>,
    /// Open transactions of one connection [default: 16]
    #[arg(long, value_name = "N", env = "RHIZOMQ_MAX_TRANSACTIONS")]
    pub(crate) max_transactions: Option<u64>,
    /// Seconds for a new connection to get ready (PROXY header, TLS, WebSocket), and again for its CONNECT [default: 10]
    #[arg(long, value_name = "SECONDS", env = "RHIZOMQ_CONNECT_TIMEOUT")]
    pub(crate) connect_timeout: Option<u64>,
    /// Seconds after which a client is cut off for which bytes wait and that takes none [default: 120]
    #[arg(long, value_name = "SECONDS", env = "RHIZOMQ_READ_TIMEOUT")]
    pub(crate) read_timeout: Option<u64>,
    /// Seconds for which ids of publishers (`_AMQ_DUPL_ID`, `x-deduplication-header`) are remembered; 0: not at all [default: 300]
    #[arg(long, value_name = "SECONDS", env = "RHIZOMQ_DUPLICATE_WINDOW")]
    pub(crate) duplicate_window: Option<u64>,
    /// Ids of publishers that this node remembers of what it has taken; of more it forgets the oldest [default: 100000]
    #[arg(long, value_name = "N", env = "RHIZOMQ_DUPLICATE_IDS")]
    pub(crate) duplicate_ids: Option<u64>,
}

/// The settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientLimits {
    /// As wished for; the system may not let the process open so many files.
    max_connections: u64,
    max_per_address: Option<u64>,
    limits: Limits,
    connect_timeout: Duration,
    duplicates: DuplicateWindow,
}

impl LimitArgs {
    /// What is not said here is taken from `file`.
    pub(crate) fn or(self, file: Self) -> Self {
        Self {
            max_connections: self.max_connections.or(file.max_connections),
            max_connections_per_address: self.max_connections_per_address.or(file.max_connections_per_address),
            max_body: self.max_body.or(file.max_body),
            max_headers: self.max_headers.or(file.max_headers),
            max_header: self.max_header.or(file.max_header),
            max_head: self.max_head.or(file.max_head),
            max_subscriptions: self.max_subscriptions.or(file.max_subscriptions),
            max_transactions: self.max_transactions.or(file.max_transactions),
            connect_timeout: self.connect_timeout.or(file.connect_timeout),
            read_timeout: self.read_timeout.or(file.read_timeout),
            duplicate_window: self.duplicate_window.or(file.duplicate_window),
            duplicate_ids: self.duplicate_ids.or(file.duplicate_ids),
        }
    }

    /// The settings, if they make sense.
    pub(crate) fn checked(self) -> Result<ClientLimits, ConfigError> {
        let (default, duplicates) = (Limits::default(), DuplicateWindow::default());
        let seconds = |option, value, default| number(option, value, default, 1..=86_400);
        let count = |option, value, default: usize, max| {
            let number = number(option, value, default as u64, 1..=max)?;
            Ok::<_, ConfigError>(usize::try_from(number).unwrap_or(usize::MAX))
        };
        let header_section = bytes("--max-head", self.max_head, default.header_section, MAX_HEADER_SECTION)?;
        Ok(ClientLimits {
            max_connections: number("--max-connections", self.max_connections, 10_000, 1..=1_000_000)?,
            max_per_address: match self.max_connections_per_address {
                None => None,
                given => Some(number("--max-connections-per-address", given, 0, 1..=1_000_000)?),
            },
            limits: Limits {
                body: bytes("--max-body", self.max_body, default.body, MAX_BODY)?,
                headers: count("--max-headers", self.max_headers, default.headers, 4096)?,
                header_line: bytes(
                    "--max-header",
                    self.max_header,
                    default.header_line.min(header_section),
                    header_section,
                )?,
                header_section,
                subscriptions: count("--max-subscriptions", self.max_subscriptions, default.subscriptions, 1_000_000)?,
                transactions: count("--max-transactions", self.max_transactions, default.transactions, 1_000_000)?,
                unread_ms: seconds("--read-timeout", self.read_timeout, default.unread_ms / 1000)? * 1000,
                ..default
            },
            connect_timeout: Duration::from_secs(seconds("--connect-timeout", self.connect_timeout, 10)?),
            duplicates: DuplicateWindow {
                ms: number("--duplicate-window", self.duplicate_window, duplicates.ms / 1000, 0..=86_400)? * 1000,
                ids: count("--duplicate-ids", self.duplicate_ids, duplicates.ids, 1_000_000)?,
            },
        })
    }
}

impl ClientLimits {
    /// How many clients there may be at a time: they must not take the descriptors that the store needs. `Err`: so few
    /// files may be open that none is left.
    pub(crate) fn possible_connections(&self) -> Result<usize, u64> {
        let wanted = self.max_connections;
        let limit = rlimit::increase_nofile_limit(wanted + OWN_FILES).unwrap_or(1024);
        let clients = limit.saturating_sub(OWN_FILES).min(wanted);
        if clients == 0 {
            return Err(limit);
        }
        if clients < wanted {
            tracing::warn!(clients, limit, "fewer clients than {wanted} are taken: the limit on open files is low");
        }
        Ok(usize::try_from(clients).unwrap_or(usize::MAX))
    }

    /// How long, and how many, ids of publishers are remembered.
    pub(crate) fn duplicates(&self) -> DuplicateWindow {
        self.duplicates
    }

    /// For the listeners, where so many connections can be had.
    pub(crate) fn listeners(&self, max_connections: usize, origins: Vec<String>) -> ListenerConfig {
        let half = max_connections.div_ceil(2);
        ListenerConfig {
            max_connections,
            max_per_address: self.max_per_address.map_or(half, |limit| usize::try_from(limit).unwrap_or(usize::MAX)),
            entry_timeout: self.connect_timeout,
            // The largest frame, and some more: several may come in one message.
            max_message: (self.limits.body + self.limits.header_section + (1 << 20)) as u64,
            origins,
        }
    }

    /// For each session.
    pub(crate) fn session(&self) -> SessionConfig {
        SessionConfig {
            limits: self.limits,
            connect_timeout_ms: u64::try_from(self.connect_timeout.as_millis()).unwrap_or(u64::MAX),
            ..SessionConfig::default()
        }
    }
}

fn number(
    option: &'static str,
    value: Option<u64>,
    default: u64,
    range: std::ops::RangeInclusive<u64>,
) -> Result<u64, ConfigError> {
    let value = value.unwrap_or(default);
    let (min, max) = (*range.start(), *range.end());
    if range.contains(&value) {
        Ok(value)
    } else {
        Err(ConfigError::Limit { option, value: value.to_string(), min, max })
    }
}

fn bytes(option: &'static str, value: Option<String>, default: usize, max: usize) -> Result<usize, ConfigError> {
    const MIN: u64 = 256;
    let Some(value) = value else { return Ok(default) };
    let max = max as u64;
    let number = parse_bytes(&value).filter(|number| (MIN..=max).contains(number));
    let number = number.ok_or(ConfigError::Limit { option, value, min: MIN, max })?;
    Ok(usize::try_from(number).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_the_session() {
        let limits = LimitArgs::default().checked().unwrap();
        assert_eq!(limits.session(), SessionConfig::default());
        assert_eq!(limits.duplicates(), DuplicateWindow::default());
        let listeners = limits.listeners(10_000, Vec::new());
        assert_eq!((listeners.max_connections, listeners.max_per_address), (10_000, 5_000));
        assert!(listeners.max_message > (limits.limits.body + limits.limits.header_section) as u64);
    }

    #[test]
    fn each_limit_can_be_set_and_has_bounds() {
        let text = |text: &str| Some(text.to_owned());
        let args = LimitArgs {
            max_connections: Some(10),
            max_connections_per_address: Some(3),
            max_body: text("1MiB"),
            max_headers: Some(5),
            max_header: text("300"),
            max_head: text("1K"),
            max_subscriptions: Some(6),
            max_transactions: Some(7),
            connect_timeout: Some(8),
            read_timeout: Some(9),
            duplicate_window: Some(0),
            duplicate_ids: Some(11),
        };
        let limits = args.clone().checked().unwrap();
        let Limits { body, headers, header_line, header_section, subscriptions, transactions, unread_ms, .. } =
            limits.limits;
        assert_eq!((body, headers, header_line, header_section), (1 << 20, 5, 300, 1024));
        assert_eq!((subscriptions, transactions, unread_ms), (6, 7, 9_000));
        assert_eq!((limits.max_connections, limits.session().connect_timeout_ms), (10, 8_000));
        assert_eq!(limits.duplicates(), DuplicateWindow { ms: 0, ids: 11 });
        let listeners = limits.listeners(10, Vec::new());
        assert_eq!((listeners.max_per_address, listeners.entry_timeout), (3, Duration::from_secs(8)));

        let refused = |args: LimitArgs, option: &str| {
            let error = args.checked().unwrap_err().to_string();
            assert!(error.starts_with(option), "{error}");
        };
        refused(LimitArgs { max_connections: Some(0), ..args.clone() }, "--max-connections is 0");
        refused(LimitArgs { max_connections_per_address: Some(0), ..args.clone() }, "--max-connections-per-address");
        refused(LimitArgs { max_body: text("24M"), ..args.clone() }, "--max-body is 24M");
        refused(LimitArgs { max_body: text("much"), ..args.clone() }, "--max-body is much");
        refused(LimitArgs { max_headers: Some(0), ..args.clone() }, "--max-headers");
        refused(LimitArgs { max_header: text("2K"), ..args.clone() }, "--max-header is 2K");
        refused(LimitArgs { max_head: text("1M"), ..args.clone() }, "--max-head");
        refused(LimitArgs { max_subscriptions: Some(0), ..args.clone() }, "--max-subscriptions");
        refused(LimitArgs { max_transactions: Some(0), ..args.clone() }, "--max-transactions");
        refused(LimitArgs { connect_timeout: Some(0), ..args.clone() }, "--connect-timeout");
        refused(LimitArgs { read_timeout: Some(100_000), ..args.clone() }, "--read-timeout");
        refused(LimitArgs { duplicate_window: Some(100_000), ..args.clone() }, "--duplicate-window");
        refused(LimitArgs { duplicate_ids: Some(0), ..args.clone() }, "--duplicate-ids");
        let only_head = LimitArgs { max_head: text("1K"), ..LimitArgs::default() };
        assert_eq!(only_head.checked().unwrap().limits.header_line, 1024, "no line is longer than all together");
        assert_eq!(args.clone().or(LimitArgs { read_timeout: Some(1), ..LimitArgs::default() }).read_timeout, Some(9));
    }
}
