// The journey with Node's cassandra-driver: every type, batches, conditions, pages, a changing schema, traces.
'use strict';

// Where scripts/setup put the driver.
const cassandra = require(process.env.JOURNEY_CASSANDRA);
const { types } = cassandra;

const KEYSPACE = process.env.CQL_KEYSPACE;
const VERSION = Number(process.env.CQL_VERSION);
const ROWS = 10000;
// They go on while something is done to the cluster.
const WORKERS = [...Array(4).keys()];

// The driver speaks v4 at most, and of these only in v4.
const SINCE_V4 = ['date', 'time', 'smallint', 'tinyint', 'duration'];

// A type and a value.
const TYPES = [
  ['ascii', 'plain'],
  ['bigint', types.Long.fromString('-9223372036854775808')],
  ['blob', Buffer.from([...Array(256).keys()])],
  ['boolean', true],
  ['decimal', types.BigDecimal.fromString('-12345678901234567890.123456789')],
  ['double', -0.1],
  ['float', 1.5],
  ['inet', types.InetAddress.fromString('2001:db8::1')],
  ['int', -1],
  ['text', "naïve \u{1f418} 'quote' \\ back"],
  ['timestamp', new Date(Date.UTC(2024, 1, 29, 23, 59, 59, 123))],
  ['timeuuid', types.TimeUuid.fromString('01234567-89ab-11ee-8123-456789abcdef')],
  ['uuid', types.Uuid.fromString('01234567-89ab-41ee-8123-456789abcdef')],
  ['varint', types.Integer.fromString('-1267650600228229401496703205376')],
  ['date', types.LocalDate.fromString('2024-02-29')],
  ['time', types.LocalTime.fromString('23:59:59.123456789')],
  ['smallint', -32768],
  ['tinyint', -128],
  ['duration', new types.Duration(14, 3, 1000000007)],
  ['list<int>', [2, 1, 2]],
  ['set<text>', ['a', 'b']],
  ['map<text, bigint>', { a: types.Long.fromInt(1), b: types.Long.fromInt(2) }],
  ['frozen<list<frozen<map<text, frozen<set<int>>>>>>', [{ x: [1, 3] }, {}]],
  ['tuple<int, text, boolean>', new types.Tuple(7, null, true)],
  ['frozen<address>', { street: 'Main', no: 5 }],
  ['address', { street: 'Side', no: null }],
  ['list<frozen<address>>', [{ street: 'A', no: 1 }, { street: 'B', no: 2 }]],
].filter(([kind]) => VERSION >= 4 || !SINCE_V4.includes(kind));

function plain(value) {
  if (value === null || value === undefined) return null;
  if (Buffer.isBuffer(value)) return value.toString('hex');
  if (value instanceof types.Tuple) return value.elements.map(plain);
  if (value instanceof Date) return value.toISOString();
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value === 'object' && value.constructor === Object) {
    return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, plain(one)]));
  }
  return typeof value === 'object' ? `${value}` : value;
}

function say(step, ...seen) {
  console.log(JSON.stringify([step, ...seen.map(plain)]));
}

function client(more) {
  const options = {
    contactPoints: [`${process.env.CQL_HOST}:${process.env.CQL_PORT}`],
    localDataCenter: 'datacenter1',
    protocolOptions: { maxVersion: VERSION },
    queryOptions: { consistency: types.consistencies.localQuorum, prepare: true },
    socketOptions: { readTimeout: 30000 },
    ...more,
  };
  if (process.env.CQL_USER) {
    options.authProvider = new cassandra.auth.PlainTextAuthProvider(process.env.CQL_USER, process.env.CQL_PASSWORD);
  }
  if (process.env.CQL_CA) {
    options.sslOptions = { ca: [require('fs').readFileSync(process.env.CQL_CA)], servername: 'localhost', checkServerIdentity: () => undefined };
  }
  return new cassandra.Client(options);
}

/** What each worker has done: rows, increments and versions of its own. */
const done = WORKERS.map(() => 0);

