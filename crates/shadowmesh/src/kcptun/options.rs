//! kcptun's options: its flags, its JSON file, which is stronger than they are, and what they mean.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use stream::fec::FecConfig;
use stream::kcp::{Congestion, KcpConfig, Mode};
use stream::session::SessionConfig;
use stream::smux::{HalfClose, SmuxConfig};

use super::crypt::CipherKind;
use crate::failure::Failure;

/// kcp-go's longest datagram.
const MTU_MAX: usize = 1500;
/// Shorter ones would carry more headers than payload.
const MTU_MIN: usize = 128;
/// When kcptun's other implementation gives up: three times its default interval.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(30);

/// Options of `kcptun server`.
#[derive(Debug, clap::Args)]
pub(crate) struct ServerArgs {
    /// UDP address to listen on; without a host, every address
    #[arg(short, long, value_name = "ADDRESS", default_value = ":29900")]
    pub(super) listen: String,

    /// TCP address to connect to for each stream, or the path of a Unix socket
    #[arg(short, long, value_name = "ADDRESS", default_value = "127.0.0.1:12948")]
    pub(super) target: String,

    #[command(flatten)]
    pub(super) common: CommonArgs,
}

/// Options of `kcptun client`.
#[derive(Debug, clap::Args)]
pub(crate) struct ClientArgs {
    /// TCP address to listen on, or the path of a Unix socket; without a host, every address
    #[arg(short, long, value_name = "ADDRESS", default_value = ":12948")]
    pub(super) localaddr: String,

    /// UDP address of the server
    #[arg(short, long, value_name = "ADDRESS", default_value = "vps:29900")]
    pub(super) remoteaddr: String,

    /// UDP connections to the server, among which streams are spread
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub(super) conn: usize,

    /// Seconds until a connection is replaced by a new one; 0 is never
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub(super) autoexpire: u64,

    /// Seconds that a replaced connection may go on for its streams; -1 is as long as it has any
    #[arg(long, value_name = "SECONDS", default_value_t = 600, allow_negative_numbers = true)]
    pub(super) scavengettl: i64,

    #[command(flatten)]
    pub(super) common: CommonArgs,
}

