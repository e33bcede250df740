//! The settings of `serve`: the configuration file, the weight of sources, defaults and what makes no sense.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{
    cli::ServeArgs,
    limits::{ClientLimits, LimitArgs},
    listen::{Listen, ListenArgs},
    memory::{self, Memory},
};

/// Where STOMP clients connect unless told otherwise.
pub(crate) const DEFAULT_STOMP: &str = "127.0.0.1:61613";
/// Where other nodes connect unless told otherwise.
pub(crate) const DEFAULT_PEER: &str = "127.0.0.1:61614";
/// Where the admin commands ask unless told otherwise.
pub(crate) const DEFAULT_ADMIN: &str = "127.0.0.1:61680";
/// How fast the store is read again, in MB a second: a hundredth of what a common disk gives, and 300 GB a day.
const DEFAULT_SCRUB: u64 = 4;
/// Past this it is no background work.
const MAX_SCRUB: u64 = 10_000;
/// Most copies that may be asked for: past this, one slow disk in many decides the speed of all.
const MAX_COPIES: u32 = 16;
/// Longest name or site in bytes: both travel in every handshake and in the registry.
const MAX_NAME_BYTES: usize = 64;
/// Largest configuration file in bytes; anything longer is the wrong file.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// What a node runs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) data: PathBuf,
    /// None: named after its id, which is known once the data directory is open.
    pub(crate) name: Option<String>,
    pub(crate) stomp: SocketAddr,
    /// Where else clients connect.
    pub(crate) listen: Listen,
    pub(crate) limits: ClientLimits,
    pub(crate) peer: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// Empty: the bound peer address.
    pub(crate) advertise: Vec<SocketAddr>,
    pub(crate) join: Option<String>,
    pub(crate) site: String,
    pub(crate) copies: u32,
    pub(crate) confirm: u32,
    pub(crate) confirm_sites: u32,
    /// Members that this node proposes.
    pub(crate) propose: u32,
    /// Bytes a second; None: the store is not read again.
    pub(crate) scrub: Option<u64>,
    /// For what could be read from disk again.
    pub(crate) memory: Memory,
    pub(crate) json: bool,
    pub(crate) log: String,
}

/// The keys a configuration file may have: those of the command line.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    data: Option<PathBuf>,
    name: Option<String>,
    stomp: Option<SocketAddr>,
    peer: Option<SocketAddr>,
    admin: Option<SocketAddr>,
    #[serde(default)]
    advertise: Vec<SocketAddr>,
    join: Option<String>,
    site: Option<String>,
    copies: Option<u32>,
    confirm: Option<u32>,
    confirm_sites: Option<u32>,
    propose: Option<u32>,
    scrub: Option<NumberOrText>,
    memory: Option<NumberOrText>,
    json: Option<bool>,
    log: Option<String>,
    stomp_tls: Option<SocketAddr>,
    stomp_ws: Option<SocketAddr>,
    stomp_wss: Option<SocketAddr>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    tls_client_ca: Option<PathBuf>,
    proxy_protocol: Option<bool>,
    require_login: Option<bool>,
    #[serde(default)]
    ws_origin: Vec<String>,
    max_connections: Option<u64>,
    max_connections_per_address: Option<u64>,
    max_body: Option<NumberOrText>,
    max_headers: Option<u64>,
    max_header: Option<NumberOrText>,
    max_head: Option<NumberOrText>,
    max_subscriptions: Option<u64>,
    max_transactions: Option<u64>,
    connect_timeout: Option<u64>,
    read_timeout: Option<u64>,
    duplicate_window: Option<u64>,
    duplicate_ids: Option<u64>,
}

/// In a file a number needs no quotes.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum NumberOrText {
    Number(u64),
    Text(String),
}

impl NumberOrText {
    fn into_text(self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text,
        }
    }
}

