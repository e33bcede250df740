//! Where STOMP clients come in: the settings of all listeners, and binding them.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use clap::Args;
use rhizomq_stomp::rim::{Listener, Tls, TlsError, TlsFiles};
use tokio::net::TcpListener;

use crate::config::ConfigError;

/// Options of `serve` about listeners besides `--stomp`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ListenArgs {
    /// Where STOMP clients connect over TLS (1.2 and 1.3) [default: nowhere]
    #[arg(long, value_name = "ADDR:PORT", env = "RHIZOMQ_STOMP_TLS")]
    pub(crate) stomp_tls: Option<SocketAddr>,
    /// Where STOMP clients connect over WebSocket, on any path [default: nowhere]
    #[arg(long, value_name = "ADDR:PORT", env = "RHIZOMQ_STOMP_WS")]
    pub(crate) stomp_ws: Option<SocketAddr>,
    /// Where STOMP clients connect over secure WebSocket [default: nowhere]
    #[arg(long, value_name = "ADDR:PORT", env = "RHIZOMQ_STOMP_WSS")]
    pub(crate) stomp_wss: Option<SocketAddr>,
    /// PEM file with the certificate that clients see, and those between it and one that they trust; read again when it
    /// changes
    #[arg(long, value_name = "FILE", env = "RHIZOMQ_TLS_CERT")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// PEM file with its private key
    #[arg(long, value_name = "FILE", env = "RHIZOMQ_TLS_KEY")]
    pub(crate) tls_key: Option<PathBuf>,
    /// PEM file with authorities: clients may present a certificate of theirs, and one of others is refused
    #[arg(long, value_name = "FILE", env = "RHIZOMQ_TLS_CLIENT_CA")]
    pub(crate) tls_client_ca: Option<PathBuf>,
    /// Clients come through a proxy that names them by the PROXY protocol, version 2, on all listeners for clients; let
    /// nobody but the proxy reach them
    #[arg(long, env = "RHIZOMQ_PROXY_PROTOCOL", value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) proxy_protocol: bool,
    /// Let nobody in without a login, not even clients of this machine while there are no users
    #[arg(long, env = "RHIZOMQ_REQUIRE_LOGIN", value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) require_login: bool,
    /// Origin whose pages may connect over WebSocket, such as `https://shop.example`; may be repeated [default: all]
    #[arg(long, value_name = "ORIGIN", env = "RHIZOMQ_WS_ORIGIN", value_delimiter = ',')]
    pub(crate) ws_origin: Vec<String>,
}

impl ListenArgs {
    /// What is not said here is taken from `file`.
    pub(crate) fn or(self, file: Self) -> Self {
        Self {
            stomp_tls: self.stomp_tls.or(file.stomp_tls),
            stomp_ws: self.stomp_ws.or(file.stomp_ws),
            stomp_wss: self.stomp_wss.or(file.stomp_wss),
            tls_cert: self.tls_cert.or(file.tls_cert),
            tls_key: self.tls_key.or(file.tls_key),
            tls_client_ca: self.tls_client_ca.or(file.tls_client_ca),
            proxy_protocol: self.proxy_protocol || file.proxy_protocol,
            require_login: self.require_login || file.require_login,
            ws_origin: if self.ws_origin.is_empty() { file.ws_origin } else { self.ws_origin },
        }
    }

    /// The settings, if they make sense.
    pub(crate) fn checked(self) -> Result<Listen, ConfigError> {
        let needs_tls = self.stomp_tls.is_some() || self.stomp_wss.is_some();
        let tls = match (self.tls_cert, self.tls_key) {
            (Some(certificate), Some(key)) => Some(TlsFiles { certificate, key, client_ca: self.tls_client_ca }),
            (None, None) if !needs_tls && self.tls_client_ca.is_none() => None,
            _ => return Err(ConfigError::TlsFiles),
        };
        Ok(Listen {
            tls_address: self.stomp_tls,
            ws: self.stomp_ws,
            wss: self.stomp_wss,
            tls,
            proxy: self.proxy_protocol,
            require_login: self.require_login,
            origins: self.ws_origin,
        })
    }
}

/// Where clients come in, besides `--stomp`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Listen {
    tls_address: Option<SocketAddr>,
    ws: Option<SocketAddr>,
    wss: Option<SocketAddr>,
    tls: Option<TlsFiles>,
    /// Clients of all listeners come through a proxy that names them.
    proxy: bool,
    /// Nobody is let in without a login.
    pub(crate) require_login: bool,
    /// Whose pages may connect; empty: all.
    pub(crate) origins: Vec<String>,
}

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tcp,
    Tls,
    Ws,
    Wss,
}

impl Kind {
    /// As options and the `ready` line call it.
    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "stomp",
            Self::Tls => "stomp-tls",
            Self::Ws => "stomp-ws",
            Self::Wss => "stomp-wss",
        }
    }

    fn flag(self) -> &'static str {
        match self {
            Self::Tcp => "--stomp",
            Self::Tls => "--stomp-tls",
            Self::Ws => "--stomp-ws",
            Self::Wss => "--stomp-wss",
        }
    }
}

