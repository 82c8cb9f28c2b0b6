//! The values that keys can hold. Each has one text form, the same in `proxy.toml`, in the environment and in the
//! example file; text becomes types here, once.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A type that a key can hold.
pub trait Setting: Sized {
    /// What a value looks like, for an error: "a duration such as \"300ms\"".
    const EXPECTS: &'static str;
    /// TOML writes it without quotes.
    const BARE: bool = false;
    /// TOML writes it as an array; its text form separates by commas.
    const LIST: bool = false;
    /// TOML writes it as an inline table; its text form is `key=value`, separated by commas.
    const TABLE: bool = false;

    /// Read the text form. `None`: it is not one.
    fn from_text(text: &str) -> Option<Self>;
}

impl Setting for bool {
    const EXPECTS: &'static str = "true or false";
    const BARE: bool = true;

    fn from_text(text: &str) -> Option<bool> {
        text.parse().ok()
    }
}

impl Setting for usize {
    const EXPECTS: &'static str = "a number";
    const BARE: bool = true;

    fn from_text(text: &str) -> Option<usize> {
        text.parse().ok()
    }
}

impl Setting for String {
    const EXPECTS: &'static str = "a text";

    fn from_text(text: &str) -> Option<String> {
        Some(text.to_owned())
    }
}

impl Setting for PathBuf {
    const EXPECTS: &'static str = "a path";

    fn from_text(text: &str) -> Option<PathBuf> {
        (!text.is_empty()).then(|| PathBuf::from(text))
    }
}

impl Setting for SocketAddr {
    const EXPECTS: &'static str = "an IP address and a port such as \"127.0.0.1:6432\"";

    fn from_text(text: &str) -> Option<SocketAddr> {
        text.parse().ok()
    }
}

impl Setting for Duration {
    const EXPECTS: &'static str = "a duration such as \"300ms\", \"5s\", \"10m\" or \"1h\"";

    fn from_text(text: &str) -> Option<Duration> {
        let (count, unit) = split_number(text)?;
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        count.checked_mul(millis).map(Duration::from_millis)
    }
}

/// A size in bytes, written as "64MB"; units are powers of 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Size {
    /// As a length in memory; on a machine of 32 bits the largest one.
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl Setting for Size {
    const EXPECTS: &'static str = "a size such as \"64MB\" (B, KB, MB, GB, TB)";

    fn from_text(text: &str) -> Option<Size> {
        let (count, unit) = split_number(text)?;
        let shift = match unit {
            "" | "B" => 0,
            "KB" => 10,
            "MB" => 20,
            "GB" => 30,
            "TB" => 40,
            _ => return None,
        };
        count.checked_mul(1 << shift).map(Size)
    }
}

/// A share of all, in millionths: "1%", "0.01", "0".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u32);

impl Share {
    /// Millionths in a whole.
    const WHOLE: u32 = 1_000_000;

    /// From 0 to 1.
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / f64::from(Share::WHOLE)
    }

    /// As a bound for numbers of 32 random bits: those below it are chosen.
    pub fn bound(self) -> u64 {
        (u64::from(self.0) << 32) / u64::from(Share::WHOLE)
    }
}

impl Setting for Share {
    const EXPECTS: &'static str = "a share such as \"1%\" or \"0.01\", from 0 to 100%";

    fn from_text(text: &str) -> Option<Share> {
        let (number, whole) = match text.strip_suffix('%') {
            Some(number) => (number.trim_end(), 100.0),
            None => (text, 1.0),
        };
        let digits = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let fraction = number.parse::<f64>().ok().filter(|_| digits)? / whole;
        // What is not nothing is at least the least that there is.
        let millionths = (fraction * f64::from(Share::WHOLE)).round().max(f64::from(u8::from(fraction > 0.0)));
        (fraction <= 1.0).then_some(Share(millionths as u32))
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("0"),
            millionths => write!(f, "{}%", f64::from(millionths) / 10_000.0),
        }
    }
}

/// Names with `*` for any letters. None at all means all, or nothing, as the key says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patterns(Vec<String>);

