"""The journey with cassandra-driver: every type, batches, conditions, pages, a changing schema, traces."""

import datetime
import decimal
import json
import os
import ssl
import sys
import uuid
from collections import namedtuple

from cassandra import AlreadyExists, ConsistencyLevel, InvalidRequest, Unavailable
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, NoHostAvailable
from cassandra.concurrent import execute_concurrent_with_args
from cassandra.policies import DCAwareRoundRobinPolicy, TokenAwarePolicy
from cassandra.protocol import SyntaxException
from cassandra.query import UNSET_VALUE, BatchStatement, BatchType, SimpleStatement
from cassandra.util import Date, Duration, OrderedMapSerializedKey, SortedSet, Time

VERSION = int(os.environ["CQL_VERSION"])
KEYSPACE = os.environ["CQL_KEYSPACE"]
ROWS = 10_000

Address = namedtuple("Address", "street no")

# A type, the least version of the protocol that has it, and a value.
TYPES = [
    ("ascii", 3, "plain"),
    ("bigint", 3, -(2**63)),
    ("blob", 3, bytes(range(256))),
    ("boolean", 3, True),
    ("decimal", 3, decimal.Decimal("-12345678901234567890.123456789")),
    ("double", 3, -0.1),
    ("float", 3, 1.5),
    ("inet", 3, "2001:db8::1"),
    ("int", 3, -1),
    ("text", 3, "naïve \U0001f418 'quote' \\ back"),
    ("timestamp", 3, datetime.datetime(2024, 2, 29, 23, 59, 59, 123000)),
    ("timeuuid", 3, uuid.UUID("01234567-89ab-11ee-8123-456789abcdef")),
    ("uuid", 3, uuid.UUID("01234567-89ab-41ee-8123-456789abcdef")),
    ("varint", 3, -(2**100)),
    ("date", 4, Date("2024-02-29")),
    ("time", 4, Time("23:59:59.123456789")),
    ("smallint", 4, -(2**15)),
    ("tinyint", 4, -(2**7)),
    ("duration", 5, Duration(14, 3, 1_000_000_007)),
    ("list<int>", 3, [2, 1, 2]),
    ("set<text>", 3, {"b", "a"}),
    ("map<text, bigint>", 3, {"b": 2, "a": 1}),
    ("frozen<list<frozen<map<text, frozen<set<int>>>>>>", 3, [{"x": {3, 1}}, {}]),
    ("tuple<int, text, boolean>", 3, (7, None, True)),
    ("frozen<address>", 3, Address("Main", 5)),
    ("address", 3, Address("Side", None)),
    ("list<frozen<address>>", 3, [Address("A", 1), Address("B", 2)]),
]
if os.environ.get("CQL_VECTOR"):
    TYPES.append(("vector<float, 3>", 4, [1.0, -2.5, 0.0]))


def plain(value):
    """As it is printed: sets sorted, names kept."""
    if isinstance(value, (set, frozenset, SortedSet)):
        return sorted(map(plain, value))
    if isinstance(value, (dict, OrderedMapSerializedKey)):
        return {str(key): plain(one) for key, one in sorted(value.items())}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, (bytes, bytearray)):
        return value.hex()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return f"{type(value).__name__} {value}"


def say(step, *seen):
    print(json.dumps([step, *map(plain, seen)]), flush=True)


def turn():
    """Wait for whoever does something to the cluster now."""
    if os.environ.get("CQL_TURNS"):
        print("turn", flush=True)
        sys.stdin.readline()


def connect():
    options = {}
    if os.environ.get("CQL_USER"):
        options["auth_provider"] = PlainTextAuthProvider(os.environ["CQL_USER"], os.environ["CQL_PASSWORD"])
    if os.environ.get("CQL_CA"):
        options["ssl_context"] = ssl.create_default_context(cafile=os.environ["CQL_CA"])
        options["ssl_options"] = {"server_hostname": "localhost"}
    policy = TokenAwarePolicy(DCAwareRoundRobinPolicy("datacenter1"))
    profile = ExecutionProfile(policy, consistency_level=ConsistencyLevel.LOCAL_QUORUM, request_timeout=30)
    return Cluster(
        [os.environ["CQL_HOST"]],
        port=int(os.environ["CQL_PORT"]),
        protocol_version=VERSION,
        compression=os.environ.get("CQL_COMPRESSION") or False,
        execution_profiles={EXEC_PROFILE_DEFAULT: profile},
        connect_timeout=20,
        **options,
    )