/// Options of both.
#[derive(Debug, clap::Args)]
pub(super) struct CommonArgs {
    /// The secret that both ends share
    #[arg(
        long,
        value_name = "KEY",
        env = "KCPTUN_KEY",
        hide_env_values = true,
        default_value = "it's a secrect"
    )]
    key: String,

    /// aes, aes-128, aes-192, salsa20, xor, none, null
    #[arg(long, value_name = "CIPHER", default_value = "aes")]
    crypt: String,

    /// fast3, fast2, fast, normal, manual
    #[arg(long, value_name = "MODE", default_value = "fast")]
    mode: String,

    /// Bytes of the longest datagram
    #[arg(long, value_name = "BYTES", default_value_t = 1350)]
    mtu: usize,

    /// Datagrams on their way at once [default: 1024 of a server, 128 of a client]
    #[arg(long, value_name = "COUNT")]
    sndwnd: Option<u32>,

    /// Datagrams held for the receiver [default: 1024 of a server, 512 of a client]
    #[arg(long, value_name = "COUNT")]
    rcvwnd: Option<u32>,

    /// Datagrams of a group that parities are computed for; 0 is no error correction
    #[arg(long, visible_alias = "ds", value_name = "COUNT", default_value_t = 10)]
    datashard: usize,

    /// Parities of a group; 0 is no error correction
    #[arg(long, visible_alias = "ps", value_name = "COUNT", default_value_t = 3)]
    parityshard: usize,

    /// DSCP of what is sent, 0 to 63
    #[arg(long, value_name = "VALUE", default_value_t = 0)]
    dscp: u32,

    /// Do not compress
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", value_parser = go_bool)]
    nocomp: bool,

    /// Acknowledge each datagram at once
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", value_parser = go_bool, hide = true)]
    acknodelay: bool,

    /// Mode manual: 1 for short timeouts
    #[arg(long, hide = true, default_value_t = 0)]
    nodelay: u32,

    /// Mode manual: milliseconds that acknowledgements may wait
    #[arg(long, hide = true, default_value_t = 50)]
    interval: u64,

    /// Mode manual: 0 to find losses by timeout only
    #[arg(long, hide = true, default_value_t = 0)]
    resend: u32,

    /// Mode manual: 1 for no congestion window
    #[arg(long, hide = true, default_value_t = 0)]
    nc: u32,

    /// Bytes of each socket buffer
    #[arg(long, value_name = "BYTES", default_value_t = 4_194_304)]
    sockbuf: usize,

    /// Version of smux, 1 or 2; the same at both ends
    #[arg(long, value_name = "VERSION", default_value_t = 1)]
    smuxver: u8,

    /// Bytes held for all streams of a connection
    #[arg(long, value_name = "BYTES", default_value_t = 4_194_304)]
    smuxbuf: usize,

    /// Bytes held for a stream, with smux version 2
    #[arg(long, value_name = "BYTES", default_value_t = 2_097_152)]
    streambuf: u32,

    /// Bytes of the longest frame of smux
    #[arg(long, value_name = "BYTES", default_value_t = 8192)]
    framesize: usize,

    /// Seconds between signs of life
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    keepalive: u64,

    /// none, or bbr: send as fast as a model of the path says, instead of a window at once
    #[arg(long, value_name = "CONTROL", default_value = "none")]
    congestion: String,

    /// Do not tell about connections and streams
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", value_parser = go_bool)]
    quiet: bool,

    /// A JSON file with any of these options, which count more than the command line's
    #[arg(short = 'c', value_name = "FILE")]
    config: Option<PathBuf>,

    /// Refused: crafted TCP segments are what mesh sessions have, with `carriers = ["faketcp"]`
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", value_parser = go_bool, hide = true)]
    tcp: bool,

    /// A file to append messages to, in place of stderr
    #[arg(long, value_name = "FILE")]
    log: Option<String>,

    /// Accepted without effect
    #[arg(long, value_name = "FILE", hide = true)]
    snmplog: Option<String>,

    /// Accepted without effect
    #[arg(long, value_name = "SECONDS", hide = true)]
    snmpperiod: Option<u64>,

    /// Accepted without effect: a limit of the rate; `--congestion bbr` finds the path's own
    #[arg(long, value_name = "BYTES", hide = true)]
    ratelimit: Option<u64>,

    /// Accepted without effect: streams are forgotten when both ends have said so
    #[arg(long, value_name = "SECONDS", hide = true)]
    closewait: Option<u64>,

    /// Refused: what it does to the bytes is not supported
    #[arg(long = "QPP", alias = "qpp", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", value_parser = go_bool, hide = true)]
    qpp: bool,

    /// Accepted without effect, as long as there is no --QPP
    #[arg(long = "QPPCount", alias = "qpp-count", value_name = "COUNT", hide = true)]
    _qpp_count: Option<u64>,

    /// Print the version
    #[arg(short = 'v', long, action = clap::ArgAction::Version)]
    version: Option<bool>,

    /// Accepted without effect: there is no profiling server
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", value_parser = go_bool, hide = true)]
    pprof: bool,
}

/// kcptun's JSON file. What it does not name, the command line decides; what nobody knows is said once and ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct File {
    listen: Option<String>,
    target: Option<String>,
    localaddr: Option<String>,
    remoteaddr: Option<String>,
    conn: Option<usize>,
    autoexpire: Option<u64>,
    scavengettl: Option<i64>,
    key: Option<String>,
    crypt: Option<String>,
    mode: Option<String>,
    mtu: Option<usize>,
    sndwnd: Option<u32>,
    rcvwnd: Option<u32>,
    datashard: Option<usize>,
    parityshard: Option<usize>,
    dscp: Option<u32>,
    nocomp: Option<bool>,
    acknodelay: Option<bool>,
    nodelay: Option<u32>,
    interval: Option<u64>,
    resend: Option<u32>,
    nc: Option<u32>,
    sockbuf: Option<usize>,
    smuxver: Option<u8>,
    smuxbuf: Option<usize>,
    streambuf: Option<u32>,
    framesize: Option<usize>,
    keepalive: Option<u64>,
    congestion: Option<String>,
    quiet: Option<bool>,
    tcp: Option<bool>,
    log: Option<String>,
    snmplog: Option<String>,
    snmpperiod: Option<u64>,
    pprof: Option<bool>,
    ratelimit: Option<u64>,
    closewait: Option<u64>,
    qpp: Option<bool>,
    #[serde(rename = "qpp-count")]
    _qpp_count: Option<u64>,
    /// Names that nobody knows.
    #[serde(flatten)]
    unknown: BTreeMap<String, serde_json::Value>,
}

/// Puts the file's values, where it has them, in place of the flags'.
macro_rules! take_over {
    ($file:ident => $args:expr; $($name:ident)*) => {
        $(if let Some(value) = $file.$name.take() { $args.$name = value.into(); })*
    };
}

