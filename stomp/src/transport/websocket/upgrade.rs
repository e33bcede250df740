//! The HTTP request by which a client asks for a WebSocket, and the answer to it. RFC 6455, section 4.2.

use tungstenite::handshake::{
    machine::TryParse,
    server::{Request, create_response, write_response},
};

/// Bytes of a request: browsers send along what cookies they have.
pub const MAX_REQUEST_BYTES: usize = 16 << 10;

/// The subprotocols that are spoken, the best one first.
const SUBPROTOCOLS: [&str; 3] = ["v12.stomp", "v11.stomp", "v10.stomp"];

/// A request that is granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// Bytes of the request; what follows is WebSocket.
    pub len: usize,
    /// To be sent before anything else.
    pub answer: Vec<u8>,
}

/// Why a request is not granted. The client is told so, in HTTP.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpgradeError {
    /// Not HTTP, or HTTP of another kind.
    #[error("this port speaks STOMP over WebSocket, and what came is no request for it: {0}")]
    NotAnUpgrade(String),
    /// More than is taken.
    #[error("the request has more than {MAX_REQUEST_BYTES} bytes")]
    TooLong,
    /// A page from elsewhere.
    #[error("pages of the origin `{0}` may not connect; see --ws-origin")]
    Origin(String),
}

/// Reads a request, whatever its path. `None`: it has not come in whole.
///
/// The best of the subprotocols that the client offers is chosen, if it offers one that is spoken; what version of STOMP is
/// spoken is up to CONNECT. If `origins` are given, a request of a browser must come from a page of one of them.
///
/// # Errors
/// See [`UpgradeError`].
pub fn upgrade(received: &[u8], origins: &[String]) -> Result<Option<Upgrade>, UpgradeError> {
    let other = |error: tungstenite::Error| UpgradeError::NotAnUpgrade(error.to_string());
    let Some((len, request)) = Request::try_parse(received).map_err(other)? else {
        return if received.len() < MAX_REQUEST_BYTES { Ok(None) } else { Err(UpgradeError::TooLong) };
    };
    let mut response = create_response(&request).map_err(other)?;
    let header = |name| request.headers().get_all(name).iter().filter_map(|value| value.to_str().ok());
    if let Some(origin) = header("Origin").next()
        && !origins.is_empty()
        && !origins.iter().any(|known| known.eq_ignore_ascii_case(origin))
    {
        return Err(UpgradeError::Origin(origin.chars().filter(|c| !c.is_control()).take(80).collect()));
    }
    let offered: Vec<&str> = header("Sec-WebSocket-Protocol").flat_map(|list| list.split(',')).map(str::trim).collect();
    if let Some(chosen) = SUBPROTOCOLS.iter().find(|name| offered.contains(name)) {
        let value = tungstenite::http::HeaderValue::from_static(chosen);
        response.headers_mut().insert("Sec-WebSocket-Protocol", value);
    }
    let mut answer = Vec::new();
    write_response(&mut answer, &response).map_err(other)?;
    Ok(Some(Upgrade { len, answer }))
}

/// The answer to a request that is not granted.
pub fn refusal(error: &UpgradeError) -> Vec<u8> {
    let status = match error {
        UpgradeError::NotAnUpgrade(_) => "400 Bad Request",
        UpgradeError::TooLong => "431 Request Header Fields Too Large",
        UpgradeError::Origin(_) => "403 Forbidden",
    };
    let body = format!("{error}\n");
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(path: &str, more: &str) -> String {
        format!(
            "GET {path} HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
        )
    }

    fn granted(request: &str) -> String {
        let upgrade = upgrade(request.as_bytes(), &[]).unwrap().expect("whole");
        assert_eq!(upgrade.len, request.len());
        String::from_utf8(upgrade.answer).unwrap().to_ascii_lowercase()
    }

    #[test]
    fn every_path_is_served_and_the_best_subprotocol_is_chosen() {
        for path in ["/", "/ws", "/stomp", "/a/b?c=d"] {
            let answer = granted(&request(path, ""));
            // The example of RFC 6455, section 1.3.
            assert!(answer.starts_with("http/1.1 101 ") && answer.contains("s3pplmbitxaq9kygzzhzrbk+xoo="), "{answer}");
            assert!(!answer.contains("sec-websocket-protocol") && answer.ends_with("\r\n\r\n"), "{answer}");
        }
        let chosen = |offer: &str| {
            let answer = granted(&request("/", &format!("Sec-WebSocket-Protocol: {offer}\r\n")));
            answer.lines().find_map(|line| line.strip_prefix("sec-websocket-protocol: ").map(str::to_owned))
        };
        assert_eq!(chosen("v10.stomp, v11.stomp"), Some("v11.stomp".to_owned()));
        assert_eq!(chosen("v11.stomp,v12.stomp"), Some("v12.stomp".to_owned()));
        assert_eq!(chosen("v10.stomp\r\nSec-WebSocket-Protocol: x"), Some("v10.stomp".to_owned()));
        assert_eq!(chosen("mqtt"), None);
    }

    #[test]
    fn requests_come_in_pieces_and_bytes_after_them_are_not_theirs() {
        let whole = request("/", "");
        for len in 0..whole.len() {
            assert_eq!(upgrade(&whole.as_bytes()[..len], &[]), Ok(None));
        }
        let with_more = format!("{whole}more");
        assert_eq!(upgrade(with_more.as_bytes(), &[]).unwrap().unwrap().len, whole.len());
    }

    #[test]
    fn what_is_no_upgrade_is_refused_in_http() {
        let refuse = |text: &str| upgrade(text.as_bytes(), &[]).unwrap_err();
        for text in
            ["GET / HTTP/1.1\r\nHost: here\r\n\r\n", "POST / HTTP/1.1\r\n\r\n", "CONNECT\naccept-version:1.2\n\n\0"]
        {
            let error = refuse(text);
            assert!(matches!(error, UpgradeError::NotAnUpgrade(_)), "{error}");
            assert!(refusal(&error).starts_with(b"HTTP/1.1 400 "));
        }
        let endless = format!("GET / HTTP/1.1\r\nCookie: {}", "x".repeat(MAX_REQUEST_BYTES));
        assert_eq!(refuse(&endless), UpgradeError::TooLong);
    }

    #[test]
    fn pages_from_elsewhere_are_refused_where_origins_are_named() {
        let origins = ["https://shop.example".to_owned()];
        let ask = |more: &str| upgrade(request("/", more).as_bytes(), &origins).map(|upgrade| upgrade.is_some());
        assert_eq!(ask("Origin: https://shop.example\r\n"), Ok(true));
        assert_eq!(ask(""), Ok(true), "no browser");
        let error = ask("Origin: https://evil.example\r\n").unwrap_err();
        assert!(refusal(&error).starts_with(b"HTTP/1.1 403 "), "{error}");
    }
}
