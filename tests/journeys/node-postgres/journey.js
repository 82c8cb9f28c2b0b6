// The journey with node-postgres (pg): the JavaScript driver, text format, named statements. COPY needs another package of its
// authors and is not part of it.

const fs = require('fs');
const { Client } = require(process.env.JOURNEY_PG);

const say = (...seen) => console.log(JSON.stringify(seen, (_, value) => (typeof value === 'bigint' ? `${value}` : value)));
// The driver checks the name that it dialled, and takes an address for none.
const tls = { ca: fs.readFileSync(process.env.PGSSLROOTCERT), servername: 'localhost' };

async function connected(more) {
  const client = new Client({ ssl: false, ...more });
  await client.connect();
  return client;
}

async function using(more, part) {
  const client = await connected(more);
  try {
    await part(client);
  } finally {
    await client.end();
  }
}

async function logins() {
  for (const user of [process.env.PGUSER, 'by_md5']) {
    for (const ssl of [false, tls]) {
      await using({ user, ssl, enableChannelBinding: false }, async (client) => {
        say('login', ssl !== false, (await client.query('SELECT current_user')).rows);
      });
    }
  }
  await connected({ password: 'wrong' }).catch((error) => say('wrong password', error.code));
}

async function types(client) {
  const row = [
    -32768, '9223372036854775807', '-12345678901234567890.123456789', "naïve 🐘 'quote' \\ back",
    new Date('2024-02-29T23:59:59.123Z'), '80000000-0000-0000-0000-000000000001', { a: [1, null] }, { b: 'ü' },
    [1, null, -3], ['a', '{,}', null], Buffer.from([...Array(256).keys()]), true,
  ];
  const holes = [1, ...row].map((_, at) => `$${at + 1}`).join(', ');
  await client.query(`INSERT INTO typed VALUES (${holes})`, [1, ...row]);
  await client.query(`INSERT INTO typed VALUES (${holes})`, [2, ...row.map(() => null)]);
  const read = await client.query('SELECT * FROM typed ORDER BY id');
  say('types', read.rows, read.fields.map((field) => field.dataTypeID));
  await client.query({ text: 'SELECT id, word, flag FROM typed WHERE id = $1', values: [1], binary: true })
    .then((answer) => say('binary', answer.rows));
}

async function prepared(client) {
  const keys = [];
  for (let n = 0; n < 6; n++) {
    const text = 'INSERT INTO item (name, qty) VALUES ($1, $2) RETURNING id';
    keys.push((await client.query({ name: 'add', text, values: [`p${n}`, n] })).rows[0].id);
  }
  const update = await client.query({ name: 'bump', text: 'UPDATE item SET qty = qty + 1 WHERE qty > $1', values: [2] });
  say('prepared', keys, update.command, update.rowCount);
}

// Nothing is awaited between the statements: the driver queues them.
async function batch(client) {
  const asked = [];
  for (let n = 0; n < 40; n++) {
    asked.push(client.query('INSERT INTO item (name, qty) VALUES ($1, $2) RETURNING id', [`b${n}`, n]));
  }
  say('batch', (await Promise.all(asked)).map((answer) => answer.rows[0].id));
  const script = "UPDATE item SET qty = 0 WHERE id = 1; INSERT INTO item (name, qty) VALUES ('s', 1) RETURNING id; SELECT 1 AS one";
  say('script', (await client.query(script)).map((answer) => [answer.command, answer.rowCount, answer.rows]));
  const words = JSON.stringify([...Array(200).keys()].map((id) => ({ id, word: `word ${id}` })));
  const bulk = await client.query(
    'INSERT INTO bulk SELECT id, word FROM json_to_recordset($1) AS given (id int, word text)', [words],
  );
  say('bulk', bulk.rowCount);
}

async function cancel(client) {
  const running = client.query('UPDATE account SET balance = 7 WHERE id = 1 AND pg_sleep(60) IS NOT NULL');
  const ended = running.catch((error) => say('cancelled', error.code, error.message));
  await using({}, async (watcher) => {
    const asleep = "SELECT count(*)::int AS n FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'PgSleep'";
    while ((await watcher.query(asleep, [client.processID])).rows[0].n === 0);
    await watcher.query('SELECT pg_cancel_backend($1)', [client.processID]);
  });
  await ended;
  say('after cancel', (await client.query('SELECT balance FROM account WHERE id = 1')).rows);
}

async function errors(client) {
  for (const text of ['INSERT INTO account VALUES (1, 1)', 'SELECT nope', 'UPDATE account SET balance = -1', 'SELEC']) {
    await client.query(text).catch((error) => say('error', error.code, error.message, error.detail, error.position));
    await client.query({ text, values: [], queryMode: 'extended' }).catch((error) => say('extended', error.code, error.position));
  }
  say('after errors', (await client.query('SELECT 1 AS one')).rows);
}

async function transactions(client) {
  await client.query('BEGIN');
  await client.query('UPDATE account SET balance = balance - $1 WHERE id = 1', [10]);
  await client.query('SAVEPOINT here');
  await client.query('UPDATE account SET balance = balance + $1 WHERE id = 2', [1000]);
  await client.query('UPDATE account SET balance = balance - $1 WHERE id = 1', [1000]).catch((error) => say('check', error.code));
  await client.query('SELECT 1').catch((error) => say('aborted', error.code));
  await client.query('ROLLBACK TO here');
  await client.query('UPDATE account SET balance = balance + $1 WHERE id = 2', [10]);
  say('commit', (await client.query('COMMIT')).command);
  await client.query('BEGIN');
  await client.query('DELETE FROM account');
  await client.query('ROLLBACK');
  say('accounts', (await client.query('SELECT * FROM account ORDER BY id')).rows);
}

(async () => {
  await logins();
  for (const part of [types, prepared, batch, cancel, errors, transactions]) {
    await using({ ssl: tls }, part);
  }
})();