impl ServerArgs {
    /// What the options mean, those of the file included.
    ///
    /// # Errors
    /// [`Failure::Usage`]: one of them makes no sense.
    pub(super) fn resolve(mut self) -> Result<(Self, Settings), Failure> {
        let mut file = self.common.read_file()?;
        take_over!(file => self; listen target);
        let settings = self.common.settings(file, 1024, 1024)?;
        Ok((self, settings))
    }
}

impl ClientArgs {
    /// What the options mean, those of the file included.
    ///
    /// # Errors
    /// [`Failure::Usage`]: one of them makes no sense.
    pub(super) fn resolve(mut self) -> Result<(Self, Settings), Failure> {
        let mut file = self.common.read_file()?;
        take_over!(file => self; localaddr remoteaddr conn autoexpire scavengettl);
        if self.conn == 0 {
            return Err(usage("--conn: there must be at least one connection"));
        }
        let settings = self.common.settings(file, 128, 512)?;
        Ok((self, settings))
    }
}

/// What the options of both mean.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) cipher: CipherKind,
    pub(super) key: String,
    pub(super) session: SessionConfig,
    pub(super) mtu: usize,
    pub(super) socket_buffer_bytes: usize,
    pub(super) dscp: u32,
    pub(super) quiet: bool,
    /// Where messages go, if not to stderr.
    pub(super) log: Option<PathBuf>,
    /// Options that were given and do nothing.
    pub(super) without_effect: Vec<String>,
}

impl CommonArgs {
    fn read_file(&self) -> Result<File, Failure> {
        let Some(path) = &self.config else { return Ok(File::default()) };
        let name = path.display();
        let text = fs::read_to_string(path).map_err(|error| usage(format!("cannot read {name}: {error}")))?;
        let failed = |error: serde_json::Error| usage(format!("{name}: {error}"));
        let named: BTreeMap<String, serde_json::Value> = serde_json::from_str(&text).map_err(failed)?;
        // Go does not tell upper from lower case in names.
        let named = named.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
        serde_json::from_value(serde_json::Value::Object(named)).map_err(failed)
    }

    fn settings(&mut self, mut file: File, sndwnd: u32, rcvwnd: u32) -> Result<Settings, Failure> {
        take_over!(file => self;
            key crypt mode mtu sndwnd rcvwnd datashard parityshard dscp nocomp acknodelay nodelay interval resend nc sockbuf
            smuxver smuxbuf streambuf framesize keepalive congestion quiet tcp log snmplog pprof qpp);
        // What is off has no effect anyway, and is not worth a word.
        let logs = self.snmplog.as_ref().is_some_and(|path| !path.is_empty());
        self.snmpperiod = file.snmpperiod.filter(|_| logs).or(self.snmpperiod);
        self.ratelimit = file.ratelimit.or(self.ratelimit);
        self.closewait = file.closewait.or(self.closewait);
        if self.tcp {
            let instead =
                "use a mesh session with `carriers = [\"faketcp\"]`, or leave --tcp out at both ends";
            return Err(usage(format!("--tcp: crafted TCP segments of kcptun are not supported; {instead}")));
        }
        if self.qpp {
            let message = "--QPP (\"qpp\" in the JSON file) is not supported: leave it out at both ends";
            return Err(usage(message));
        }
        let cipher = self.cipher()?;
        let fec =
            FecConfig::fixed(self.datashard, self.parityshard).map_err(|error| usage(error.to_string()))?;
        let mtu = in_range("--mtu", self.mtu, MTU_MIN, MTU_MAX)?;
        let interval = Duration::from_secs(in_range("--keepalive", self.keepalive, 1, 3600)?);
        let header_len = if cipher == CipherKind::Null { 0 } else { 20 };
        let kcp = KcpConfig {
            mode: self.mode()?,
            mtu: mtu - header_len,
            send_window: in_range("--sndwnd", self.sndwnd.unwrap_or(sndwnd), 1, KcpConfig::WINDOW_MAX)?,
            receive_window: in_range("--rcvwnd", self.rcvwnd.unwrap_or(rcvwnd), 1, KcpConfig::WINDOW_MAX)?,
            ack_no_delay: self.acknodelay,
            congestion: self.congestion()?,
            dead_after: (3 * interval).clamp(Duration::from_secs(3), KEEPALIVE_TIMEOUT),
        };
        let smux = SmuxConfig {
            version: in_range("--smuxver", self.smuxver, 1, 2)?,
            frame_bytes_max: in_range("--framesize", self.framesize, 1, 65_535)?,
            receive_bytes_max: in_range("--smuxbuf", self.smuxbuf, 65_536, 1 << 30)?,
            stream_receive_bytes_max: in_range("--streambuf", self.streambuf, 4096, 1 << 30)?,
            keepalive_interval: interval,
            keepalive_timeout: KEEPALIVE_TIMEOUT.max(3 * interval),
            half_close: HalfClose::Negotiated,
            ..SmuxConfig::default()
        };
        Ok(Settings {
            cipher,
            key: self.key.clone(),
            session: SessionConfig { kcp, smux, fec, compress: !self.nocomp, any_datagram_is_life: false },
            mtu,
            socket_buffer_bytes: in_range("--sockbuf", self.sockbuf, 4096, 1 << 30)?,
            dscp: in_range("--dscp", self.dscp, 0, 63)?,
            quiet: self.quiet,
            log: self.log.as_ref().filter(|path| !path.is_empty()).map(PathBuf::from),
            without_effect: self.without_effect(file.unknown.into_keys()),
        })
    }

