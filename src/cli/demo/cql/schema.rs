//! The demo's tables: one that has rows before tandem comes, as in the exercises of DataStax' proxy; rows that end by
//! themselves, counters, collections and types of users, conditional writes, and one that is truncated.

use crate::protocol::cql::client::{Client, Member, MemberText};
use crate::protocol::cql::wire::request::{BatchKind, Parameters, Values};
use crate::protocol::cql::wire::value::Datum;

use super::super::Failure;
use super::line::{self, LEVEL, bound};

/// Where all tables are.
pub(super) const KEYSPACE: &str = "zdmapp";

/// A table's columns, as a comparison must know them.
pub(super) struct Columns {
    pub(super) table: &'static str,
    pub(super) key: &'static [&'static str],
    /// Each has a time of writing and of ending that both versions tell.
    pub(super) timed: &'static [&'static str],
    /// Counters, and collections whose elements have times of their own.
    pub(super) untimed: &'static [&'static str],
}

/// Every table.
pub(super) const TABLES: &[Columns] = &[
    Columns { table: "user_status", key: &["user", "at"], timed: &["status", "version"], untimed: &[] },
    Columns { table: "notes", key: &["name"], timed: &["version", "body", "id", "at"], untimed: &[] },
    Columns { table: "sessions", key: &["id"], timed: &["version", "agent"], untimed: &[] },
    Columns { table: "clicks", key: &["page", "day"], timed: &[], untimed: &["n", "m"] },
    Columns {
        table: "profiles",
        key: &["id"],
        timed: &["version", "work", "pair"],
        untimed: &["tags", "attrs", "trail", "home"],
    },
    Columns { table: "accounts", key: &["id"], timed: &["version", "owner"], untimed: &[] },
    Columns { table: "scratch", key: &["id"], timed: &["version"], untimed: &[] },
];

const DDL: &[&str] = &[
    "CREATE KEYSPACE zdmapp WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
    "CREATE TYPE zdmapp.address (street text, zip int)",
    "CREATE TABLE zdmapp.user_status (user text, at timestamp, status text, version bigint, PRIMARY KEY (user, at))
     WITH CLUSTERING ORDER BY (at DESC)",
    "CREATE TABLE zdmapp.notes (name text PRIMARY KEY, version bigint, body text, id uuid, at timeuuid)",
    "CREATE TABLE zdmapp.sessions (id uuid PRIMARY KEY, version bigint, agent text) WITH default_time_to_live = 3600",
    "CREATE TABLE zdmapp.clicks (page text, day int, n counter, m counter, PRIMARY KEY (page, day))",
    "CREATE TABLE zdmapp.profiles (
       id text PRIMARY KEY, version bigint, tags set<text>, attrs map<text, int>, trail list<bigint>, home address,
       work frozen<address>, pair tuple<int, text>)",
    "CREATE TABLE zdmapp.accounts (id text PRIMARY KEY, version bigint, owner int)",
    "CREATE TABLE zdmapp.scratch (id int PRIMARY KEY, version bigint)",
    "CREATE TABLE zdmapp.lexicon (word text PRIMARY KEY, means text)",
];

/// A row that nobody writes, in a table whose times of writing are not compared: what is planted has a newer one.
const WORD: &str = "INSERT INTO zdmapp.lexicon (word, means) VALUES ('tandem', 'one behind the other')";
/// A change to it, past tandem.
pub(super) const PLANT: &str = "INSERT INTO zdmapp.lexicon (word, means) VALUES ('tandem', 'planted')";
/// That row.
pub(super) const LOOK: &str = "SELECT word, means FROM zdmapp.lexicon WHERE word = 'tandem'";

/// Where clients write what their ledgers know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::cli::demo) enum Table {
    Notes,
    Sessions,
    Profiles,
    Accounts,
    Scratch,
    /// An element of a list that all clients append to; its key is that of the list, a slash and the element.
    Trails,
    /// A counter; its key is the page, a slash and the column.
    Clicks,
    /// The version of a row that all clients compete for.
    Contests,
}

