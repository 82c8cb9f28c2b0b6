// A load through node-postgres' Pool: text format, named and unnamed statements, notifications by an event. See README.md.

const { Client, Pool } = require(process.env.JOURNEY_PG);

const WORKERS = Number(process.argv[2]);
const ROWS = 4;
const ACCOUNTS = 8;

const wrong = { errors: [], stale: [], settings: [], unheard: [], heard_twice: [], dropped: [] };
const [entries, versions, notified, heard] = [[], new Map(), new Set(), new Map()];
let [units, moves, opened, stopped] = [0, 0, 0, false];

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const below = (bound) => Math.floor(Math.random() * bound);
const failed = (unit, error) => wrong.errors.push(`${unit}: ${error.code ?? error.name}: ${error.message}`);
const nameOf = (number) => `node-postgres ${number}`;

function seen(worker, row, told, version) {
  if (!(version >= told)) {
    wrong.stale.push(`${worker} row ${row} is ${version}, told ${told} before`);
  }
}

class Worker {
  constructor(pool, number) {
    [this.pool, this.name, this.seq] = [pool, nameOf(number), 0];
  }

  next() {
    this.seq += 1;
    return this.seq;
  }

  async work() {
    const choice = ['entry', 'entries', 'version', 'version', 'read', 'read', 'transfer', 'givenUp', 'set', 'notify'];
    while (!stopped) {
      const unit = choice[below(choice.length)];
      let client;
      try {
        client = await this.pool.connect();
        await this[unit](client);
        await this.check(client);
        client.release();
        units += 1;
        if (units % 10 === 0) console.log(units);
      } catch (error) {
        failed(unit, error);
        client?.release(error);
      }
      await pause(below(10));
    }
  }

  async entry(client) {
    const seq = this.next();
    const text = 'INSERT INTO entries (worker, seq) VALUES ($1, $2) RETURNING id';
    const answer = await client.query({ name: 'entry', text, values: [this.name, seq] });
    entries.push([Number(answer.rows[0].id), this.name, seq]);
  }

  // The driver queues them: each waits for the one before.
  async entries(client) {
    const text = 'INSERT INTO entries (worker, seq) VALUES ($1, $2) RETURNING id';
    const seqs = [this.next(), this.next(), this.next()];
    const answers = await Promise.all(seqs.map((seq) => client.query(text, [this.name, seq])));
    answers.forEach((answer, at) => entries.push([Number(answer.rows[0].id), this.name, seqs[at]]));
  }

  async version(client) {
    const key = `${this.name}|${below(ROWS)}`;
    const version = versions.get(key) + 1;
    const text = 'UPDATE versions SET version = $1 WHERE worker = $2 AND row = $3';
    const answer = await client.query({ name: 'version', text, values: [version, ...key.split('|')] });
    if (answer.rowCount !== 1) throw new Error(`wrote ${answer.rowCount} rows`);
    versions.set(key, version);
  }

  // What any worker of the program was told.
  async read(client) {
    const [worker, row] = [nameOf(below(WORKERS)), below(ROWS)];
    const told = versions.get(`${worker}|${row}`);
    const answer = await client.query('SELECT version FROM versions WHERE worker = $1 AND row = $2', [worker, row]);
    seen(worker, row, told, Number(answer.rows[0]?.version));
  }

  async transfer(client) {
    const lower = below(ACCOUNTS - 1);
    const upper = lower + 1 + below(ACCOUNTS - 1 - lower);
    const amount = 1 + below(99);
    const query = { name: 'move', text: 'UPDATE accounts SET balance = balance + $1, moves = moves + 1 WHERE id = $2' };
    await client.query('BEGIN');
    await client.query({ ...query, values: [amount, lower] });
    await client.query({ ...query, values: [-amount, upper] });
    await client.query('COMMIT');
    moves += 1;
  }

  // Nothing of it may ever be seen.
  async givenUp(client) {
    await client.query('BEGIN');
    await client.query('INSERT INTO entries (worker, seq) VALUES ($1, -1)', [this.name]);
    await client.query('UPDATE versions SET version = 0 WHERE worker = $1', [this.name]);
    await client.query('ROLLBACK');
  }

  async set(client) {
    const value = `${this.name} ${this.next()}`;
    await client.query(`SET app.worker = '${value}'`);
    client.set[0] = value;
  }

  async check(client) {
    const text = "SELECT current_setting('app.worker') AS worker, current_setting('work_mem') AS memory";
    const found = Object.values((await client.query(text)).rows[0]);
    if (`${found}` !== `${client.set}`) wrong.settings.push(`${found}, was set to ${client.set}`);
  }

  async notify(client) {
    const text = `${this.name} ${this.next()}`;
    await client.query(`NOTIFY node, '${text}'`);
    notified.add(text);
  }
}

async function listener() {
  const client = new Client();
  client.on('error', (error) => failed('listen', error));
  client.on('notification', ({ payload }) => heard.set(payload, (heard.get(payload) ?? 0) + 1));
  await client.connect();
  await client.query('LISTEN node');
  return client;
}

// A connection of the pool is new: none should be after the first ones. What is queued here runs before all else.
function greet(client) {
  opened += 1;
  client.set = [nameOf(opened), `${3000 + opened}kB`];
  client.query(`SET work_mem = '${client.set[1]}'; SET app.worker = '${client.set[0]}'`)
    .catch((error) => failed('connect', error));
}

(async () => {
  const ear = await listener();
  const pool = new Pool({ max: WORKERS, idleTimeoutMillis: 0 });
  pool.on('connect', greet);
  pool.on('error', (error) => failed('idle', error));
  const all = await Promise.all([...Array(WORKERS)].map(() => pool.connect()));
  all.forEach((client) => client.release());
  const workers = [...Array(WORKERS).keys()].map((number) => new Worker(pool, number));
  for (const { name } of workers) {
    for (let row = 0; row < ROWS; row++) {
      await pool.query('INSERT INTO versions VALUES ($1, $2, 0)', [name, row]);
      versions.set(`${name}|${row}`, 0);
    }
  }
  process.stdin.on('end', () => { stopped = true; }).resume();
  await Promise.all(workers.map((worker) => worker.work()));
  const unheard = () => [...notified].filter((text) => !heard.has(text));
  for (let n = 0; n < 200 && unheard().length > 0; n++) await pause(50);
  await pool.end();
  await ear.end();
  wrong.unheard = unheard();
  wrong.heard_twice = [...heard].filter(([, times]) => times > 1).map(([text]) => text);
  if (opened !== WORKERS) wrong.dropped.push(`${opened} connections for ${WORKERS}`);
  const told = [...versions].map(([key, version]) => [key.split('|')[0], Number(key.split('|')[1]), version]);
  console.log(JSON.stringify({ units, moves, notified: notified.size, wrong, entries, versions: told }));
})();