    /// kcptun's own configurations name most options, with values that mean nothing.
    fn without_effect(&self, unknown: impl Iterator<Item = String>) -> Vec<String> {
        let given = [
            ("--snmplog", self.snmplog.as_ref().is_some_and(|path| !path.is_empty())),
            ("--snmpperiod", self.snmpperiod.is_some()),
            ("--pprof", self.pprof),
            ("--ratelimit", self.ratelimit.is_some_and(|limit| limit > 0)),
            ("--closewait", self.closewait.is_some_and(|seconds| seconds > 0)),
        ];
        let given = given.into_iter().filter(|(_, given)| *given).map(|(name, _)| name.into());
        given.chain(unknown.map(|name| format!("\"{}\" of the JSON file", name.escape_debug()))).collect()
    }

    fn cipher(&self) -> Result<CipherKind, Failure> {
        let known = CipherKind::NAMES.iter().find(|(name, _)| *name == self.crypt);
        let (_, cipher) = known.ok_or_else(|| {
            let names = CipherKind::NAMES.map(|(name, _)| name).join(", ");
            usage(format!("--crypt: the cipher `{}` is not supported; it can be {names}", self.crypt))
        })?;
        Ok(*cipher)
    }

    fn mode(&self) -> Result<Mode, Failure> {
        Ok(match self.mode.as_str() {
            "normal" => Mode::NORMAL,
            "fast" => Mode::FAST,
            "fast2" => Mode::FAST2,
            "fast3" => Mode::FAST3,
            "manual" => Mode {
                nodelay: self.nodelay != 0,
                // As kcp-go clamps it.
                interval: Duration::from_millis(self.interval.clamp(10, 5_000)),
                resend: self.resend,
                no_congestion_window: self.nc != 0,
            },
            other => {
                let modes = "it can be fast3, fast2, fast, normal, manual";
                return Err(usage(format!("--mode: there is no mode `{other}`; {modes}")));
            }
        })
    }

    fn congestion(&self) -> Result<Congestion, Failure> {
        match self.congestion.as_str() {
            "none" => Ok(Congestion::None),
            "bbr" => Ok(Congestion::Bbr),
            other => Err(usage(format!("--congestion: `{other}` is neither `none` nor `bbr`"))),
        }
    }
}

fn usage(message: impl Into<String>) -> Failure {
    Failure::Usage(message.into())
}

fn in_range<T: Copy + PartialOrd + fmt::Display>(
    name: &str,
    value: T,
    least: T,
    most: T,
) -> Result<T, Failure> {
    if value < least || value > most {
        return Err(usage(format!("{name}: {value} is not between {least} and {most}")));
    }
    Ok(value)
}

/// A flag's value as Go reads it (`strconv.ParseBool`).
fn go_bool(text: &str) -> Result<bool, &'static str> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("it can be true or false"),
    }
}

/// Where connections are taken or made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// `HOST:PORT`
    Host(String),
    /// The path of a Unix socket.
    Path(PathBuf),
}

