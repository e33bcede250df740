//! The thin STOMP layer of Rhizomq.
