//! The header by which a proxy tells whose connection it passes on: PROXY protocol, version 2.
//!
//! The header is binary: a signature, version and command, address family, the length of what follows, addresses, and
//! fields that are not needed here. Version 1, a line of text, is refused by name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// How every header begins.
pub const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Bytes of the part with a fixed length: signature, version and command, family, length.
pub const FIXED_BYTES: usize = 16;

/// Bytes that may follow the fixed part: addresses, and more fields than any proxy in use sends.
pub const MAX_REST_BYTES: usize = 4096;

/// The first word of version 1.
const VERSION_1: &[u8] = b"PROXY ";

/// What is wrong with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// The old form.
    #[error("the proxy speaks version 1 of the PROXY protocol; let it send version 2 (in HAProxy: send-proxy-v2)")]
    Version1,
    /// Something else altogether.
    #[error("no PROXY header; with --proxy-protocol every connection must come through a proxy that sends one")]
    NoHeader,
    /// A version that is not 2.
    #[error("version {0} of the PROXY protocol; only version 2 is read")]
    Version(u8),
    /// Neither LOCAL nor PROXY.
    #[error("a PROXY header with the unknown command {0}")]
    Command(u8),
    /// Too much follows.
    #[error("a PROXY header announces {0} bytes, more than {MAX_REST_BYTES}")]
    TooLong(usize),
    /// Less follows than its addresses take.
    #[error("a PROXY header is too short for the addresses that it announces")]
    TooShort,
}

/// Reads the first [`FIXED_BYTES`] bytes: how many bytes follow.
///
/// # Errors
/// See [`ProxyError`].
pub fn rest_len(fixed: &[u8; FIXED_BYTES]) -> Result<usize, ProxyError> {
    if !fixed.starts_with(&SIGNATURE) {
        return Err(if fixed.starts_with(VERSION_1) { ProxyError::Version1 } else { ProxyError::NoHeader });
    }
    match fixed[12] >> 4 {
        2 => {}
        version => return Err(ProxyError::Version(version)),
    }
    let len = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if len > MAX_REST_BYTES { Err(ProxyError::TooLong(len)) } else { Ok(len) }
}

/// Whether bytes that are the beginning of a connection can still become a header.
pub fn may_begin(start: &[u8]) -> bool {
    let len = start.len().min(SIGNATURE.len());
    start[..len] == SIGNATURE[..len]
}

/// Reads the fixed part and what follows it: the client's address. `None` where the header names none: the proxy
/// connects for itself (LOCAL, as its health checks do), or the client came over something else than IP.
///
/// # Errors
/// See [`ProxyError`].
pub fn client(fixed: &[u8; FIXED_BYTES], rest: &[u8]) -> Result<Option<SocketAddr>, ProxyError> {
    if rest.len() != rest_len(fixed)? {
        return Err(ProxyError::TooShort);
    }
    match fixed[12] & 0x0f {
        0 => return Ok(None),
        1 => {}
        command => return Err(ProxyError::Command(command)),
    }
    // The high half is the family: 1 IPv4, 2 IPv6. Source address, destination address, source port, destination port.
    let (ip, port) = match fixed[13] >> 4 {
        1 => {
            let (octets, rest) = rest.split_first_chunk::<4>().ok_or(ProxyError::TooShort)?;
            (IpAddr::V4(Ipv4Addr::from(*octets)), rest.get(4..8))
        }
        2 => {
            let (octets, rest) = rest.split_first_chunk::<16>().ok_or(ProxyError::TooShort)?;
            (IpAddr::V6(Ipv6Addr::from(*octets)), rest.get(16..20))
        }
        _ => return Ok(None),
    };
    let port = port.ok_or(ProxyError::TooShort)?;
    Ok(Some(SocketAddr::new(ip.to_canonical(), u16::from_be_bytes([port[0], port[1]]))))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A header for a TCP connection, with a field after the addresses.
    pub(crate) fn header(command: u8, from: SocketAddr) -> Vec<u8> {
        let mut addresses = Vec::new();
        match from.ip() {
            IpAddr::V4(ip) => addresses.extend([ip.octets(), [127, 0, 0, 1]].concat()),
            IpAddr::V6(ip) => addresses.extend([ip.octets(), [0; 16]].concat()),
        }
        addresses.extend(from.port().to_be_bytes());
        addresses.extend(61613_u16.to_be_bytes());
        addresses.extend([0x05, 0, 2, b'i', b'd']);
        let family = if from.is_ipv4() { 0x11 } else { 0x21 };
        let mut header = SIGNATURE.to_vec();
        header.extend([0x20 | command, family]);
        header.extend(u16::try_from(addresses.len()).unwrap().to_be_bytes());
        header.extend(addresses);
        header
    }

    fn read(header: &[u8]) -> Result<Option<SocketAddr>, ProxyError> {
        let (fixed, rest) = header.split_first_chunk::<FIXED_BYTES>().unwrap();
        let len = rest_len(fixed)?;
        client(fixed, &rest[..len.min(rest.len())])
    }

    #[test]
    fn the_client_is_whom_the_proxy_names() {
        for text in ["192.0.2.7:40001", "[2001:db8::1]:7"] {
            let from: SocketAddr = text.parse().unwrap();
            assert_eq!(read(&header(1, from)), Ok(Some(from)));
            assert_eq!(read(&header(0, from)), Ok(None), "LOCAL is the proxy itself");
        }
        let mapped = "[::ffff:192.0.2.7]:5".parse().unwrap();
        assert_eq!(read(&header(1, mapped)), Ok(Some("192.0.2.7:5".parse().unwrap())), "one client, one address");
        let mut unix = header(1, "192.0.2.7:1".parse().unwrap());
        unix[13] = 0x31;
        assert_eq!(read(&unix), Ok(None));
    }

    #[test]
    fn what_is_no_header_is_refused_by_its_name() {
        let good = header(1, "192.0.2.7:40001".parse().unwrap());
        let with = |at: usize, byte: u8| {
            let mut bad = good.clone();
            bad[at] = byte;
            read(&bad)
        };
        assert_eq!(read(b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\n"), Err(ProxyError::Version1));
        assert_eq!(read(b"CONNECT\naccept-version:1.2\n\n\0"), Err(ProxyError::NoHeader));
        assert_eq!(with(12, 0x31), Err(ProxyError::Version(3)));
        assert_eq!(with(12, 0x22), Err(ProxyError::Command(2)));
        assert_eq!(with(14, 0x40), Err(ProxyError::TooLong(0x4011)));
        assert_eq!(with(15, 11), Err(ProxyError::TooShort));
        assert_eq!(with(13, 0x21), Err(ProxyError::TooShort), "addresses of IPv6 take more");
        assert_eq!(read(&good[..20]), Err(ProxyError::TooShort));
        assert!(may_begin(&good[..3]) && may_begin(&good) && may_begin(b"") && !may_begin(b"\r\nC"));
    }
}