/// The settings cannot be used. Every text says what to change.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read the configuration file {path}: {source}", path = path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("the configuration file {path} is longer than 64 KiB; is it the right file?", path = path.display())]
    TooLong { path: PathBuf },
    #[error("the configuration file {path} is wrong:\n{source}", path = path.display())]
    Malformed { path: PathBuf, source: Box<toml::de::Error> },
    #[error("--copies is {0}; it must be from 1 to {MAX_COPIES}")]
    Copies(u32),
    #[error(
        "--confirm is {confirm} but --copies is {copies}; a message cannot be confirmed on more disks than keep it"
    )]
    Confirm { confirm: u32, copies: u32 },
    #[error("--confirm-sites is {sites} but --copies is {copies}; it must be from 1 to the number of copies")]
    ConfirmSites { sites: u32, copies: u32 },
    #[error("--propose is 0; a cluster has at least one member")]
    ProposeNothing,
    #[error("--scrub is `{0}`; it must be a number of MB a second from 1 to {MAX_SCRUB}, or `off`")]
    Scrub(String),
    #[error(
        "--memory is `{0}`; it must be a number of bytes from {min} MiB to {max} TiB, with a unit (KiB, MiB, GiB, TiB, K, M, G, T) or \
         without, such as 128MiB",
        min = memory::MIN >> 20,
        max = memory::MAX >> 40
    )]
    Memory(String),
    #[error(
        "--stomp-tls and --stomp-wss need both --tls-cert FILE and --tls-key FILE, and so does --tls-client-ca; one of \
         the files is not named"
    )]
    TlsFiles,
    #[error("{option} is {value}; it must be from {min} to {max}")]
    Limit { option: &'static str, value: String, min: u64, max: u64 },
    #[error("--confirm is 0; a RECEIPT means that a message is on disk, so at least 1 is needed")]
    ConfirmNothing,
    #[error("{what} `{text}` must have 1 to {MAX_NAME_BYTES} bytes and no control characters or spaces")]
    Name { what: &'static str, text: String },
    #[error(
        "--peer {0} is no address that others can dial; say with --advertise ADDR:PORT where this node can be reached"
    )]
    Advertise(SocketAddr),
}

impl Settings {
    /// Puts together what the command line and the environment say (`args`), the file they name, and the defaults.
    pub(crate) fn resolve(args: ServeArgs) -> Result<Self, ConfigError> {
        let mut file = args.config.as_deref().map(File::read).transpose()?.unwrap_or_default();
        let (listen, limits) = (args.listen.or(file.listen()), args.limits.or(file.limits()));
        let scrub = args.scrub.or(file.scrub.map(NumberOrText::into_text));
        let memory = args.memory.or(file.memory.map(NumberOrText::into_text));
        let settings = Self {
            scrub: scrub.map_or(Ok(Some(DEFAULT_SCRUB << 20)), |text| parse_scrub(&text))?,
            memory: memory
                .map_or(Ok(Memory::default()), |text| Memory::parse(&text).ok_or(ConfigError::Memory(text)))?,
            data: args.data.or(file.data).unwrap_or_else(|| "./rhizomq-data".into()),
            name: args.name.or(file.name),
            stomp: args.stomp.or(file.stomp).unwrap_or_else(|| fixed(DEFAULT_STOMP)),
            listen: listen.checked()?,
            limits: limits.checked()?,
            peer: args.peer.or(file.peer).unwrap_or_else(|| fixed(DEFAULT_PEER)),
            admin: args.admin.or(file.admin).unwrap_or_else(|| fixed(DEFAULT_ADMIN)),
            advertise: if args.advertise.is_empty() { file.advertise } else { args.advertise },
            join: args.join.or(file.join),
            site: args.site.or(file.site).unwrap_or_default(),
            copies: args.copies.or(file.copies).unwrap_or(3),
            // A stated number of copies below the default of `confirm` is meant to be enough by itself.
            confirm: 0,
            confirm_sites: args.confirm_sites.or(file.confirm_sites).unwrap_or(1),
            propose: 0,
            json: args.json || file.json.unwrap_or(false),
            log: args.log.or(file.log).unwrap_or_else(|| "info".to_owned()),
        };
        let confirm = args.confirm.or(file.confirm).unwrap_or_else(|| settings.copies.min(2));
        let propose = args.propose.or(file.propose).unwrap_or(settings.copies);
        Self { confirm, propose, ..settings }.checked()
    }

