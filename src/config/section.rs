//! The sections of `proxy.toml`: every key with its documentation and default, declared once. The structs, the reader
//! and the example file all come from these declarations.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::source::{Default::*, Error, Key, Section, Times, Values};
use super::value::*;

/// Declares sections.
macro_rules! sections {
    ($(
        $(#[doc = $about:literal])*
        $times:ident $name:literal $section:ident {
            $($(#[doc = $doc:literal])* $key:ident: $type:ty = $default:expr;)+
        }
    )+) => {
        $(
            $(#[doc = $about])*
            #[derive(Clone, Debug, PartialEq, Eq)]
            pub struct $section { $($(#[doc = $doc])* pub $key: $type,)+ }

            impl Section for $section {
                const NAME: &'static str = $name;
                const TIMES: Times = times!($times);
                const DOC: &'static [&'static str] = &[$($about),*];
                const KEYS: &'static [Key] = &[$(Key {
                    name: stringify!($key),
                    doc: &[$($doc),*],
                    default: $default,
                    bare: <$type as Setting>::BARE,
                    list: <$type as Setting>::LIST,
                    table: <$type as Setting>::TABLE,
                }),+];

                fn read(values: &Values) -> Result<Self, Error> {
                    let mut keys = Self::KEYS.iter();
                    Ok($section { $($key: values.get(keys.next().expect("one for each field, in order"))?),+ })
                }
            }
        )+

        /// Every section, in the order of the example file.
        pub(super) const SHAPES: &[(&str, Times, &[&str], &[Key])] =
            &[$(($name, $section::TIMES, $section::DOC, $section::KEYS)),+];
    };
}

/// How often a section may be written.
macro_rules! times {
    (one) => {
        Times::One
    };
    (many) => {
        Times::Many
    };
    (any) => {
        Times::Any
    };
}

sections! {
    /// Where clients connect. There may be several.
    many "listen" Listen {
        /// What clients speak: postgres or cql.
        wire: Wire = Required("postgres");
        /// IP address and port.
        address: SocketAddr = Required("127.0.0.1:6432");
        /// Certificate chain in PEM that is shown to clients; with tls_key it turns TLS on.
        tls_cert: Option<PathBuf> = Unset("/etc/tandem/server.crt");
        /// The certificate's private key in PEM.
        tls_key: Option<PathBuf> = Unset("/etc/tandem/server.key");
        /// Certificates in PEM: every client must show one that one of these signed. Unset, clients show none.
        tls_ca: Option<PathBuf> = Unset("/etc/tandem/clients-ca.crt");
        /// Refuse clients that do not ask for TLS.
        tls_required: bool = Is("false");
    }

    /// Where the data is when the migration begins.
    one "origin" Origin {
        /// All at once: "postgres://user@host:port/database?sslmode=verify-full", "cql://user@host:port". What is set below
        /// goes before it.
        url: Option<String> = Unset("postgres://tandem@127.0.0.1:5432/app");
        /// The members of the cluster; the one that takes writes is found. CQL: some of them, the others are found.
        hosts: Vec<Host> = Unset("db1:5432");
        /// The database that is mirrored. CQL has none: all keyspaces are.
        database: Option<String> = Unset("app");
        /// Who tandem itself logs in as; clients log in as themselves. CQL: unset where nobody logs in.
        user: Option<String> = Unset("tandem");
        /// A file that holds that user's password.
        password_file: Option<PathBuf> = Unset("/etc/tandem/origin.password");
        /// TLS as libpq understands it: disable, allow, prefer, require, verify-ca, verify-full ("" is prefer; with CQL,
        /// where a port has TLS or has not, disable).
        sslmode: Option<SslMode> = Unset("verify-full");
        /// Certificates in PEM that are trusted; unset, those of the system.
        tls_ca: Option<PathBuf> = Unset("/etc/tandem/origin-ca.crt");
        /// Certificate chain in PEM that tandem shows to it, for its own connections and its clients'; with tls_key.
        tls_cert: Option<PathBuf> = Unset("/etc/tandem/tandem.crt");
        /// That certificate's private key in PEM.
        tls_key: Option<PathBuf> = Unset("/etc/tandem/tandem.key");
        /// CQL: connect to this datacenter only; unset, that of the first host that answers.
        datacenter: Option<String> = Unset("dc1");
    }

    /// Where the data is going.
    one "target" Target {
        /// As of the origin.
        url: Option<String> = Unset("postgres://tandem@127.0.0.1:5433/app");
        /// As of the origin.
        hosts: Vec<Host> = Unset("db2:5432");
        /// As of the origin.
        database: Option<String> = Unset("app");
        /// As of the origin.
        user: Option<String> = Unset("tandem");
        /// As of the origin.
        password_file: Option<PathBuf> = Unset("/etc/tandem/target.password");
        /// As of the origin.
        sslmode: Option<SslMode> = Unset("verify-full");
        /// As of the origin.
        tls_ca: Option<PathBuf> = Unset("/etc/tandem/target-ca.crt");
        /// As of the origin.
        tls_cert: Option<PathBuf> = Unset("/etc/tandem/tandem.crt");
        /// As of the origin.
        tls_key: Option<PathBuf> = Unset("/etc/tandem/tandem.key");
        /// As of the origin.
        datacenter: Option<String> = Unset("dc1");
    }

    /// The durable log between the primary's answer and the secondary.
    one "journal" Journal {
        /// Its folder; one tandem at a time owns it. Give a full path: a relative one counts from where tandem is started.
        /// It says which side answers: with another or an empty one after a switch, clients are sent to the origin.
        dir: PathBuf = Is("tandem-data");
        /// When a record counts as durable, so that its write may be acknowledged: memory, os or fsync.
        durability: Durability = Is("fsync");
        /// Most disk space it takes.
        size_limit: Size = Is("4GB");
        /// What happens when that is used up: block (clients wait) or dirty (tables written become dirty). Where only the end of
        /// an open transaction can make room, PostgreSQL's clients wait for half a second, then it is dirty.
        on_full: OnFull = Is("dirty");
    }

    /// Mirroring of writes to the secondary.
    one "mirror" Mirror {
        /// off, async, or, for Cassandra, sync: a write is answered when the secondary has it too, and with a timeout when it
        /// has not. It is mirrored all the same.
        mode: Mode = Is("async");
        /// How long an answer waits for the secondary, if it does.
        sync_timeout: Duration = Is("2s");
        /// A write whose keys cannot be learned: dirty (it runs, its tables become dirty) or refuse.
        on_uncaptured: OnUncaptured = Is("dirty");
        /// Only these tables are mirrored, copied and compared, with their schema; `*` stands for any letters. All others stay
        /// where they are at a switch. PostgreSQL only; a partition goes by its root's name.
        include: Vec<String> = Unset("app.*");
        /// Nor these of them.
        exclude: Vec<String> = Unset("audit.*");
        /// PostgreSQL: a table without a key: refuse (it is not mirrored, and named before a switch), or copy (all its rows, at most
        /// every 30 s while it is written, and once more while clients are held at a switch: for small tables).
        keyless: Keyless = Is("refuse");
        /// A schema change: mirror, refuse, or note (it runs on the primary only, and its table is dirty; one of no table, such
        /// as DROP KEYSPACE or CREATE FUNCTION, leaves nothing but a line of the log).
        ddl: OnDdl = Is("mirror");
        /// TRUNCATE: mirror, refuse or note.
        truncate: OnDdl = Is("mirror");
        /// Most keys held in memory as owed; past it the journal waits on disk.
        owed_keys_max: usize = Is("1000000");
        /// First pause after a side failed; it doubles, with jitter.
        retry_min: Duration = Is("100ms");
        /// Longest pause.
        retry_max: Duration = Is("10s");
        /// How long paid keys are remembered, to be paid again after a failover that lost acknowledged writes.
        retention: Duration = Is("10m");
        /// Make dirty tables equal again without being asked: PostgreSQL's are copied again, those over 256 MiB compared and
        /// mended; Cassandra's compared and mended, if their history was copied or compared before.
        self_repair: bool = Is("true");
        /// Longest pause between two payments; tandem pauses for as long as the last one took, so that it gathers more
        /// when it is behind.
        pause_max: Duration = Is("300ms");
    }

    /// Tables that are called otherwise on the target, or of which only some rows move. PostgreSQL only. A switch names them:
    /// clients go on with the origin's names, and there is no way back for rows that stayed behind.
    any "tables" TableMap {
        /// The origin's table, with its schema; one `*` stands for any letters, as in "old.*". What names a table goes before
        /// what fits it, and of those the first. A partition goes by its root's name.
        from: String = Required("public.users");
        /// The target's name for it, where `*` is what it stood for; unset, the same.
        to: Option<String> = Unset("app.accounts");
        /// Columns that are called otherwise on the target.
        columns: Renames = Unset("mail = \"email\"");
        /// Only rows for which this holds are on the target: an expression over the row's own columns, as in a partial index
        /// (immutable, no subqueries; names of other schemas than pg_catalog are qualified).
        filter: Option<String> = Unset("tenant_id = 7");
    }

    /// Rows that were there before the mirror: `tandem backfill`, `verify` and `repair`.
    one "backfill" Backfill {
        /// Connections to each side that copy and compare at once.
        workers: usize = Is("2");
        /// Most rows of one chunk, about.
        chunk_rows: usize = Is("50000");
        /// How long one state of the primary is held for chunks: it keeps VACUUM from what changed since.
        hold: Duration = Is("300ms");
        /// Most bytes copied a second; 0 is as many as go.
        rate: Size = Is("0");
        /// While the mirror is further behind, nothing is copied.
        max_lag: Duration = Is("5s");
        /// PostgreSQL: a side that takes longer over a trivial statement is left to its clients for ten times as long.
        max_latency: Duration = Is("500ms");
        /// Make the tables that the target lacks, with their types and sequences (Cassandra: keyspaces), before the copy, and
        /// their indexes and foreign keys (Cassandra: materialized views) behind it; false: they are named.
        provision: bool = Is("false");
        /// Cassandra: how keyspaces that are made are replicated. Unset, as on the origin; where each side has one
        /// datacenter, the target's stands for the origin's, and otherwise names that the target lacks are an error.
        replication: Option<String> = Unset("{'class': 'NetworkTopologyStrategy', 'dc1': 3}");
    }

    /// Shadow reads: a share of the clients' reads is repeated on the secondary, and its answers and times are compared. No
    /// client waits for it. The keys marked live can be changed while tandem runs: tandem set shadow.sample=1%.
    one "shadow" Shadow {
        /// The share of reads that is repeated: "1%", "0.01"; 0 is none. Live.
        sample: Share = Is("0");
        /// Only reads of these tables, with their schema or keyspace; `*` stands for any letters. Live.
        tables: Patterns = Unset("public.orders*");
        /// Only reads of these users. Live.
        users: Patterns = Unset("app");
        /// Only reads of clients with these addresses. Live.
        clients: Patterns = Unset("10.0.*");
        /// Only statements of this kind (text, prepared), or whose text without values is like this. Live.
        statements: Patterns = Unset("*from orders*");
        /// Columns that are not compared, as table.column. Live.
        ignore: Patterns = Unset("public.users.last_seen");
        /// Reads that are repeated at once.
        workers: usize = Is("4");
        /// Reads that wait to be compared, at most; past it reads are skipped, and counted.
        queue: usize = Is("1000");
        /// Memory for their answers, at most.
        queue_bytes: Size = Is("64MB");
        /// Reads with larger answers are skipped.
        max_answer: Size = Is("1MB");
        /// How long a read waits until the secondary has what it saw; then it is skipped.
        wait: Duration = Is("10s");
        /// How long the secondary may take over a read that is repeated.
        timeout: Duration = Is("5s");
        /// Where a difference cannot be decided at once: how long it must last to be believed.
        recheck: Duration = Is("3s");
        /// PostgreSQL: reads that the secondary's planner expects to cost more are skipped; 0 is no bound.
        max_cost: usize = Is("1000000");
        /// CQL: the consistency of repeated reads; unset, the client's own.
        consistency: Option<Consistency> = Unset("local_quorum");
        /// CQL: of an answer of several pages, compare the first or all.
        pages: Pages = Is("first");
    }

    /// Who a client's session logs in as on the other side when a switch moves it there: tandem has seen no client's
    /// password. One for each user of the applications; `tandem switch --dry-run` names those that are missing.
    /// CQL: who logs in by name and password is known by them, and needs none of these unless they differ on the other side
    /// (who comes after the switch must say what that side knows); clients of an origin where nobody logs in are "anonymous"
    /// on a target that asks.
    any "users" User {
        /// The user's name, the same on both sides.
        name: String = Required("app");
        /// A file that holds the user's password; unset, the servers must let tandem in without one.
        password_file: Option<PathBuf> = Unset("/etc/tandem/app.password");
    }

    /// The switch: `tandem switch target`, and back.
    one "cutover" Cutover {
        /// A switch is refused while the secondary is further behind.
        max_lag: Duration = Is("1s");
        /// Clients are held no longer: past it the switch ends by itself, and they go on as before.
        max_hold: Duration = Is("5s");
        /// PostgreSQL: a session that cannot be moved (temporary tables, held cursors, session advisory locks, ..): refuse (the
        /// switch names it), wait (for up to a minute before clients are held, then refuse) or close (between two
        /// transactions, with an error that pools understand).
        immovable: Immovable = Is("refuse");
        /// PostgreSQL: after a switch the old primary takes no writes past tandem (read_only), or they are only noticed (watch).
        old_primary: OldPrimary = Is("read_only");
        /// PostgreSQL: transactions on the old primary that are not tandem's: wait for their end, or terminate them.
        strangers: Strangers = Is("wait");
        /// PostgreSQL: sessions that used a type whose oid is another on the other side: close (drivers remember oids) or keep.
        type_oids: TypeOids = Is("close");
    }

    /// The HTTP API: health, metrics, status, operations.
    one "admin" Admin {
        /// IP address and port; any other than loopback needs token_file.
        address: SocketAddr = Is("127.0.0.1:6480");
        /// A file that holds the bearer token.
        token_file: Option<PathBuf> = Unset("/etc/tandem/admin.token");
    }

    /// Bounds. Everything from outside has one.
    one "limits" Limits {
        /// Clients at once; fewer where the limit of open files (ulimit -n) leaves room for fewer: each takes two, and a third amid a switch.
        connections: usize = Is("10000");
        /// Largest message from a client or a server; larger ones end the connection. PostgreSQL's own limit is 1GB.
        message_bytes: Size = Is("1GB");
        /// PostgreSQL: longest statement that is analysed; longer ones are treated as writes whose keys are not known.
        statement_bytes: Size = Is("4MB");
        /// Statement shapes kept analysed.
        plan_cache: usize = Is("10000");
        /// Longest time for each step of a client's login.
        login_timeout: Duration = Is("60s");
        /// Longest time to reach a server.
        connect_timeout: Duration = Is("10s");
        /// CQL: longest time for a server's answer to a request; past it the client is told that the request timed out. Keep
        /// it above the servers' own longest timeout (truncate_request_timeout, 60s), whose words say more.
        answer_timeout: Duration = Is("75s");
        /// Longest time given to open transactions when tandem is told to stop.
        drain_timeout: Duration = Is("30s");
    }

    /// Logs go to standard error.
    one "log" Log {
        /// text or json.
        format: LogFormat = Is("text");
        /// error, warn, info, debug or trace; also by module: "info,tandem::mirror=debug".
        level: String = Is("info");
    }

    /// Threads.
    one "runtime" Runtime {
        /// Threads that serve clients; 0: one for each two processors.
        workers: usize = Is("0");
    }
}
