//! Messages of an observer's clients go to a member: it keeps them in its journal, and the observer passes its answer on.
//!
//! - [`msg`]: what the two say to each other
//! - [`outbox`]: the observer's side: what waits for an answer, and where each connection's messages go
//! - [`intake`]: the member's side: what it took of whom, so that a unit that is sent again is not kept twice
//!
//! A connection's messages all go to one member, as long as that is in reach in the life in which it took the first: so
//! they lie in one journal, in the order sent. When a link breaks, the observer waits a moment for it to come back, and
//! sends again what has no answer; the member knows what it has. If it does not come back, or in another life, whoever waits
//! for an answer is told that there is none, as if he had been connected to that member himself; and so is a client of it
//! that sends more, for its earlier messages may be delivered later than those that another member would take. Sending to
//! another member what has no answer would be possible, but it may have been kept, and the second copy would have another
//! `message-id`: only the client can know whether that does harm.
//!
//! A transaction is one unit, its acknowledgements included. Where a message is to wait is said by the observer: it knows
//! the registry as the member does, and topics have listeners at each node of their own.

pub(crate) mod intake;
pub(crate) mod msg;
pub(crate) mod outbox;

pub(crate) use intake::{Intake, Taken};
pub(crate) use msg::{ForwardMsg, Outcome};
pub(crate) use outbox::{Outbox, Place};
