//! CONNECT: which version and which heart-beats a session has.

use super::{
    SessionConfig, SessionError,
    heart_beat::{HeartBeat, Offer},
};
use crate::frame::{Command, Frame, Headers, Version};

/// What was agreed on.
pub(super) struct Handshake {
    pub(super) version: Version,
    pub(super) heart_beat: HeartBeat,
    /// Of the CONNECTED frame.
    pub(super) headers: Headers,
}

/// Reads a client's first frame. The `host` header, which the specification asks of clients, is not asked for here: there
/// are no virtual hosts, and old clients leave it out.
pub(super) fn negotiate(now_ms: u64, config: &SessionConfig, frame: &Frame) -> Result<Handshake, SessionError> {
    if !matches!(frame.command, Command::Connect | Command::Stomp) {
        return Err(SessionError::NotConnected { command: frame.command });
    }
    let version = match frame.headers.get("accept-version") {
        // 1.0 had no negotiation, and no heart-beats.
        None => Version::V1_0,
        Some(accepted) => Version::best_of(accepted)
            .ok_or_else(|| SessionError::NoCommonVersion { accepted: accepted.chars().take(48).collect() })?,
    };
    let mut headers = Headers::new();
    headers.push("version", version.as_str());
    headers.push("server", &config.server);
    headers.push("session", &config.session);
    let heart_beat = if version == Version::V1_0 {
        HeartBeat::none()
    } else {
        let server = Offer::of_server(config);
        headers.push("heart-beat", &format!("{},{}", server.send_ms, server.want_ms));
        HeartBeat::negotiate(now_ms, server, Offer::of_client(frame.command, &frame.headers)?)
    };
    Ok(Handshake { version, heart_beat, headers })
}