/** One more, each of it prepared once, at the first turn; and what was acknowledged is there. */
async function work(cql, k) {
  const n = (done[k] += 1);
  await cql.execute('INSERT INTO busy (k, c, v) VALUES (?, ?, ?)', [k, n, n]);
  const read = await one(cql, 'SELECT v FROM busy WHERE k = ? AND c = ?', [k, n]);
  if (read === null || read.v !== n) throw new Error(`worker ${k} does not find ${n}`);
  const add = 'UPDATE busy_hits SET hits = hits + ? WHERE page = ?';
  await cql.execute(add, [1, `${k}`]);
  const decided = n === 1
    ? await cql.execute('INSERT INTO busy_once (k, v) VALUES (?, ?) IF NOT EXISTS', [k, n])
    : await cql.execute('UPDATE busy_once SET v = ? WHERE k = ? IF v = ?', [n, k, n - 1]);
  if (!decided.wasApplied()) throw new Error(`version ${n} of worker ${k} is not decided`);
  const query = 'INSERT INTO busy (k, c, v) VALUES (?, ?, ?)';
  await cql.batch([{ query, params: [k, -n, n] }, { query, params: [k, n, n] }], { prepare: true });
}

/** Let whoever does something to the cluster do it now; nobody who works meanwhile may notice. */
async function turn(cql) {
  let isOver = !process.env.CQL_TURNS;
  const over = isOver || new Promise((resolve) => process.stdin.once('data', resolve).resume()).then(() => {
    isOver = true;
    process.stdin.pause(); // It would keep the program alive.
  });
  if (!isOver) console.log('turn');
  await Promise.all(WORKERS.map(async (k) => {
    for (let least = 5; least > 0 || !isOver; least--) {
      await work(cql, k);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }));
  await over;
  for (const k of WORKERS) {
    const { rows } = await one(cql, 'SELECT count(*) AS rows FROM busy WHERE k = ?', [k]);
    const { hits } = await one(cql, 'SELECT hits FROM busy_hits WHERE page = ?', [`${k}`]);
    const { v } = await one(cql, 'SELECT v FROM busy_once WHERE k = ?', [k]);
    say('worked', rows - 2 * done[k], hits - done[k], v - done[k]);
  }
}

async function one(cql, query, params, options) {
  return (await cql.execute(query, params, options)).first();
}

async function all(cql, query, params, options) {
  return (await cql.execute(query, params, options)).rows.map((row) => row.values());
}

async function discover(cql) {
  const hosts = cql.getState().getConnectedHosts();
  say('discovered', cql.controlConnection.protocolVersion, cql.metadata.isDbaas());
  say('hosts', hosts.map((host) => [host.datacenter, host.rack, host.isUp()]));
  say('replicas', cql.getReplicas(KEYSPACE, Buffer.from('key')).length);
}

async function schema(cql) {
  for (const text of [
    'CREATE TYPE address (street text, no int)',
    `CREATE TABLE typed (k int PRIMARY KEY, ${TYPES.map(([kind], n) => `c${n} ${kind}`).join(', ')})`,
    'CREATE TABLE item (k int, c int, v text, s text STATIC, PRIMARY KEY (k, c))',
    'CREATE TABLE visits (page text PRIMARY KEY, hits counter)',
    'CREATE TABLE bulk (k int, c int, v text, PRIMARY KEY (k, c)) WITH CLUSTERING ORDER BY (c DESC)',
    'CREATE TABLE busy (k int, c int, v int, PRIMARY KEY (k, c))',
    'CREATE TABLE busy_hits (page text PRIMARY KEY, hits counter)',
    'CREATE TABLE busy_once (k int PRIMARY KEY, v int)',
  ]) {
    await cql.execute(text, [], { prepare: false });
  }
  const table = await cql.metadata.getTable(KEYSPACE, 'item');
  const udt = await cql.metadata.getUdt(KEYSPACE, 'address');
  say('tables', table.columns.map((column) => column.name), table.partitionKeys.length, udt.fields.map((field) => field.name));
}

async function values(cql) {
  const names = TYPES.map((_, n) => `c${n}`).join(', ');
  const insert = `INSERT INTO typed (k, ${names}) VALUES (${Array(TYPES.length + 1).fill('?').join(', ')})`;
  await cql.execute(insert, [1, ...TYPES.map(([, value]) => value)]);
  await cql.execute(insert, [2, ...TYPES.map(() => null)]);
  await cql.execute(insert, [3, ...TYPES.map(() => (VERSION >= 4 ? types.unset : null))]);
  const row = await one(cql, 'SELECT * FROM typed WHERE k = ?', [1]);
  TYPES.forEach(([kind], n) => say('types', kind, row[`c${n}`]));
  for (const k of [2, 3]) {
    const empty = await one(cql, 'SELECT * FROM typed WHERE k = ?', [k]);
    say('empty', k, empty.values().filter((value) => value !== null).length);
  }
  say('nothing', await one(cql, 'SELECT * FROM typed WHERE k = ?', [9]));
  await cql.execute('INSERT INTO typed (k, c8) VALUES (?, ?)', [4, 44], { prepare: false, hints: ['int', 'int'] });
  await cql.execute('INSERT INTO typed (k, c9) VALUES (:k, :v)', { k: 4, v: 'named' });
  say('unprepared', plain((await one(cql, 'SELECT c8, c9 FROM typed WHERE k = 4')).values()));
}

async function writes(cql) {
  await cql.execute("INSERT INTO item (k, c, v, s) VALUES (1, 1, 'one', 'static')", [], { timestamp: 1000 });
  await cql.execute("UPDATE item USING TIMESTAMP 500 SET v = 'lost' WHERE k = 1 AND c = 1");
  say('timestamps', plain((await one(cql, 'SELECT v, writetime(v) AS at, s FROM item WHERE k = 1')).values()));
  await cql.execute('DELETE v FROM item WHERE k = 1 AND c = 1');
  say('deleted', await all(cql, 'SELECT c, v, s FROM item WHERE k = 1'));
}

async function counters(cql) {
  const add = 'UPDATE visits SET hits = hits + ? WHERE page = ?';
  for (const amount of [5, -2, 10]) await cql.execute(add, [amount, 'home']);
  await cql.batch(['home', 'away'].map((page) => ({ query: add, params: [1, page] })), { counter: true, prepare: true });
  say('counters', (await all(cql, 'SELECT page, hits FROM visits')).map(plain).sort());
}

async function conditions(cql, k) {
  const insert = 'INSERT INTO item (k, c, v) VALUES (?, ?, ?) IF NOT EXISTS';
  for (let n = 0; n < 2; n++) say('if not exists', (await one(cql, insert, [k, 1, 'new'])).values());
  for (const old of ['wrong', 'new', 'new']) {
    const result = await cql.execute('UPDATE item SET v = ? WHERE k = ? AND c = 1 IF v = ?', ['newer', k, old]);
    say('if', result.wasApplied());
  }
  const batch = await cql.batch(
    [`INSERT INTO item (k, c, v) VALUES (${k}, 5, 'a') IF NOT EXISTS`, `INSERT INTO item (k, c, v) VALUES (${k}, 6, 'b')`],
    { prepare: false },
  );
  say('conditional batch', batch.wasApplied(), await all(cql, 'SELECT c, v FROM item WHERE k = ?', [k]));
  const serial = { consistency: types.consistencies.serial };
  say('serial read', await all(cql, 'SELECT v FROM item WHERE k = ?', [k], serial));
}

async function batches(cql, from) {
  const query = 'INSERT INTO item (k, c, v) VALUES (?, ?, ?)';
  for (const logged of [true, false]) {
    const k = logged ? from : from + 1;
    const queries = [0, 1, 2].map((c) => ({ query, params: [k, c, `batch ${c}`] }));
    queries.push({ query: 'DELETE FROM item WHERE k = ? AND c = ?', params: [k, 1] });
    await cql.batch(queries, { prepare: true, logged });
    say('batch', logged, await all(cql, 'SELECT c, v FROM item WHERE k = ?', [k]));
  }
  await cql.batch([{ query: 'INSERT INTO item (k, c, v, s) VALUES (?, ?, ?, ?)', params: [from + 4, 1, 'x', 'y'] }], { prepare: true });
  const wide = [...Array(20).keys()].map((n) => ({ query, params: [from + 70 + n, 1, 'wide'] }));
  const answer = await cql.batch(wide, { prepare: true, logged: false });
  say('warnings', (answer.info.warnings || []).map((warning) => warning.slice(0, 40)));
}

/** The same statements again, with other keys. */
async function again(cql, from) {
  await counters(cql);
  await conditions(cql, from + 2);
  await batches(cql, from + 30);
}

async function pages(cql) {
  const rows = [...Array(ROWS).keys()].map((n) => [n % 100, n, `value ${n}`]);
  const insert = 'INSERT INTO bulk (k, c, v) VALUES (?, ?, ?)';
  // Some of so many at once come too late on a busy node: then all are written again.
  for (let left = ROWS, tries = 20; left > 0 && tries > 0; tries--) {
    const inserted = await cassandra.concurrent.executeConcurrent(cql, insert, rows, { concurrencyLevel: 200, raiseOnFirstError: false });
    left = inserted.errors.length;
    if (left === 0) say('inserted', inserted.totalExecuted);
  }
  const select = 'SELECT k, c, v FROM bulk';
  let [found, sum] = [0, 0];
  let page = await cql.execute(select, [], { fetchSize: 700 });
  for await (const row of await cql.execute(select, [], { fetchSize: 700 })) {
    found += 1;
    sum += row.c;
    if (found === 2000 || found === 6000) {
      await turn(cql);
      await again(cql, found);
      page = await cql.execute(select, [], { fetchSize: 700, pageState: page.pageState });
      say('resumed', page.rowLength, page.rows[0].k, page.rows[0].c);
    }
  }
  say('paged', found, sum);
  const some = await all(cql, 'SELECT c FROM bulk WHERE k = ? AND c < ? LIMIT 20', [3, 5000], { fetchSize: 7 });
  say('one partition', some.flat());
  say('count', (await one(cql, 'SELECT count(*) FROM bulk')).values());
}

async function schemaChanges(cql) {
  const select = 'SELECT * FROM item WHERE k = 34';
  say('before', (await one(cql, select)).keys());
  await cql.execute('ALTER TABLE item ADD extra list<text>', [], { prepare: false });
  await cql.execute("UPDATE item SET extra = ['p', 'q'] WHERE k = 34 AND c = 1");
  say('extra', (await one(cql, 'SELECT extra FROM item WHERE k = 34')).values());
  say('after', (await one(cql, 'SELECT * FROM item WHERE k = 34 AND c = 1')).keys());
  await cql.execute('CREATE TABLE gone (k int PRIMARY KEY)', [], { prepare: false });
  await cql.execute('INSERT INTO gone (k) VALUES (1)');
  await cql.execute('TRUNCATE gone', [], { prepare: false });
  say('truncated', await all(cql, 'SELECT * FROM gone'));
  await cql.execute('DROP TABLE gone', [], { prepare: false });
  say('dropped', await cql.metadata.getTable(KEYSPACE, 'gone'));
}

async function traces(cql) {
  const query = "INSERT INTO item (k, c, v) VALUES (40, 1, 'traced')";
  const result = await cql.execute(query, [], { traceQuery: true, prepare: false });
  const trace = await cql.metadata.getTrace(result.info.traceId);
  say('trace', trace.requestType, trace.events.length > 2, trace.parameters.query === query);
}

async function errors(cql) {
  for (const text of ['SELEC', 'SELECT * FROM nowhere', "INSERT INTO item (k) VALUES ('text')", 'CREATE TABLE item (k int PRIMARY KEY)']) {
    await cql.execute(text, [], { prepare: false }).catch((error) => say('error', error.code, error.message.replace(KEYSPACE, 'KEYSPACE')));
  }
  const three = { consistency: types.consistencies.three };
  await cql.execute('SELECT * FROM item', [], three).catch((error) => {
    say('unavailable', Object.values(error.innerErrors || { error }).map((inner) => [inner.code, inner.required, inner.alive]));
  });
  say('still there', (await one(cql, 'SELECT c FROM item WHERE k = 34')).values());
}

async function main() {
  const cql = client({ keyspace: KEYSPACE });
  await cql.connect();
  await discover(cql);
  await schema(cql);
  await values(cql);
  await writes(cql);
  await again(cql, 0);
  for (const step of [pages, schemaChanges, traces, errors, turn]) await step(cql);
  await cql.shutdown();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
