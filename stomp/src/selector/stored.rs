//! The headers of a message that is kept, for selectors.

use std::borrow::Cow;

use super::Fields;
use crate::frame::find_stored;

/// A stored header section, and the name of the message.
pub(crate) struct StoredFields<'a> {
    pub(crate) head: &'a [u8],
    pub(crate) id: &'a str,
}

impl Fields for StoredFields<'_> {
    fn field(&self, name: &str) -> Option<Cow<'_, str>> {
        if name == "message-id" { Some(Cow::Borrowed(self.id)) } else { find_stored(self.head, name) }
    }
}