/// Why clients can't come in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    #[error("cannot listen on {flag} {address}: {source}")]
    Bind { flag: &'static str, address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// The sockets on which clients connect, bound once for all lives of the process: clients that come between two lives wait
/// instead of being refused.
pub(crate) struct Doors {
    doors: Vec<(Kind, SocketAddr, std::net::TcpListener)>,
    tls: Option<Arc<Tls>>,
    proxy: bool,
}

impl Doors {
    /// Reads the certificate and binds the addresses.
    pub(crate) async fn open(stomp: SocketAddr, listen: &Listen) -> Result<Self, ListenError> {
        let tls = listen.tls.clone().map(Tls::open).transpose()?.map(Arc::new);
        let wanted =
            [(Kind::Tcp, Some(stomp)), (Kind::Tls, listen.tls_address), (Kind::Ws, listen.ws), (Kind::Wss, listen.wss)];
        let mut doors = Vec::new();
        for (kind, address) in wanted {
            let Some(address) = address else { continue };
            let error = |source| ListenError::Bind { flag: kind.flag(), address, source };
            let socket = TcpListener::bind(address).await.map_err(error)?;
            let bound = socket.local_addr().map_err(error)?;
            doors.push((kind, bound, socket.into_std().map_err(error)?));
        }
        Ok(Self { doors, tls, proxy: listen.proxy })
    }

    /// Where plain STOMP is spoken.
    pub(crate) fn stomp(&self) -> SocketAddr {
        // It is always bound, and first.
        self.doors[0].1
    }

    /// The other addresses, by the names that the `ready` line has for them.
    pub(crate) fn others(&self) -> Vec<(&'static str, SocketAddr)> {
        self.doors[1..].iter().map(|(kind, address, _)| (kind.name(), *address)).collect()
    }

    /// Addresses that others than this machine can reach, and that are not encrypted.
    pub(crate) fn open_in_the_clear(&self) -> Vec<(&'static str, SocketAddr)> {
        let doors = self.doors.iter().filter(|(kind, address, _)| {
            matches!(kind, Kind::Tcp | Kind::Ws) && !address.ip().to_canonical().is_loopback()
        });
        doors.map(|(kind, address, _)| (kind.flag(), *address)).collect()
    }

    /// For one life.
    pub(crate) fn listeners(&self) -> std::io::Result<Vec<Listener>> {
        let listener = |(kind, _, socket): &(Kind, SocketAddr, std::net::TcpListener)| {
            let mut listener = Listener::new(TcpListener::from_std(socket.try_clone()?)?).behind_proxy(self.proxy);
            if matches!(kind, Kind::Ws | Kind::Wss) {
                listener = listener.over_websocket();
            }
            // The settings were checked: whatever needs a certificate has one.
            if let (Kind::Tls | Kind::Wss, Some(tls)) = (kind, &self.tls) {
                listener = listener.over_tls(Arc::clone(tls));
            }
            Ok(listener)
        };
        self.doors.iter().map(listener).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> ListenArgs {
        ListenArgs { tls_cert: Some("c".into()), tls_key: Some("k".into()), ..ListenArgs::default() }
    }

    #[test]
    fn tls_needs_a_certificate_and_its_key() {
        let any = Some("127.0.0.1:0".parse().unwrap());
        assert!(ListenArgs::default().checked().unwrap().tls.is_none());
        for without in [
            ListenArgs { stomp_tls: any, ..ListenArgs::default() },
            ListenArgs { stomp_wss: any, ..ListenArgs::default() },
            ListenArgs { tls_key: None, ..args() },
            ListenArgs { tls_cert: None, stomp_tls: any, ..args() },
            ListenArgs { tls_client_ca: Some("a".into()), ..ListenArgs::default() },
        ] {
            assert!(matches!(without.clone().checked(), Err(ConfigError::TlsFiles)), "{without:?}");
        }
        assert!(ListenArgs { stomp_tls: any, ..args() }.checked().unwrap().tls.is_some());
        assert!(ListenArgs { stomp_ws: any, ..ListenArgs::default() }.checked().is_ok());
    }

    #[tokio::test]
    async fn doors_have_names_and_those_open_in_the_clear_are_known() {
        let any = |ip: &str| Some(SocketAddr::new(ip.parse().unwrap(), 0));
        let listen = Listen { ws: any("0.0.0.0"), ..Listen::default() };
        let doors = Doors::open(any("127.0.0.1").unwrap(), &listen).await.unwrap();
        assert_ne!(doors.stomp().port(), 0);
        assert_eq!(doors.others().iter().map(|door| door.0).collect::<Vec<_>>(), ["stomp-ws"]);
        assert_eq!(doors.open_in_the_clear().iter().map(|door| door.0).collect::<Vec<_>>(), ["--stomp-ws"]);
        assert_eq!(doors.listeners().unwrap().len(), 2);
        let taken = Listen { ws: Some(doors.stomp()), ..Listen::default() };
        let error = Doors::open(any("127.0.0.1").unwrap(), &taken).await.err().expect("the address is taken");
        assert!(error.to_string().starts_with("cannot listen on --stomp-ws 127.0.0.1:"), "{error}");
    }
}