def discover(cluster, session):
    hosts = cluster.metadata.all_hosts()
    say("discovered", cluster.protocol_version, cluster.metadata.cluster_name, cluster.metadata.partitioner)
    say("hosts", [[host.datacenter, host.rack, host.is_up] for host in hosts])
    say("replicas", len(cluster.metadata.get_replicas(KEYSPACE, b"key")))
    local = session.execute("SELECT key, bootstrapped FROM system.local WHERE key = %s", ("local",)).one()
    say("system.local", local.key, local.bootstrapped)


def schema(cluster, session):
    session.execute("CREATE TYPE address (street text, no int)")
    cluster.register_user_type(KEYSPACE, "address", Address)
    columns = ", ".join(f"c{n} {kind}" for n, (kind, least, _) in enumerate(TYPES) if VERSION >= least)
    session.execute(f"CREATE TABLE typed (k int PRIMARY KEY, {columns})")
    session.execute("CREATE TABLE item (k int, c int, v text, s text STATIC, PRIMARY KEY (k, c))")
    session.execute("CREATE INDEX by_v ON item (v)")  # Used later: nodes build it on their own.
    session.execute("CREATE TABLE visits (page text PRIMARY KEY, hits counter)")
    session.execute("CREATE TABLE bulk (k int, c int, v text, PRIMARY KEY (k, c)) WITH CLUSTERING ORDER BY (c DESC)")
    tables = cluster.metadata.keyspaces[KEYSPACE].tables
    say("tables", sorted(tables), list(tables["item"].columns), list(cluster.metadata.keyspaces[KEYSPACE].user_types))


def types(session):
    known = [(f"c{n}", value) for n, (_, least, value) in enumerate(TYPES) if VERSION >= least]
    names, values = ", ".join(name for name, _ in known), [value for _, value in known]
    insert = session.prepare(f"INSERT INTO typed (k, {names}) VALUES ({', '.join('?' * (len(known) + 1))})")
    session.execute(insert, [1, *values])
    session.execute(insert, [2, *[None] * len(values)])
    if VERSION >= 4:
        session.execute(insert, [3, *[UNSET_VALUE] * (len(values) - 1), values[-1]])
    rows = {row.k: row._asdict() for row in session.execute("SELECT * FROM typed")}
    for name, _ in known:
        say("types", TYPES[int(name[1:])][0], *[rows[k][name] for k in sorted(rows)])
    select = session.prepare("SELECT * FROM typed WHERE k = ?")
    say("prepared", [len(session.execute(select, [k]).one()) for k in (1, 2)])
    say("nothing", session.execute(select, [9]).one())
    simple = [n for n, (kind, least, _) in enumerate(TYPES) if VERSION >= least and kind in ("int", "text", "blob", "list<int>")]
    literal = f"INSERT INTO typed (k, {', '.join(f'c{n}' for n in simple)}) VALUES (%s, {', '.join(['%s'] * len(simple))})"
    session.execute(literal, [4, *[TYPES[n][2] for n in simple]])
    row = session.execute("SELECT * FROM typed WHERE k = 4").one()._asdict()
    say("literals", [row[f"c{n}"] for n in simple])


def writes(session):
    session.execute("INSERT INTO item (k, c, v, s) VALUES (1, 1, 'one', 'static') USING TIMESTAMP 1000 AND TTL 86400")
    statement = SimpleStatement("UPDATE item SET v = 'lost' WHERE k = 1 AND c = 1")
    session.execute("UPDATE item USING TIMESTAMP 500 SET v = 'lost' WHERE k = 1 AND c = 1")
    say("timestamps", session.execute("SELECT v, writetime(v) AS at, s FROM item WHERE k = 1").one())
    session.execute(statement)
    say("last", session.execute("SELECT v FROM item WHERE k = 1").one())
    session.execute("DELETE v FROM item WHERE k = 1 AND c = 1")
    say("deleted cell", session.execute("SELECT c, v FROM item WHERE k = 1").all())
    session.execute("DELETE FROM item WHERE k = 1 AND c > 0")
    say("deleted range", session.execute("SELECT c, v, s FROM item WHERE k = 1").all())
    say("functions", len(session.execute("SELECT now(), uuid() FROM system.local").one()))


