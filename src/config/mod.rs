//! `proxy.toml`: read once at the start, checked whole, and turned into types that need no further checks.
//!
//! Every key of the file can be overridden by an environment variable `TANDEM_SECTION_KEY`
//! (`TANDEM_JOURNAL_DURABILITY=os`); of several `[[listen]]` the second is `TANDEM_LISTEN_2_ADDRESS`. Secrets are read
//! from files. The keys, what they do and their defaults are declared in [`section`], and nowhere else.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::record::Side;

pub mod live;
pub mod section;
pub mod server;
pub mod source;
pub mod value;

pub use live::Live;
pub use section::{Backfill, Cutover, Journal, Limits, Log, Mirror, Runtime, Shadow, TableMap};
pub use server::Server;
pub use source::Error;
pub(crate) use value::is_like;
pub use value::{Consistency, Immovable, OldPrimary, Pages, Patterns, Renames, Share, Strangers, TypeOids};
pub use value::{Durability, Host, Keyless, LogFormat, Mode, OnDdl, OnFull, OnUncaptured, Secret, Size, SslMode, Wire};

use source::{Default, Key, Place, Section, Source, Times, Values};

/// A checked configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What all listeners speak.
    pub wire: Wire,
    /// Where clients connect; at least one.
    pub listen: Vec<Listen>,
    /// Where the data is when the migration begins.
    pub origin: Server,
    /// Where it is going.
    pub target: Server,
    /// The journal.
    pub journal: Journal,
    /// The mirror.
    pub mirror: Mirror,
    /// Tables that are called otherwise on the target, or of which only some rows move.
    pub tables: Vec<TableMap>,
    /// Copies of history.
    pub backfill: Backfill,
    /// Reads repeated on the secondary.
    pub shadow: Shadow,
    /// Who moved sessions log in as; names differ.
    pub users: Vec<User>,
    /// The switch.
    pub cutover: Cutover,
    /// The admin API.
    pub admin: Admin,
    /// Bounds.
    pub limits: Limits,
    /// Logs.
    pub log: Log,
    /// Threads.
    pub runtime: Runtime,
}

/// A listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Where.
    pub address: std::net::SocketAddr,
    /// TLS towards clients.
    pub tls: Option<ListenTls>,
}

/// TLS towards clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenTls {
    /// Certificate chain in PEM.
    pub cert: PathBuf,
    /// Private key in PEM.
    pub key: PathBuf,
    /// Who signs the certificates that clients must show; `None`: they show none.
    pub ca: Option<PathBuf>,
    /// Clients without TLS are refused.
    pub required: bool,
}

/// Who a moved session logs in as on the other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The same on both sides; not empty.
    pub name: String,
    /// Their password, if they need one.
    pub password: Option<Secret>,
}

/// The admin API's address and token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Loopback, or there is a token.
    pub address: std::net::SocketAddr,
    /// What clients must present.
    pub token: Option<Secret>,
}

impl Config {
    /// What is said of a side.
    pub fn server(&self, side: Side) -> &Server {
        match side {
            Side::Origin => &self.origin,
            Side::Target => &self.target,
        }
    }

    /// Read `path`, overlay the environment, check everything.
    pub fn load(path: &Path) -> Result<Config, Error> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Error::new(
                &Place::File(path.display().to_string()),
                format!("cannot be read: {error}; --config FILE names another"),
            )
        })?;
        // What is no text is not ours.
        let texts = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
        Config::from_text(&path.display().to_string(), &text, std::env::vars_os().filter_map(texts))
    }

    /// Check a file's text. `file` is what errors call it.
    pub fn from_text(
        file: &str,
        text: &str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Config, Error> {
        let shapes: Vec<_> = section::SHAPES.iter().map(|&(name, times, _, keys)| (name, times, keys)).collect();
        let source = Source::read(file, text, &shapes, variables)?;
        let (wire, listen) = listeners(&source)?;
        let config = Config {
            wire,
            listen,
            origin: Server::origin(wire, &source.one("origin"))?,
            target: Server::target(wire, &source.one("target"))?,
            journal: read(&source)?,
            mirror: mirror(&source.one("mirror"), wire)?,
            tables: tables(&source, wire)?,
            backfill: backfill(&source.one("backfill"))?,
            shadow: shadow(&source.one("shadow"))?,
            users: users(&source)?,
            cutover: cutover(&source.one("cutover"), wire)?,
            admin: admin(&source.one("admin"))?,
            limits: limits(&source.one("limits"), wire)?,
            log: read(&source)?,
            runtime: read(&source)?,
        };
        config.sides_differ(&source)?;
        Ok(config)
    }

    fn sides_differ(&self, source: &Source) -> Result<(), Error> {
        let same = self.origin.database == self.target.database
            && self.origin.hosts.iter().any(|host| self.target.hosts.contains(host));
        if same {
            let message = "[origin] and [target] are the same database: a migration needs two";
            return Err(Error::new(&source.one("target").place, message));
        }
        Ok(())
    }
}