impl Patterns {
    /// No pattern is given.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One of them is like this name.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| is_like(pattern, name))
    }

    /// One of them is like this name, or there is none.
    pub fn allow(&self, name: &str) -> bool {
        self.is_empty() || self.has(name)
    }
}

/// Other names for some names: each name, and the other one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Renames(pub Vec<(String, String)>);

impl Setting for Renames {
    const EXPECTS: &'static str = "names and other names such as { mail = \"email\" }";
    const TABLE: bool = true;

    fn from_text(text: &str) -> Option<Renames> {
        let pair = |part: &str| {
            let (name, other) = part.split_once('=')?;
            let (name, other) = (name.trim(), other.trim());
            (!name.is_empty() && !other.is_empty()).then(|| (name.to_owned(), other.to_owned()))
        };
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(pair).collect::<Option<_>>().map(Renames)
    }
}

impl Setting for Patterns {
    const EXPECTS: &'static str = "names, `*` for any letters";
    const LIST: bool = true;

    fn from_text(text: &str) -> Option<Patterns> {
        Vec::from_text(text).map(Patterns)
    }
}

impl fmt::Display for Patterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

/// Whether a name is what a pattern says, in which each `*` stands for any letters. Each takes as little as it can; no way back
/// is needed for any but the last one.
pub(crate) fn is_like(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some((_, behind)) = rest.split_once(part) else { return false };
        rest = behind;
    }
    rest.ends_with(last)
}

/// "300ms" into 300 and "ms".
fn split_number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (count, unit) = text.split_at(end);
    Some((count.parse().ok()?, unit.trim_start()))
}

/// An empty text is "not set".
impl<T: Setting> Setting for Option<T> {
    const EXPECTS: &'static str = T::EXPECTS;
    const BARE: bool = T::BARE;
    const LIST: bool = T::LIST;

    fn from_text(text: &str) -> Option<Option<T>> {
        if text.is_empty() { Some(None) } else { T::from_text(text).map(Some) }
    }
}

impl<T: Setting> Setting for Vec<T> {
    const EXPECTS: &'static str = T::EXPECTS;
    const LIST: bool = true;

    fn from_text(text: &str) -> Option<Vec<T>> {
        text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(T::from_text).collect()
    }
}

/// A host and perhaps a port; without one the wire's usual port is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host {
    /// Name or IP address, an IPv6 address without brackets.
    pub name: String,
    /// TCP port.
    pub port: Option<u16>,
}

impl Setting for Host {
    const EXPECTS: &'static str = "hosts such as \"db1.example:5432\"";

    fn from_text(text: &str) -> Option<Host> {
        let (name, port) = match text.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?,
            None => text.split_at(text.rfind(':').unwrap_or(text.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => Some(port.parse().ok().filter(|&port| port > 0)?),
            None if port.is_empty() => None,
            None => return None,
        };
        let valid = !name.is_empty() && !name.contains(['/', ' ', '@']);
        valid.then(|| Host { name: name.to_owned(), port })
    }
}

/// A password or token. It is never printed (promise 13).
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Keep `text` out of logs.
    pub fn new(text: &str) -> Secret {
        Secret(text.into())
    }