def counters(session):
    add = session.prepare("UPDATE visits SET hits = hits + ? WHERE page = ?")
    for amount in (5, -2, 10):
        session.execute(add, [amount, "home"])
    batch = BatchStatement(BatchType.COUNTER)
    for page in ("home", "away"):
        batch.add(add, [1, page])
    session.execute(batch)
    say("counters", sorted(session.execute("SELECT page, hits FROM visits")))


def conditions(session):
    insert = session.prepare("INSERT INTO item (k, c, v) VALUES (?, ?, ?) IF NOT EXISTS")
    say("if not exists", [session.execute(insert, [2, 1, "new"]).one() for _ in range(2)])
    update = session.prepare("UPDATE item SET v = ? WHERE k = 2 AND c = 1 IF v = ?")
    say("if", [session.execute(update, ["newer", old]).was_applied for old in ("wrong", "new", "new")])
    statement = SimpleStatement("DELETE FROM item WHERE k = 2 AND c = 1 IF EXISTS", serial_consistency_level=ConsistencyLevel.LOCAL_SERIAL)
    say("if exists", [session.execute(statement).was_applied for _ in range(2)])
    batch = BatchStatement()
    batch.add("INSERT INTO item (k, c, v) VALUES (2, 5, 'a') IF NOT EXISTS")
    batch.add("INSERT INTO item (k, c, v) VALUES (2, 6, 'b')")
    say("conditional batch", session.execute(batch).was_applied, sorted(session.execute("SELECT c, v FROM item WHERE k = 2")))
    read = SimpleStatement("SELECT v FROM item WHERE k = 2", consistency_level=ConsistencyLevel.SERIAL)
    say("serial read", session.execute(read).all())


def batches(session):
    insert = session.prepare("INSERT INTO item (k, c, v) VALUES (?, ?, ?)")
    for kind in (BatchType.LOGGED, BatchType.UNLOGGED):
        batch = BatchStatement(kind)
        for key in range(3):
            batch.add(insert, [30 + kind.value, key, f"batch {key}"])
        batch.add("INSERT INTO item (k, c, v) VALUES (%s, %s, %s)", [30 + kind.value, 9, "text"])
        batch.add(SimpleStatement(f"DELETE FROM item WHERE k = {30 + kind.value} AND c = 1"))
        session.execute(batch)
        say("batch", kind.value, sorted(session.execute("SELECT c, v FROM item WHERE k = %s", [30 + kind.value])))
    text = "BEGIN BATCH INSERT INTO item (k, c, v) VALUES (34, 1, 'x'); UPDATE item SET s = 'y' WHERE k = 34; APPLY BATCH"
    session.execute(text)
    say("text batch", session.execute("SELECT c, v, s FROM item WHERE k = 34").all())
    wide = BatchStatement(BatchType.UNLOGGED)
    for key in range(20):
        wide.add(insert, [100 + key, 1, "wide"])
    future = session.execute_async(wide)
    future.result()
    say("warnings", [warning.split(",")[0][:40] for warning in future.warnings or []])