impl Table {
    /// Those with rows that belong to one client each.
    pub(super) const OWNED: [Table; 5] =
        [Table::Notes, Table::Sessions, Table::Profiles, Table::Accounts, Table::Scratch];

    /// Its name, and that of its key.
    pub(super) fn names(self) -> (&'static str, &'static str) {
        match self {
            Table::Notes => ("notes", "name"),
            Table::Sessions => ("sessions", "id"),
            Table::Profiles | Table::Trails => ("profiles", "id"),
            Table::Accounts | Table::Contests => ("accounts", "id"),
            Table::Scratch => ("scratch", "id"),
            Table::Clicks => ("clicks", "page"),
        }
    }

    /// A key as the ledger writes it.
    pub(super) fn key(self, text: &str) -> Datum {
        match self {
            Table::Sessions => Datum::Uuid(line::uuid(text)),
            Table::Scratch => Datum::Int(text.parse().unwrap_or_default()),
            _ => Datum::Varchar(text.to_owned()),
        }
    }
}

/// Users with rows from before.
const USERS: u64 = 200;
/// Rows of each.
const STATES: u64 = 50;
/// When the first row was written, in microseconds: 2025-01-01.
const SINCE: i64 = 1_735_689_600_000_000;

/// Make the tables, without a row.
pub(super) async fn create(client: &Client) -> Result<(), Failure> {
    for text in DDL {
        run(client, text).await?;
    }
    Ok(())
}

/// One statement, whose answer says only whether it was done.
pub(super) async fn run(client: &Client, text: &str) -> Result<(), Failure> {
    let done = client.query(text, &Parameters::new(LEVEL)).await;
    done.map(drop).map_err(|error| Failure::Unreachable(format!("{error}: {text}")))
}

/// What was there before the migration began: a batch for each user, with a timestamp of its own.
pub(super) async fn fill(client: &Client) -> Result<(), Failure> {
    run(client, WORD).await?;
    let text = "INSERT INTO zdmapp.user_status (user, at, status, version) VALUES (?, ?, ?, ?)";
    let insert = client.prepare(text, None).await?;
    for user in 0..USERS {
        let rows: Vec<_> = (0..STATES).map(|n| line::bytes(&state(user, n))).collect::<Result<_, _>>()?;
        let bounds: Vec<_> = rows.iter().map(|row| bound(row)).collect();
        let member = |values| Member { text: MemberText::Prepared(&insert), values: Values::Given(values) };
        let members: Vec<_> = bounds.iter().map(|values| member(values.as_slice())).collect();
        let stamp = SINCE + i64::try_from(user).unwrap_or(0);
        let parameters = Parameters { timestamp: Some(stamp), ..Parameters::new(LEVEL) };
        client.batch(BatchKind::Unlogged, &members, &parameters).await?;
    }
    Ok(())
}

fn state(user: u64, n: u64) -> [Datum; 4] {
    let at = SINCE / 1_000 + i64::try_from(n).unwrap_or(0) * 60_000;
    let status = ["online", "away", "busy"][(n % 3) as usize];
    [Datum::Varchar(format!("user {user}")), Datum::Timestamp(at), Datum::Varchar(status.to_owned()), line::version(n)]
}

/// How many rows there are, in all tables.
pub(super) async fn count(client: &Client) -> Result<u64, Failure> {
    let mut rows = 0;
    for columns in TABLES {
        let text = format!("SELECT count(*) FROM zdmapp.{}", columns.table);
        let answer = client.query(&text, &Parameters::new(LEVEL)).await?;
        let count = answer.row()?.and_then(|row| line::bigint(row.get(0)?));
        rows += count.and_then(|count| u64::try_from(count).ok()).unwrap_or(0);
    }
    Ok(rows)
}