    fn checked(self) -> Result<Self, ConfigError> {
        if !(1..=MAX_COPIES).contains(&self.copies) {
            return Err(ConfigError::Copies(self.copies));
        }
        if self.confirm == 0 {
            return Err(ConfigError::ConfirmNothing);
        }
        if self.confirm > self.copies {
            return Err(ConfigError::Confirm { confirm: self.confirm, copies: self.copies });
        }
        if !(1..=self.copies).contains(&self.confirm_sites) {
            return Err(ConfigError::ConfirmSites { sites: self.confirm_sites, copies: self.copies });
        }
        if self.propose == 0 {
            return Err(ConfigError::ProposeNothing);
        }
        if let Some(name) = &self.name {
            check_name("--name", name)?;
        }
        if !self.site.is_empty() {
            check_name("--site", &self.site)?;
        }
        if self.advertise.is_empty() && self.peer.ip().is_unspecified() {
            return Err(ConfigError::Advertise(self.peer));
        }
        Ok(self)
    }
}

impl File {
    /// What it says about listeners.
    fn listen(&mut self) -> ListenArgs {
        ListenArgs {
            stomp_tls: self.stomp_tls,
            stomp_ws: self.stomp_ws,
            stomp_wss: self.stomp_wss,
            tls_cert: self.tls_cert.take(),
            tls_key: self.tls_key.take(),
            tls_client_ca: self.tls_client_ca.take(),
            proxy_protocol: self.proxy_protocol.unwrap_or(false),
            require_login: self.require_login.unwrap_or(false),
            ws_origin: std::mem::take(&mut self.ws_origin),
        }
    }

    /// What it says about limits.
    fn limits(&mut self) -> LimitArgs {
        let text = |value: &mut Option<NumberOrText>| value.take().map(NumberOrText::into_text);
        LimitArgs {
            max_connections: self.max_connections,
            max_connections_per_address: self.max_connections_per_address,
            max_body: text(&mut self.max_body),
            max_headers: self.max_headers,
            max_header: text(&mut self.max_header),
            max_head: text(&mut self.max_head),
            max_subscriptions: self.max_subscriptions,
            max_transactions: self.max_transactions,
            connect_timeout: self.connect_timeout,
            read_timeout: self.read_timeout,
            duplicate_window: self.duplicate_window,
            duplicate_ids: self.duplicate_ids,
        }
    }

    fn read(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
        if std::fs::metadata(path).map_err(unreadable)?.len() > MAX_FILE_BYTES {
            return Err(ConfigError::TooLong { path: path.to_owned() });
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        toml::from_str(&text)
            .map_err(|source| ConfigError::Malformed { path: path.to_owned(), source: Box::new(source) })
    }
}

/// Names go into log lines and into the `ready` line, which is split at spaces.
fn check_name(what: &'static str, text: &str) -> Result<(), ConfigError> {
    let bad = |c: char| c.is_control() || c.is_whitespace();
    if text.is_empty() || text.len() > MAX_NAME_BYTES || text.contains(bad) {
        return Err(ConfigError::Name { what, text: text.to_owned() });
    }
    Ok(())
}

fn parse_scrub(text: &str) -> Result<Option<u64>, ConfigError> {
    if text == "off" {
        return Ok(None);
    }
    let number = text.parse().ok().filter(|number| (1..=MAX_SCRUB).contains(number));
    number.map(|number: u64| Some(number << 20)).ok_or_else(|| ConfigError::Scrub(text.to_owned()))
}

fn fixed(address: &str) -> SocketAddr {
    address.parse().expect("the default addresses are constants of this file and a test parses them")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_file(text: &str, args: ServeArgs) -> Result<Settings, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rhizomq.toml");
        std::fs::write(&path, text).unwrap();
        Settings::resolve(ServeArgs { config: Some(path), ..args })
    }

    #[test]
    fn the_defaults_are_loopback_and_keep_three_copies() {
        let settings = Settings::resolve(ServeArgs::default()).unwrap();
        assert_eq!((settings.copies, settings.confirm), (3, 2));
        for address in [settings.stomp, settings.peer, settings.admin] {
            assert!(address.ip().is_loopback(), "{address}");
        }
        assert_eq!(settings.stomp.port(), 61613);
    }

    #[test]
    fn a_flag_outweighs_the_file_and_the_file_the_default() {
        let args = ServeArgs { copies: Some(5), ..ServeArgs::default() };
        let settings = with_file("copies = 4\nconfirm = 3\nsite = \"cellar\"", args).unwrap();
        assert_eq!((settings.copies, settings.confirm, settings.site.as_str()), (5, 3, "cellar"));
        assert_eq!(settings.propose, 5, "as many members as copies");
        let propose = |text: &str, flag| {
            with_file(text, ServeArgs { propose: flag, ..ServeArgs::default() }).map(|settings| settings.propose)
        };
        assert_eq!((propose("propose = 4", None).unwrap(), propose("propose = 4", Some(7)).unwrap()), (4, 7));
        assert!(matches!(propose("propose = 0", None), Err(ConfigError::ProposeNothing)));
    }