fn read<S: Section>(source: &Source) -> Result<S, Error> {
    S::read(&source.one(S::NAME))
}

fn listeners(source: &Source) -> Result<(Wire, Vec<Listen>), Error> {
    let mut found: Option<Wire> = None;
    let mut listen = Vec::new();
    for values in source.many("listen") {
        let one = section::Listen::read(&values)?;
        if found.is_some_and(|wire| wire != one.wire) {
            return Err(Error::new(values.place("wire"), "all [[listen]] of one tandem speak the same wire"));
        }
        found = Some(one.wire);
        listen.push(Listen { address: one.address, tls: listen_tls(one, &values)? });
    }
    let missing = "no [[listen]]: where should clients connect?";
    Ok((found.ok_or_else(|| Error::new(&source.place(), missing))?, listen))
}

fn listen_tls(listen: section::Listen, values: &Values) -> Result<Option<ListenTls>, Error> {
    match (listen.tls_cert, listen.tls_key) {
        // A client without TLS would show no certificate either.
        (Some(cert), Some(key)) => {
            let required = listen.tls_required || listen.tls_ca.is_some();
            Ok(Some(ListenTls { cert, key, ca: listen.tls_ca, required }))
        }
        (None, None) if listen.tls_ca.is_some() => {
            Err(Error::new(values.place("tls_ca"), "tls_ca needs tls_cert and tls_key"))
        }
        (None, None) if listen.tls_required => {
            Err(Error::new(values.place("tls_required"), "tls_required needs tls_cert and tls_key"))
        }
        (None, None) => Ok(None),
        (Some(_), None) => Err(Error::new(values.place("tls_cert"), "tls_cert needs tls_key beside it")),
        (None, Some(_)) => Err(Error::new(values.place("tls_key"), "tls_key needs tls_cert beside it")),
    }
}