impl Address {
    /// An address, or a path where there is no port, as kcptun tells them apart.
    ///
    /// # Errors
    /// [`Failure::Usage`]: it is neither.
    pub(super) fn parse(name: &str, text: &str) -> Result<Self, Failure> {
        // A host without a port is a mistake, not a file.
        if text.contains('/') || Path::new(text).extension().is_some_and(|extension| extension == "sock") {
            return Ok(Self::Path(text.into()));
        }
        host_and_port(name, text)?;
        Ok(Self::Host(text.into()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => write!(f, "TCP {host}"),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

/// `HOST:PORT`, or `:PORT` for every address of this machine.
///
/// # Errors
/// [`Failure::Usage`]: it is neither.
pub(super) fn host_and_port<'a>(name: &str, address: &'a str) -> Result<(&'a str, u16), Failure> {
    let parts = address.rsplit_once(':');
    let Some((host, port)) = parts else {
        return Err(usage(format!("{name}: `{address}` has no port; it should be HOST:PORT or :PORT")));
    };
    if port.contains('-') {
        return Err(usage(format!("{name}: `{address}` is a range of ports, and only one is supported")));
    }
    let port = port.parse().map_err(|_| usage(format!("{name}: `{port}` is not a port")))?;
    Ok((host.trim_start_matches('[').trim_end_matches(']'), port))
}

/// An address to listen on.
///
/// # Errors
/// [`Failure::Usage`]: it is none of this machine's.
pub(super) fn to_listen_on(name: &str, address: &str) -> Result<std::net::SocketAddr, Failure> {
    let (host, port) = host_and_port(name, address)?;
    if host.is_empty() || host == "*" {
        return Ok((std::net::Ipv6Addr::UNSPECIFIED, port).into());
    }
    let mut found = std::net::ToSocketAddrs::to_socket_addrs(&(host, port))
        .map_err(|error| usage(format!("{name}: cannot find `{host}`: {error}")))?;
    found.next().ok_or_else(|| usage(format!("{name}: `{host}` has no address")))
}

/// Go's flags may have one dash where others have two: `-mode fast2`. Gives them the second one.
pub(crate) fn with_two_dashes(
    arguments: impl Iterator<Item = std::ffi::OsString>,
) -> Vec<std::ffi::OsString> {
    let long = |argument: &str| {
        let name = argument.strip_prefix('-').and_then(|name| name.split('=').next());
        name.is_some_and(|name| name.len() > 1 && name.chars().all(|letter| letter.is_ascii_alphabetic()))
    };
    arguments
        .map(|argument| match argument.to_str() {
            Some(text) if long(text) => format!("-{text}").into(),
            _ => argument,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    #[command(version, disable_version_flag = true)]
    struct Client {
        #[command(flatten)]
        args: ClientArgs,
    }

    fn client(line: &str) -> Result<ClientArgs, clap::Error> {
        let line = line.split_whitespace().map(std::ffi::OsString::from);
        Client::try_parse_from(with_two_dashes(["client".into()].into_iter().chain(line))).map(|it| it.args)
    }

    #[test]
    fn flags_are_read_as_go_reads_them() {
        let args = client("-nocomp=true --quiet=F --acknodelay -scavengettl -1 -l :12948").unwrap();
        assert!(args.common.nocomp && args.common.acknodelay && !args.common.quiet);
        assert_eq!(args.scavengettl, -1);
        assert!(client("--nocomp=perhaps").is_err());
        for line in ["--version", "-version", "-v"] {
            assert_eq!(client(line).unwrap_err().kind(), clap::error::ErrorKind::DisplayVersion, "{line}");
        }
    }

    #[test]
    fn what_would_change_the_bytes_is_refused_and_what_does_nothing_is_named() {
        assert!(client("-QPP -QPPCount 61").unwrap().resolve().is_err());
        let path = std::env::temp_dir().join(format!("sm-kcptun-options-{}.json", std::process::id()));
        let resolved = |text: &str| {
            fs::write(&path, text).unwrap();
            let resolved = client(&format!("-c {}", path.display())).unwrap().resolve();
            fs::remove_file(&path).unwrap();
            resolved
        };
        assert!(resolved(r#"{"qpp": true, "qpp-count": 61}"#).is_err());
        let (args, settings) = resolved(
            r#"{"LocalAddr": ":7", "scavengettl": -1, "qpp": false, "qpp-count": 61, "ratelimit": 0, "closewait": 0}"#,
        )
        .unwrap();
        assert_eq!((args.localaddr.as_str(), args.scavengettl), (":7", -1));
        assert_eq!(settings.without_effect, [""; 0]);
        let (_, settings) = resolved(r#"{"ratelimit": 1048576, "wormhole": 1}"#).unwrap();
        assert_eq!(settings.without_effect, ["--ratelimit", "\"wormhole\" of the JSON file"]);
    }

    #[test]
    fn an_address_without_a_port_is_a_path_where_it_looks_like_one() {
        let parsed = |text| Address::parse("--target", text);
        assert_eq!(parsed("127.0.0.1:80").unwrap(), Address::Host("127.0.0.1:80".into()));
        assert_eq!(parsed("/run/x").unwrap(), Address::Path("/run/x".into()));
        assert_eq!(parsed("x.sock").unwrap(), Address::Path("x.sock".into()));
        assert!(parsed("vps").is_err(), "a host whose port was forgotten");
    }
}
