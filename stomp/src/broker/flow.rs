//! Who is not read from for a while: clients that send faster than disks and backups keep up, and those whose login is
//! being checked. TCP does the rest.

use rhizomq_engine::Now;

use super::{Broker, ConnId, Output};

/// Requests of one client that may wait for their answers.
const MAX_PENDING: usize = 8192;

impl Broker {
    /// Stops or resumes reading from a client. Between the limit and its half nothing changes.
    pub(super) fn regulate(&mut self, now: Now, conn: ConnId) {
        let Some(client) = self.clients.get_mut(&conn) else { return };
        let (bytes, pending) = (client.unconfirmed, client.session.pending());
        let waits = client.admission.is_asked() && !client.session.should_close();
        let (one, all) = (self.config.client_unconfirmed_bytes, self.config.all_unconfirmed_bytes);
        if self.paused.contains(&conn) {
            let is_relieved = !waits && bytes < one.div_ceil(2) && pending < MAX_PENDING / 2;
            if is_relieved && (self.unconfirmed < all.div_ceil(2) || bytes == 0) {
                client.session.handle_paused(now, false);
                self.paused.remove(&conn);
                self.outputs.push_back(Output::ClientResume { conn });
            }
        } else if waits || bytes > one || pending > MAX_PENDING || (self.unconfirmed > all && bytes > 0) {
            client.session.handle_paused(now, true);
            self.paused.insert(conn);
            self.outputs.push_back(Output::ClientPause { conn });
        }
    }

    /// Once all clients together are below half of their limit, those paused because of it are looked at again.
    pub(super) fn resume_all_if_possible(&mut self) {
        if self.unconfirmed < self.config.all_unconfirmed_bytes / 2 {
            self.touched.extend(&self.paused);
        }
    }
}