/// What the wire has no use for is refused, so that nobody believes in it.
fn of_postgres(values: &Values, wire: Wire, keys: &[&'static str]) -> Result<(), Error> {
    let Some(key) = values.written(keys).filter(|_| wire != Wire::Postgres) else { return Ok(()) };
    Err(Error::new(values.place(key), format!("`{key}` is for PostgreSQL: with {wire} it says nothing; remove it")))
}

fn mirror(values: &Values, wire: Wire) -> Result<Mirror, Error> {
    let mirror = Mirror::read(values)?;
    of_postgres(values, wire, &["keyless"])?;
    for (key, tables) in [("include", &mirror.include), ("exclude", &mirror.exclude)] {
        if !wire.has_table_maps() && !tables.is_empty() {
            let message = format!("`{key}` is for PostgreSQL: with {wire} all tables are mirrored");
            return Err(Error::new(values.place(key), message));
        }
    }
    if mirror.sync_timeout.is_zero() {
        return Err(Error::new(values.place("sync_timeout"), "`sync_timeout` must be above 0s"));
    }
    if mirror.owed_keys_max == 0 {
        return Err(Error::new(values.place("owed_keys_max"), "`owed_keys_max` must be at least 1"));
    }
    if mirror.retry_min.is_zero() || mirror.retry_min > mirror.retry_max {
        return Err(Error::new(values.place("retry_min"), "`retry_min` must be above 0s and at most `retry_max`"));
    }
    Ok(mirror)
}

/// What can be said of them without asking a server.
fn tables(source: &Source, wire: Wire) -> Result<Vec<TableMap>, Error> {
    let mut maps = Vec::<TableMap>::new();
    for values in source.many("tables") {
        let map = TableMap::read(&values)?;
        if !wire.has_table_maps() {
            let message =
                format!("[[tables]] is for PostgreSQL: with {wire} tables keep their names and all of their rows");
            return Err(Error::new(&values.place, message));
        }
        if let Some((key, message)) = nonsense(&map).or_else(|| clash(&map, &maps)) {
            return Err(Error::new(values.place(key), message));
        }
        maps.push(map);
    }
    Ok(maps)
}

/// What makes no sense about a table map by itself: its key, and why.
fn nonsense(map: &TableMap) -> Option<(&'static str, String)> {
    let qualified = |name: &str| {
        let parts = name.split_once('.').filter(|(schema, table)| !schema.is_empty() && !table.is_empty());
        parts.is_some() && name.matches('*').count() <= 1
    };
    if !qualified(&map.from) {
        return Some(("from", "`from` must be a table with its schema, with one `*` at most".to_owned()));
    }
    match &map.to {
        Some(to) if !qualified(to) || to.contains('*') != map.from.contains('*') => {
            return Some(("to", "`to` must be a table with its schema, and have a `*` if `from` has".to_owned()));
        }
        None if map.columns.0.is_empty() && map.filter.is_none() => {
            return Some(("from", "[[tables]] needs `to`, `columns` or `filter` beside `from`".to_owned()));
        }
        _ => (),
    }
    let twice = |(at, (_, to)): (usize, &(String, String))| map.columns.0[..at].iter().any(|(_, other)| other == to);
    let twice = map.columns.0.iter().enumerate().any(twice);
    twice.then(|| ("columns", "two of the `columns` have one name on the target".to_owned()))
}

/// What contradicts the table maps before it.
fn clash(map: &TableMap, maps: &[TableMap]) -> Option<(&'static str, String)> {
    if maps.iter().any(|other| other.from == map.from) {
        return Some(("from", format!("there are two [[tables]] from `{}`", map.from)));
    }
    let to = map.to.as_ref().filter(|to| maps.iter().any(|other| other.to.as_ref() == Some(to)))?;
    Some(("to", format!("there are two [[tables]] to `{to}`: rows of two tables cannot be told apart in one")))
}

fn backfill(values: &Values) -> Result<Backfill, Error> {
    let backfill = Backfill::read(values)?;
    if !(1..=64).contains(&backfill.workers) {
        return Err(Error::new(values.place("workers"), "`workers` of [backfill] must be between 1 and 64"));
    }
    if backfill.chunk_rows == 0 {
        return Err(Error::new(values.place("chunk_rows"), "`chunk_rows` must be at least 1"));
    }
    let hold = (Duration::from_millis(20)..=Duration::from_secs(1)).contains(&backfill.hold);
    if !hold {
        let message = "`hold` must be between 20ms and 1s: schema changes wait for it, and VACUUM";
        return Err(Error::new(values.place("hold"), message));
    }
    Ok(backfill)
}

fn shadow(values: &Values) -> Result<Shadow, Error> {
    let shadow = Shadow::read(values)?;
    if !(1..=64).contains(&shadow.workers) {
        return Err(Error::new(values.place("workers"), "`workers` of [shadow] must be between 1 and 64"));
    }
    let above_zero = [
        ("queue", shadow.queue == 0),
        ("queue_bytes", shadow.queue_bytes.0 == 0),
        ("max_answer", shadow.max_answer.0 == 0),
        ("wait", shadow.wait.is_zero()),
        ("timeout", shadow.timeout.is_zero()),
        ("recheck", shadow.recheck.is_zero()),
    ];
    match above_zero.into_iter().find(|(_, zero)| *zero) {
        Some((key, _)) => Err(Error::new(values.place(key), format!("`{key}` of [shadow] must be above 0"))),
        None => Ok(shadow),
    }
}

fn users(source: &Source) -> Result<Vec<User>, Error> {
    let mut users = Vec::<User>::new();
    for values in source.many("users") {
        let section::User { name, password_file } = section::User::read(&values)?;
        if name.is_empty() {
            return Err(Error::new(values.place("name"), "`name` of [[users]] must not be empty"));
        }
        if users.iter().any(|user| user.name == name) {
            let message = format!("there are two [[users]] with the name `{name}`: which password holds?");
            return Err(Error::new(values.place("name"), message));
        }
        let password = password_file.map(|path| secret(&path, values.place("password_file"))).transpose()?;
        users.push(User { name, password });
    }
    Ok(users)
}

/// Bounds of `max_hold`. Under the least, no transaction has time to end; over the most, applications and their pools have given up.
pub const MAX_HOLD: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));

