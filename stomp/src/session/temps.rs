//! Temporary queues of one connection: what it calls `/temp-queue/NAME`, and their real names, which all nodes know.
//!
//! They come into being when they are first named, as where replies go to, in SUBSCRIBE or in SEND, and vanish with the
//! connection. A SEND whose `reply-to` names one that nobody reads subscribes to it (as RabbitMQ does): what arrives has the
//! header `subscription:/temp-queue/NAME`. An explicit SUBSCRIBE (as ActiveMQ Classic wants it) takes the place of that.

use std::{collections::BTreeMap, sync::Arc};

use super::{SessionError, SubKey};
use crate::destination::{DestinationError, MAX_DESTINATION_LEN, REPLY_QUEUE, TEMP_QUEUE};

/// See the module docs.
pub(super) struct Temps {
    /// What the real names of this connection begin with.
    prefix: String,
    limit: usize,
    by_name: BTreeMap<String, Temp>,
}

/// One queue.
struct Temp {
    inbox: Arc<str>,
    /// The subscription that nobody asked for.
    implicit: Option<SubKey>,
}

impl Temps {
    pub(super) fn new(prefix: String, limit: usize) -> Self {
        Self { prefix, limit, by_name: BTreeMap::new() }
    }

    /// The name in a destination, if it is that of a temporary queue.
    pub(super) fn name_in(text: &str) -> Option<&str> {
        text.strip_prefix(TEMP_QUEUE)
    }

    /// The real name.
    pub(super) fn inbox(&mut self, name: &str) -> Result<Arc<str>, SessionError> {
        if let Some(temp) = self.by_name.get(name) {
            return Ok(Arc::clone(&temp.inbox));
        }
        if name.is_empty() {
            return Err(DestinationError::Empty { text: TEMP_QUEUE.to_owned() }.into());
        }
        let len = TEMP_QUEUE.len() + name.len();
        if len > MAX_DESTINATION_LEN {
            return Err(DestinationError::TooLong { len }.into());
        }
        if self.by_name.len() >= self.limit {
            return Err(SessionError::TooManyTempQueues { limit: self.limit });
        }
        let inbox: Arc<str> = format!("{REPLY_QUEUE}{}.{}", self.prefix, self.by_name.len()).into();
        self.by_name.insert(name.to_owned(), Temp { inbox: Arc::clone(&inbox), implicit: None });
        Ok(inbox)
    }

    pub(super) fn set_implicit(&mut self, name: &str, key: SubKey) {
        if let Some(temp) = self.by_name.get_mut(name) {
            temp.implicit = Some(key);
        }
    }

    /// The subscription that came by itself; it may be closed by now.
    pub(super) fn implicit(&self, name: &str) -> Option<SubKey> {
        self.by_name.get(name)?.implicit
    }
}
