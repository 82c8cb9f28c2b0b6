"""A load through asyncpg's pool: everything prepared and binary, settings reset by the pool at each release, notifications
by a callback."""

import asyncio
import random
import sys

import asyncpg

from ledger import ACCOUNTS, ROWS, WORKERS, Ledger, conninfo

ledger = Ledger("asyncpg")
stopped = asyncio.Event()


async def opened(_conn):
    """A connection of the pool is new: none should be after the first ones."""
    ledger.is_opened()


class Worker:
    def __init__(self, pool, number):
        self.pool, self.number, self.name, self.dice = pool, number, ledger.worker(number), random.Random(number)
        self.seq = 0

    async def work(self):
        """Some units between an acquire and a release, which resets all settings."""
        while not stopped.is_set():
            async with self.pool.acquire() as conn:
                setting = f"{self.name} {self.next()}"
                await self.attempt(conn, self.set, setting)
                for _ in range(self.dice.randrange(1, 8)):
                    units = [self.entry, self.entries, self.version, self.version, self.read, self.read, self.transfer,
                             self.given_up, self.cursor, self.notify]
                    await self.attempt(conn, self.dice.choice(units))
                    await self.attempt(conn, self.check, setting)
                    await asyncio.sleep(self.dice.random() * 0.01)

    async def attempt(self, conn, unit, *args):
        try:
            await unit(conn, *args)
            ledger.acked()
        except Exception as error:
            ledger.failed(unit.__name__, error)

    def next(self):
        self.seq += 1
        return self.seq

    async def set(self, conn, setting):
        before = await conn.fetchval("SELECT current_setting('app.worker', true)")
        ledger.setting("", before or "")
        await conn.execute(f"SET work_mem = '{2000 + self.number}kB'")
        await conn.execute("SELECT set_config('app.worker', $1, false)", setting)

    async def check(self, conn, setting):
        found = await conn.fetchrow("SELECT current_setting('app.worker'), current_setting('work_mem')")
        ledger.setting([setting, f"{2000 + self.number}kB"], list(found))

    async def entry(self, conn):
        seq = self.next()
        key = await conn.fetchval("INSERT INTO entries (worker, seq) VALUES ($1, $2) RETURNING id", self.name, seq)
        ledger.entry(key, self.name, seq)

    async def entries(self, conn):
        """One transaction, by one Sync behind all of them."""
        seqs = [self.next() for _ in range(3)]
        text = "INSERT INTO entries (worker, seq) VALUES ($1, $2) RETURNING id"
        rows = await conn.fetchmany(text, [(self.name, seq) for seq in seqs])
        for row, seq in zip(rows, seqs):
            ledger.entry(row[0], self.name, seq)

    async def version(self, conn):
        row = self.dice.randrange(ROWS)
        version = ledger.versions[self.name, row] + 1
        text = "UPDATE versions SET version = $1 WHERE worker = $2 AND row = $3"
        assert await conn.execute(text, version, self.name, row) == "UPDATE 1"
        ledger.versions[self.name, row] = version

    async def read(self, conn):
        """What any worker of the program was told."""
        worker, row = ledger.worker(self.dice.randrange(WORKERS)), self.dice.randrange(ROWS)
        told = ledger.versions[worker, row]
        found = await conn.fetchval("SELECT version FROM versions WHERE worker = $1 AND row = $2", worker, row)
        ledger.seen(worker, row, told, -1 if found is None else found)

    async def transfer(self, conn):
        lower, upper = sorted(self.dice.sample(range(ACCOUNTS), 2))
        text = "UPDATE accounts SET balance = balance + $1, moves = moves + 1 WHERE id = $2"
        amount = self.dice.randrange(1, 100)
        async with conn.transaction():
            await conn.execute(text, amount, lower)
            await conn.execute(text, -amount, upper)
        ledger.moves += 1

    async def given_up(self, conn):
        """Nothing of it may ever be seen."""
        transaction = conn.transaction()
        await transaction.start()
        await conn.execute("INSERT INTO entries (worker, seq) VALUES ($1, -1)", self.name)
        await conn.execute("UPDATE versions SET version = 0 WHERE worker = $1", self.name)
        await transaction.rollback()

    async def cursor(self, conn):
        told = sum(ledger.versions[self.name, row] for row in range(ROWS))
        async with conn.transaction(readonly=True):
            text = "SELECT version FROM versions WHERE worker = $1 ORDER BY row"
            versions = [row[0] async for row in conn.cursor(text, self.name, prefetch=3)]
        ledger.seen(self.name, "all", told, sum(versions))

    async def notify(self, conn):
        text = f"{self.name} {self.next()}"
        await conn.execute("SELECT pg_notify('asyncpg', $1)", text)
        ledger.notified.add(text)


async def main():
    place = conninfo()
    place["database"] = place.pop("dbname")
    place["ssl"] = False

    def heard(_conn, _pid, _channel, payload):
        ledger.heard[payload] += 1

    listener = await asyncpg.connect(**place)
    listener.add_termination_listener(lambda _: stopped.is_set() or ledger.failed("listen", Exception("terminated")))
    await listener.add_listener("asyncpg", heard)
    options = {"min_size": WORKERS, "max_size": WORKERS, "max_queries": 10**9, "max_inactive_connection_lifetime": 0}
    async with asyncpg.create_pool(**place, **options, init=opened) as pool:
        workers = [Worker(pool, number) for number in range(WORKERS)]
        for worker in workers:
            for row in range(ROWS):
                await pool.execute("INSERT INTO versions VALUES ($1, $2, 0)", worker.name, row)
                ledger.versions[worker.name, row] = 0
        work = asyncio.gather(*(worker.work() for worker in workers))
        await asyncio.to_thread(sys.stdin.read)
        stopped.set()
        await work
        for _ in range(200):
            if ledger.is_silent():
                break
            await asyncio.sleep(0.05)
    await listener.close()
    ledger.close()


asyncio.run(main())