    #[test]
    fn one_copy_needs_one_confirmation() {
        assert_eq!(with_file("copies = 1", ServeArgs::default()).unwrap().confirm, 1);
    }

    #[test]
    fn a_wrong_file_is_named_with_its_line_and_the_known_keys() {
        let error = with_file("copies = 3\ncopys = 4", ServeArgs::default()).unwrap_err().to_string();
        assert!(error.contains("rhizomq.toml") && error.contains("line 2") && error.contains("copys"), "{error}");
        assert!(error.contains("`confirm`"), "the known keys are listed: {error}");
        assert!(with_file("stomp = 61613", ServeArgs::default()).is_err());
        let missing = ServeArgs { config: Some("/nowhere/at/all".into()), ..ServeArgs::default() };
        assert!(matches!(Settings::resolve(missing), Err(ConfigError::Unreadable { .. })));
    }

    #[test]
    fn memory_is_a_number_or_text_and_a_flag_outweighs_it() {
        let memory = |text: &str, flag: Option<&str>| {
            let args = ServeArgs { memory: flag.map(str::to_owned), ..ServeArgs::default() };
            with_file(text, args).unwrap().memory
        };
        let bytes = |text| Memory::parse(text).unwrap();
        assert_eq!(memory("", None), Memory::default());
        assert_eq!(memory("memory = 16777216", None), bytes("16M"));
        assert_eq!(memory("memory = \"16MiB\"", None), bytes("16M"));
        assert_eq!(memory("memory = \"16MiB\"", Some("1G")), bytes("1G"));
    }

    #[test]
    fn listeners_and_limits_come_from_the_file_too() {
        let text = "stomp-ws = \"127.0.0.1:0\"\nmax-body = 1000\nmax-header = \"1KiB\"\nws-origin = [\"https://a\"]";
        let settings = with_file(text, ServeArgs::default()).unwrap();
        assert_eq!(settings.listen.origins, ["https://a"]);
        let limits = settings.limits.session().limits;
        assert_eq!((limits.body, limits.header_line), (1000, 1024));
        let error = with_file("stomp-tls = \"127.0.0.1:0\"", ServeArgs::default()).unwrap_err();
        assert!(matches!(error, ConfigError::TlsFiles));
    }

    #[test]
    fn nonsense_is_refused() {
        let refuse = |text: &str| with_file(text, ServeArgs::default()).unwrap_err();
        assert!(matches!(refuse("copies = 0"), ConfigError::Copies(0)));
        assert!(matches!(refuse("copies = 17"), ConfigError::Copies(17)));
        assert!(matches!(refuse("scrub = 0"), ConfigError::Scrub(_)));
        assert!(matches!(refuse("scrub = \"fast\""), ConfigError::Scrub(_)));
        let scrub = |text: &str| with_file(text, ServeArgs::default()).unwrap().scrub;
        assert_eq!((scrub(""), scrub("scrub = 9"), scrub("scrub = \"off\"")), (Some(4 << 20), Some(9 << 20), None));
        assert!(matches!(refuse("memory = 1"), ConfigError::Memory(_)));
        assert!(matches!(refuse("memory = \"64 MB\""), ConfigError::Memory(_)));
        assert!(with_file("memory = -1", ServeArgs::default()).is_err());
        assert!(matches!(refuse("confirm = 0"), ConfigError::ConfirmNothing));
        assert!(matches!(refuse("copies = 2\nconfirm = 3"), ConfigError::Confirm { .. }));
        assert!(matches!(refuse("copies = 2\nconfirm-sites = 3"), ConfigError::ConfirmSites { sites: 3, copies: 2 }));
        assert!(matches!(refuse("confirm-sites = 0"), ConfigError::ConfirmSites { .. }));
        assert!(matches!(refuse("name = \"a b\""), ConfigError::Name { .. }));
        assert!(matches!(refuse("peer = \"0.0.0.0:1\""), ConfigError::Advertise(_)));
        assert!(with_file("peer = \"0.0.0.0:1\"\nadvertise = [\"192.0.2.1:1\"]", ServeArgs::default()).is_ok());
    }
}
