//! STOMP frames: the types, the incremental [`Decoder`] and the encoder, for versions 1.0, 1.1 and 1.2.
//!
//! Pure: bytes in, frames out, and the reverse. Header texts are held unescaped; only the wire and the stored header
//! section ([`encode_stored_head`]) are escaped.

mod decode;
mod encode;
mod error;
mod escape;
mod head;
mod types;

pub use decode::Decoder;
pub use encode::{HeadWriter, encode};
pub use error::DecodeError;
pub use head::{HOP_HEADERS, decode_stored_head, encode_stored_head};
pub(crate) use head::{
    append_stored_head, decode_routed_head, edit_stored_head, encode_routed_head, find_stored, prefix_head,
    stored_header, take_prefix,
};
pub use types::{Command, Frame, Headers, Version};