fn cutover(values: &Values, wire: Wire) -> Result<Cutover, Error> {
    let cutover = Cutover::read(values)?;
    of_postgres(values, wire, &["immovable", "old_primary", "strangers", "type_oids"])?;
    if cutover.max_hold < MAX_HOLD.0 {
        let message = "`max_hold` must be at least 100ms: transactions must have time to end while clients are held";
        return Err(Error::new(values.place("max_hold"), message));
    }
    if cutover.max_hold > MAX_HOLD.1 {
        let message = "`max_hold` must be at most 60s: clients that are held longer give up by themselves";
        return Err(Error::new(values.place("max_hold"), message));
    }
    if cutover.max_lag.is_zero() {
        let message = "`max_lag` must be above 0s: a secondary is always a little behind";
        return Err(Error::new(values.place("max_lag"), message));
    }
    Ok(cutover)
}

fn limits(values: &Values, wire: Wire) -> Result<Limits, Error> {
    let limits = Limits::read(values)?;
    of_postgres(values, wire, &["statement_bytes"])?;
    let counts = [
        ("connections", limits.connections),
        ("plan_cache", limits.plan_cache),
        ("message_bytes", limits.message_bytes.bytes()),
        ("statement_bytes", limits.statement_bytes.bytes()),
        ("answer_timeout", limits.answer_timeout.as_millis() as usize),
    ];
    match counts.into_iter().find(|(_, count)| *count == 0) {
        Some((key, _)) => Err(Error::new(values.place(key), format!("`{key}` must be above 0"))),
        None => Ok(limits),
    }
}

fn admin(values: &Values) -> Result<Admin, Error> {
    let admin = section::Admin::read(values)?;
    let token = admin.token_file.as_deref().map(|path| secret(path, values.place("token_file"))).transpose()?;
    if token.is_none() && !admin.address.ip().is_loopback() {
        let message = "the admin API outside loopback needs `token_file`, a file that holds the bearer token";
        return Err(Error::new(values.place("address"), message));
    }
    Ok(Admin { address: admin.address, token })
}

/// A secret from a file, without the line end that editors leave.
fn secret(path: &Path, place: &Place) -> Result<Secret, Error> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::new(place, format!("{} cannot be read: {error}", path.display())))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(Error::new(place, format!("{} is empty", path.display()))),
        text => Ok(Secret::new(text)),
    }
}

/// The text of `proxy.toml.example`: every key with its default, commented out where the smallest file needs none.
pub fn example() -> String {
    let mut out = String::from(
        "# Every key of proxy.toml with what it does and its default. The smallest file is what is not commented out.\n\
         # Each key can be overridden by an environment variable TANDEM_SECTION_KEY: TANDEM_JOURNAL_DIR=/var/lib/tandem.\n\
         # Durations are \"300ms\", \"5s\", \"10m\", \"1h\"; sizes are \"64MB\"; \"\" means not set.\n",
    );
    for (name, times, about, keys) in section::SHAPES {
        // The smallest file has none of these.
        let off = if *times == Times::Any { "#" } else { "" };
        out.push('\n');
        comment(&mut out, about);
        let _ = writeln!(out, "{off}{}", times.header(name));
        for key in *keys {
            comment(&mut out, key.doc);
            let line = example_line(key);
            let _ = writeln!(out, "{}{line}", if line.starts_with('#') { "" } else { off });
        }
    }
    out
}

fn comment(out: &mut String, lines: &[&str]) {
    for line in lines {
        let _ = writeln!(out, "#{line}");
    }
}

fn example_line(key: &Key) -> String {
    let name = key.name;
    let literal = |text: &str| match (key.list, key.bare) {
        _ if key.table && text.is_empty() => "{}".to_owned(),
        _ if key.table => format!("{{ {text} }}"),
        (true, _) if text.is_empty() => "[]".to_owned(),
        (true, _) => format!("[\"{text}\"]"),
        (false, true) => text.to_owned(),
        (false, false) => format!("\"{text}\""),
    };
    match key.default {
        Default::Is(text) => format!("#{name} = {}", literal(text)),
        Default::Required(text) => format!("{name} = {}", literal(text)),
        Default::Unset(text) if name == "url" => format!("{name} = {}", literal(text)),
        Default::Unset(text) => format!("#{name} = {} # such as {}", literal(""), literal(text)),
    }
}

#[cfg(test)]
mod tests;