def pages(session):
    insert = session.prepare("INSERT INTO bulk (k, c, v) VALUES (?, ?, ?)")
    rows = [(n % 100, n, f"value {n}") for n in range(ROWS)]
    left = rows
    for _ in range(20):
        # Some of so many at once come too late on a busy node: what is not known to be there is written again.
        written = execute_concurrent_with_args(session, insert, left, concurrency=200, raise_on_first_error=False)
        left = [row for row, one in zip(left, written) if not one.success]
    say("inserted", len(rows), left)
    select = SimpleStatement("SELECT k, c, v FROM bulk", fetch_size=700)
    found = list(session.execute(select))
    say("paged", len(found), sum(row.c for row in found), len({row.v for row in found}))
    first = session.execute(select)
    state, begun = first.paging_state, len(first.current_rows)
    turn()
    rest = session.execute(select, paging_state=state)
    say("resumed", begun, begun + len(list(rest)))
    one = session.prepare("SELECT c FROM bulk WHERE k = ? AND c < ? LIMIT 50")
    one.fetch_size = 7
    say("one partition", [row.c for row in session.execute(one, [3, 5000])])
    say("count", session.execute("SELECT count(*) FROM bulk").one()[0])
    tokens = session.execute("SELECT DISTINCT token(k) AS t FROM bulk LIMIT 3").all()
    say("tokens", tokens)
    futures = [session.execute_async(one, [key, 9999]) for key in range(100)]
    say("in flight", sum(len(list(future.result())) for future in futures))
    turn()


def schema_changes(cluster, session):
    select = session.prepare("SELECT * FROM item WHERE k = 34")
    say("before", len(session.execute(select).one()))
    session.execute("ALTER TABLE item ADD extra list<text>")
    session.execute("UPDATE item SET extra = ['p', 'q'] WHERE k = 34 AND c = 1")
    say("after", list(cluster.metadata.keyspaces[KEYSPACE].tables["item"].columns))
    say("executed", session.execute(select).one() if VERSION >= 5 else session.execute("SELECT * FROM item WHERE k = 34").one())
    say("index", session.execute("SELECT k, c FROM item WHERE v = 'x'").all())
    session.execute("CREATE TABLE gone (k int PRIMARY KEY)")
    session.execute("INSERT INTO gone (k) VALUES (1)")
    session.execute("TRUNCATE gone")
    say("truncated", session.execute("SELECT * FROM gone").all())
    session.execute("DROP TABLE gone")
    say("dropped", "gone" in cluster.metadata.keyspaces[KEYSPACE].tables)


def traces(session):
    for query in ("SELECT v FROM item WHERE k = 34", "INSERT INTO item (k, c, v) VALUES (40, 1, 'traced')"):
        result = session.execute(query, trace=True)
        trace = result.get_query_trace(max_wait_sec=30)
        say("trace", trace.request_type, len(trace.events) > 2, trace.parameters["query"] == query)


def errors(session):
    for text in (
        "SELEC",
        "SELECT * FROM nowhere",
        "INSERT INTO item (k) VALUES ('text')",
        "CREATE TABLE item (k int PRIMARY KEY)",
        "UPDATE item SET v = 'x' WHERE k = 1",
    ):
        try:
            session.execute(text)
        except (InvalidRequest, SyntaxException, AlreadyExists) as error:
            say("error", type(error).__name__, str(error).replace(KEYSPACE, "KEYSPACE"))
    try:
        session.execute(SimpleStatement("SELECT * FROM item", consistency_level=ConsistencyLevel.THREE))
    except NoHostAvailable as none:
        said = [error for error in none.errors.values() if isinstance(error, Unavailable)]
        say("unavailable", [[error.required_replicas, error.alive_replicas] for error in said])
    say("still there", session.execute("SELECT c FROM item WHERE k = 34").one())


def keyspaces(cluster):
    session = cluster.connect()
    session.execute(f"USE {KEYSPACE}")
    say("use", session.keyspace == KEYSPACE, session.execute("SELECT c FROM item WHERE k = 34").one())
    if VERSION >= 5:
        other = cluster.connect()
        say("per request", other.execute(SimpleStatement("SELECT c FROM item WHERE k = 34", keyspace=KEYSPACE)).one())
        prepared = other.prepare("SELECT v FROM item WHERE k = ?", keyspace=KEYSPACE)
        say("per prepare", other.execute(prepared, [34]).one())


def main():
    cluster = connect()
    session = cluster.connect(KEYSPACE)
    discover(cluster, session)
    schema(cluster, session)
    types(session)
    writes(session)
    counters(session)
    conditions(session)
    batches(session)
    pages(session)
    schema_changes(cluster, session)
    traces(session)
    errors(session)
    turn()
    keyspaces(cluster)
    cluster.shutdown()


main()