    /// The secret itself, for the one place that sends or compares it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Declares an enum whose variants are words.
macro_rules! words {
    ($(#[$attr:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$attr])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$doc])* $variant),+ }

        impl $name {
            /// The word in the configuration, in metrics and in the admin API.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Setting for $name {
            const EXPECTS: &'static str = concat!("one of", $(" \"", $word, "\""),+);

            fn from_text(text: &str) -> Option<Self> {
                match text { $($word => Some($name::$variant),)+ _ => None }
            }
        }
    };
}

words! {
    /// What a listener speaks. Only `proxy` may pick a protocol by it.
    Wire {
        /// PostgreSQL, protocol 3.0 and 3.2.
        Postgres = "postgres",
        /// CQL, native protocol v3 to v5.
        Cql = "cql",
    }
}

impl Wire {
    /// Tables can be left out, be called otherwise on the target, and be mirrored in part.
    pub(super) fn has_table_maps(self) -> bool {
        self == Wire::Postgres
    }
}

words! {
    /// When a record counts as durable, so that its write may be acknowledged (promise 1).
    Durability {
        /// When it is in tandem's own memory: a kill of tandem loses it.
        Memory = "memory",
        /// When the operating system has it: a kill of tandem loses nothing, a power cut does.
        Os = "os",
        /// When the disk has it.
        Fsync = "fsync",
    }
}

words! {
    /// What a full journal does.
    OnFull {
        /// Clients wait for room.
        Block = "block",
        /// Tables written while it is full become dirty; clients notice nothing.
        Dirty = "dirty",
    }
}

words! {
    /// Whether writes are mirrored.
    Mode {
        /// Only forward.
        Off = "off",
        /// Acknowledged as soon as the primary and the journal have it.
        Async = "async",
        /// Acknowledged when the secondary has it too.
        Sync = "sync",
    }
}

words! {
    /// What happens with a write whose keys the proxy cannot learn.
    OnUncaptured {
        /// It runs, and its tables become dirty.
        Dirty = "dirty",
        /// The client gets an error that says why.
        Refuse = "refuse",
    }
}

words! {
    /// What happens with a schema change or a TRUNCATE.
    OnDdl {
        /// Repeated on the secondary before any later row.
        Mirror = "mirror",
        /// The client gets an error.
        Refuse = "refuse",
        /// It runs on the primary; the difference is noted as dirty.
        Note = "note",
    }
}

words! {
    /// Tables whose rows cannot be told apart.
    Keyless {
        /// They are not mirrored, and a switch names them.
        Refuse = "refuse",
        /// They are copied whole: after they were written, and once more while clients are held.
        Copy = "copy",
    }
}

words! {
    /// What a switch does about a session that cannot be moved: temporary tables, held cursors, session advisory locks,
    /// `lastval`, replication.
    Immovable {
        /// It is refused, and says which session.
        Refuse = "refuse",
        /// It waits before clients are held, for up to a minute; then it is refused.
        Wait = "wait",
        /// Closes the session between two transactions, with an error after which pools connect again.
        Close = "close",
    }
}

words! {
    /// What happens after a switch with writes to the old primary that go past tandem.
    OldPrimary {
        /// The server refuses them.
        ReadOnly = "read_only",
        /// They are noticed, and their tables are dirty.
        Watch = "watch",
    }
}

words! {
    /// Whom a read of CQL asks (native protocol v5, section 3: `[consistency]`).
    Consistency {
        /// One replica.
        One = "one",
        /// Two of them.
        Two = "two",
        /// Three of them.
        Three = "three",
        /// Most of them.
        Quorum = "quorum",
        /// All of them.
        All = "all",
        /// Most of those of the datacenter.
        LocalQuorum = "local_quorum",
        /// One of those of the datacenter.
        LocalOne = "local_one",
    }
}

words! {
    /// How much of an answer that comes in pages is compared.
    Pages {
        /// The page that the client got.
        First = "first",
        /// All of them: both sides are asked for the rest.
        All = "all",
    }
}

words! {
    /// What a switch does about transactions on the old primary that are not tandem's.
    Strangers {
        /// Waits for their end, for as long as clients may be held.
        Wait = "wait",
        /// Terminates them.
        Terminate = "terminate",
    }
}

words! {
    /// What a switch does about a session that used a type whose oid is another on the other side.
    TypeOids {
        /// Closes it between two transactions: drivers remember oids.
        Close = "close",
        /// Moves it all the same.
        Keep = "keep",
    }
}

words! {
    /// TLS towards a server, as libpq defines the words.
    SslMode {
        /// Never.
        Disable = "disable",
        /// Only if the server insists.
        Allow = "allow",
        /// If the server can.
        Prefer = "prefer",
        /// Always, whatever certificate it shows.
        Require = "require",
        /// Always, with a certificate of a trusted authority.
        VerifyCa = "verify-ca",
        /// Always, and the certificate names the host.
        VerifyFull = "verify-full",
    }
}

words! {
    /// How logs are written.
    LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_any_letters() {
        let cases = [
            ("public.a", "public.a", true),
            ("public.a", "public.ab", false),
            ("public.*", "public.a", true),
            ("public.*", "other.public.a", false),
            ("*.audit_*", "app.audit_log", true),
            ("*.audit_*", "app.audits", false),
            ("*", "a.b", true),
            ("*ä*", "öäü", true),
            ("a*a", "a", false),
            ("a*b*c", "abcbc", true),
        ];
        for (pattern, name, meant) in cases {
            assert_eq!(is_like(pattern, name), meant, "{pattern} {name}");
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(Duration::from_text("300ms"), Some(Duration::from_millis(300)));
        assert_eq!(Duration::from_text("10m"), Some(Duration::from_secs(600)));
        for bad in ["", "5", "ms", "-1s", "5 days", "99999999999999999999s", "18446744073709551615h"] {
            assert_eq!(Duration::from_text(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        assert_eq!(Size::from_text("64MB"), Some(Size(64 << 20)));
        assert_eq!(Size::from_text("512"), Some(Size(512)));
        for bad in ["", "MB", "64mb", "64 parsecs", "18446744073709551615TB"] {
            assert_eq!(Size::from_text(bad), None, "{bad}");
        }
    }

    #[test]
    fn shares_are_percents_or_fractions() {
        let shown = |text| Share::from_text(text).map(|share| share.to_string());
        for (text, expected) in [("0", "0"), ("0%", "0"), ("1%", "1%"), ("0.01", "1%"), ("100%", "100%"), ("1", "100%")]
        {
            assert_eq!(shown(text).as_deref(), Some(expected), "{text}");
            assert_eq!(Share::from_text(expected), Share::from_text(text), "{text}: its text form is read back");
        }
        assert_eq!(shown("0.00000001%").as_deref(), Some("0.0001%"), "a little is not nothing");
        for bad in ["", "%", "-1%", "1.5", "101%", "1e-2", "inf", "NaN", "one", "1 %%"] {
            assert_eq!(Share::from_text(bad), None, "{bad}");
        }
        assert_eq!((Share(0).bound(), Share(Share::WHOLE).bound()), (0, 1 << 32));
    }

    #[test]
    fn a_star_stands_for_any_letters() {
        let like = [
            ("a.b", "a.b"),
            ("a.*", "a.b"),
            ("*", ""),
            ("*b", "b"),
            ("a*c*e", "abcde"),
            ("a*b*b", "abb"),
            ("*ab", "aab"),
        ];
        for (pattern, name) in like {
            assert!(is_like(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("a.b", "a.bc"), ("a.*", "b.a"), ("a*b*b", "ab"), ("", "a"), ("*a", "ab"), ("a*a", "a")]
        {
            assert!(!is_like(pattern, name), "{pattern} {name}");
        }
        let patterns = Patterns::from_text("a.*, b").expect("patterns");
        assert!(patterns.allow("b") && !patterns.allow("c") && Patterns::default().allow("c"));
        assert!(!Patterns::default().has("c"));
        assert_eq!(patterns.to_string(), "a.*,b");
    }

    #[test]
    fn hosts_may_be_names_ipv4_and_ipv6() {
        let host = |name: &str, port| Some(Host { name: name.to_owned(), port });
        assert_eq!(Host::from_text("db1"), host("db1", None));
        assert_eq!(Host::from_text("10.0.0.1:5433"), host("10.0.0.1", Some(5433)));
        assert_eq!(Host::from_text("[::1]:5433"), host("::1", Some(5433)));
        assert_eq!(Host::from_text("[::1]"), host("::1", None));
        for bad in ["", ":5432", "db1:", "db1:0", "db1:70000", "[::1", "[::1]x", "a/b", "user@db1"] {
            assert_eq!(Host::from_text(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_secret_is_not_printed() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(..)");
    }
}
