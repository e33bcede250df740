//! Why a session ends with an ERROR frame.

use crate::{
    destination::DestinationError,
    durable::NameTooLong,
    frame::{Command, DecodeError, Version},
    selector::SelectorError,
};

/// What a client did wrong. The text goes into the ERROR frame's `message` header and says what to do instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The bytes are no STOMP.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The destination is none.
    #[error(transparent)]
    Destination(#[from] DestinationError),
    /// The `selector` of a SUBSCRIBE can't be read.
    #[error(transparent)]
    Selector(#[from] SelectorError),
    /// The durable subscription can't be called so.
    #[error(transparent)]
    DurableName(#[from] NameTooLong),
    /// A durable subscription belongs to a client, and CONNECT did not say which.
    #[error("a durable subscription with `{header}` needs a `client-id` header in CONNECT, the same each time")]
    MissingClientId {
        /// The header that asks for one.
        header: &'static str,
    },
    /// Too many at a time.
    #[error("at most {limit} temporary queues may be named in one connection")]
    TooManyTempQueues {
        /// How many are allowed.
        limit: usize,
    },
    /// Nothing, or only part of a frame, came in time.
    #[error("no CONNECT frame within {after_ms} ms")]
    ConnectTimeout {
        /// The time allowed.
        after_ms: u64,
    },
    /// The login was not checked in time.
    #[error("the login was not checked within {after_ms} ms, for too many are; try again later")]
    LoginTimeout {
        /// The time allowed.
        after_ms: u64,
    },
    /// Who is not known yet may not fill the memory.
    #[error("more than {limit} bytes came after CONNECT before it was answered; wait for CONNECTED")]
    TooEarly {
        /// Bytes allowed.
        limit: usize,
    },
    /// Neither data nor a heart-beat came in time.
    #[error("nothing received for {silent_ms} ms, although a heart-beat was promised every {interval_ms} ms")]
    HeartBeatTimeout {
        /// The time without any byte.
        silent_ms: u64,
        /// The negotiated interval.
        interval_ms: u64,
    },
    /// The first frame must start the session.
    #[error("the first frame must be CONNECT or STOMP, not {command}")]
    NotConnected {
        /// What came instead.
        command: Command,
    },
    /// None of the versions the client speaks is spoken here.
    #[error("no common version; supported protocol versions are 1.0 1.1 1.2")]
    NoCommonVersion {
        /// What the client speaks.
        accepted: String,
    },
    /// A frame that has no place here: a second CONNECT, or a frame for clients.
    #[error("a client can't send {command} in a STOMP {version} session")]
    UnexpectedCommand {
        /// The frame's command.
        command: Command,
        /// The session's version.
        version: Version,
    },
    /// A required header is not there.
    #[error("{command} needs a `{header}` header in STOMP {version}")]
    MissingHeader {
        /// The frame's command.
        command: Command,
        /// What is missing.
        header: &'static str,
        /// The session's version.
        version: Version,
    },
    /// A header's value can't be used.
    #[error("the `{header}` header of {command} can't be `{value}`; {expected}")]
    BadHeader {
        /// The frame's command.
        command: Command,
        /// The header.
        header: &'static str,
        /// Its value, cut.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
    /// The id is in use.
    #[error("a subscription `{id}` is open already; each needs an id of its own")]
    DuplicateSubscription {
        /// The client's id.
        id: String,
    },
    /// No such subscription.
    #[error("there is no subscription `{id}`")]
    UnknownSubscription {
        /// The client's id.
        id: String,
    },
    /// Too many at a time.
    #[error("at most {limit} subscriptions may be open in one connection")]
    TooManySubscriptions {
        /// How many are allowed.
        limit: usize,
    },
    /// No such delivery, or it was acknowledged before.
    #[error("no delivery `{id}` waits for an acknowledgement here")]
    UnknownDelivery {
        /// What the client named.
        id: String,
    },
    /// It has taken nothing that it could give back.
    #[error("what a subscription with `browser:true` shows can't be refused with NACK, for it takes nothing")]
    NackWhileBrowsing,
    /// The id is in use.
    #[error("a transaction `{id}` is open already; COMMIT or ABORT it first")]
    DuplicateTransaction {
        /// The client's id.
        id: String,
    },
    /// No such transaction.
    #[error("there is no open transaction `{id}`; BEGIN it first")]
    UnknownTransaction {
        /// The client's id.
        id: String,
    },
    /// Too many at a time.
    #[error("at most {limit} transactions may be open in one connection")]
    TooManyTransactions {
        /// How many are allowed.
        limit: usize,
    },
    /// Too much in all of them.
    #[error("open transactions may hold at most {limit} bytes in one connection; COMMIT more often")]
    TransactionTooLarge {
        /// Bytes allowed.
        limit: usize,
    },
    /// The client left, and what it sent before could not be confirmed in time.
    #[error("{waiting} requests sent before DISCONNECT are not confirmed after {after_ms} ms; they may be later")]
    NotConfirmed {
        /// How many.
        waiting: usize,
        /// The time allowed.
        after_ms: u64,
    },
    /// The client left, and did not read what had been written to its `auto` subscriptions.
    #[error("{messages} messages written before DISCONNECT are not read after {after_ms} ms; they go to others")]
    NotTaken {
        /// How many.
        messages: usize,
        /// The time allowed.
        after_ms: u64,
    },
}
