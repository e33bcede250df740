//! Every limit that a client connection is held to, in one place.

/// What one connection may ask for. Whoever goes beyond gets an ERROR frame which names the limit, and is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the whole first frame (CONNECT or STOMP): little is read from a client which has not said who it is.
    pub connect_frame: usize,
    /// Header lines in one frame.
    pub headers: usize,
    /// Bytes of one header line, as received, without its line end.
    pub header_line: usize,
    /// Bytes of all header lines of one frame, as received.
    pub header_section: usize,
    /// Bytes of one body.
    pub body: usize,
    /// Transactions open at the same time.
    pub transactions: usize,
    /// Bytes held by all open transactions together; each frame in them counts [`TRANSACTION_ITEM_COST`] more.
    pub transaction_bytes: usize,
    /// Subscriptions open at the same time.
    pub subscriptions: usize,
    /// Unacknowledged deliveries of a subscription which names no `prefetch-count`.
    pub default_prefetch: u32,
    /// The largest `prefetch-count` that is granted; larger ones, and 0 ("no limit"), are cut down to it.
    pub max_prefetch: u32,
    /// A client for which bytes wait and whose socket takes none of them for so many ms is taken for dead. A consumer that
    /// works longer on one message without reading on should ask for a small `prefetch-count`: then nothing waits.
    pub unread_ms: u64,
    /// Bytes that may wait for one socket. Nothing is delivered from far fewer on; what goes beyond is mostly receipts of a
    /// client that never reads them.
    pub unread_bytes: u64,
}

/// Bytes of one body at most: what the engine takes as one unit (24 MiB), less what else belongs to a message.
pub const MAX_BODY: usize = 23 << 20;

/// Bytes of all header lines of one frame at most: stored they may take twice as much.
pub const MAX_HEADER_SECTION: usize = 256 << 10;

/// The longest delay of a message: ten years of 365 days.
pub const MAX_DELAY_MS: u64 = 10 * 365 * 24 * 60 * 60 * 1000;

/// The least time between two repetitions of a message.
pub const MIN_PERIOD_MS: u64 = 100;

/// Bytes that each frame in a transaction costs on top of its header section and body.
pub const TRANSACTION_ITEM_COST: usize = 256;

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect_frame: 16 << 10,
            headers: 64,
            header_line: 8 << 10,
            header_section: 64 << 10,
            body: MAX_BODY,
            transactions: 16,
            transaction_bytes: MAX_BODY + (512 << 10),
            subscriptions: 1024,
            default_prefetch: 128,
            max_prefetch: 65_535,
            unread_ms: 120_000,
            unread_bytes: 64 << 20,
        }
    }
}
