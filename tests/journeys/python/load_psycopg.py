"""A load through psycopg's own pool, with threads: the driver prepares at the fifth execution; pipelines; server-side
cursors; notifications by a generator."""

import random
import sys
import threading
import time

import psycopg
import psycopg_pool
from psycopg.rows import scalar_row

from ledger import ACCOUNTS, ROWS, WORKERS, Ledger, conninfo

ledger = Ledger("psycopg")
stopped = threading.Event()
settings = {}  # Of each connection of the pool: what was set there last.


def configure(conn):
    """A connection of the pool is new: none should be after the first ones."""
    number = ledger.is_opened()
    settings[id(conn)] = [f"psycopg {number}", f"{1000 + number}kB"]
    conn.autocommit = True
    conn.execute(f"SET work_mem = '{1000 + number}kB'")
    conn.execute("SELECT set_config('app.worker', %s, false)", [f"psycopg {number}"])


class Worker:
    def __init__(self, pool, number):
        self.pool, self.name, self.dice = pool, ledger.worker(number), random.Random(number)
        self.seq = 0

    def work(self):
        units = [self.entry, self.entries, self.version, self.version, self.read, self.read, self.transfer, self.given_up,
                 self.cursor, self.set, self.notify]
        while not stopped.is_set():
            unit = self.dice.choice(units)
            try:
                with self.pool.connection() as conn:
                    unit(conn)
                    self.check(conn)
                ledger.acked()
            except Exception as error:
                ledger.failed(unit.__name__, error)
            time.sleep(self.dice.random() * 0.01)

    def next(self):
        self.seq += 1
        return self.seq

    def entry(self, conn):
        seq = self.next()
        row = conn.execute("INSERT INTO entries (worker, seq) VALUES (%s, %s) RETURNING id", [self.name, seq]).fetchone()
        ledger.entry(row[0], self.name, seq)

    def entries(self, conn):
        """Several in a pipeline; one transaction, as the driver makes it."""
        seqs = [self.next() for _ in range(3)]
        text = "INSERT INTO entries (worker, seq) VALUES (%s, %s) RETURNING id"
        with conn.pipeline(), conn.transaction():
            cursors = [conn.execute(text, [self.name, seq]) for seq in seqs]
        for cursor, seq in zip(cursors, seqs):
            ledger.entry(cursor.fetchone()[0], self.name, seq)

    def version(self, conn):
        row = self.dice.randrange(ROWS)
        version = ledger.versions[self.name, row] + 1
        text = "UPDATE versions SET version = %s WHERE worker = %s AND row = %s"
        assert conn.execute(text, [version, self.name, row]).rowcount == 1
        ledger.versions[self.name, row] = version

    def read(self, conn):
        """What any worker of the program was told."""
        worker, row = ledger.worker(self.dice.randrange(WORKERS)), self.dice.randrange(ROWS)
        told = ledger.versions[worker, row]
        found = conn.execute("SELECT version FROM versions WHERE worker = %s AND row = %s", [worker, row]).fetchone()
        ledger.seen(worker, row, told, found[0] if found else -1)

    def transfer(self, conn):
        lower, upper = sorted(self.dice.sample(range(ACCOUNTS), 2))
        text = "UPDATE accounts SET balance = balance + %s, moves = moves + 1 WHERE id = %s"
        amount = self.dice.randrange(1, 100)
        with conn.transaction():
            conn.execute(text, [amount, lower])
            conn.execute(text, [-amount, upper])
        with ledger.lock:
            ledger.moves += 1

    def given_up(self, conn):
        """Nothing of it may ever be seen."""
        with conn.transaction(force_rollback=True):
            conn.execute("INSERT INTO entries (worker, seq) VALUES (%s, -1)", [self.name])
            conn.execute("UPDATE versions SET version = 0 WHERE worker = %s", [self.name])

    def cursor(self, conn):
        with conn.transaction(), conn.cursor("some", row_factory=scalar_row) as cursor:
            cursor.itersize = 3
            told = sum(ledger.versions[self.name, row] for row in range(ROWS))
            cursor.execute("SELECT version FROM versions WHERE worker = %s ORDER BY row", [self.name])
            ledger.seen(self.name, "all", told, sum(cursor))

    def set(self, conn):
        value = f"{self.name} {self.next()}"
        conn.execute("SELECT set_config('app.worker', %s, false)", [value])
        settings[id(conn)][0] = value

    def check(self, conn):
        found = conn.execute("SELECT current_setting('app.worker'), current_setting('work_mem')").fetchone()
        ledger.setting(settings[id(conn)], list(found))

    def notify(self, conn):
        text = f"{self.name} {self.next()}"
        with conn.transaction():
            conn.execute("SELECT pg_notify('psycopg', %s)", [text])
        ledger.notified.add(text)


def listen(conn, done):
    """Until there is nothing left to hear."""
    try:
        while not done.is_set():
            for notify in conn.notifies(timeout=0.2):
                ledger.heard[notify.payload] += 1
    except Exception as error:
        ledger.failed("listen", error)


def main():
    listener = psycopg.connect(**conninfo(), autocommit=True)
    listener.execute("LISTEN psycopg")
    done = threading.Event()
    ear = threading.Thread(target=listen, args=[listener, done])
    ear.start()
    with psycopg_pool.ConnectionPool(kwargs=conninfo(), min_size=WORKERS, configure=configure) as pool:
        pool.wait()
        workers = [Worker(pool, number) for number in range(WORKERS)]
        with pool.connection() as conn:
            for worker in workers:
                for row in range(ROWS):
                    conn.execute("INSERT INTO versions VALUES (%s, %s, 0)", [worker.name, row])
                    ledger.versions[worker.name, row] = 0
        threads = [threading.Thread(target=worker.work) for worker in workers]
        [thread.start() for thread in threads]
        sys.stdin.read()
        stopped.set()
        [thread.join() for thread in threads]
        until = time.monotonic() + 10
        while not ledger.is_silent() and time.monotonic() < until:
            time.sleep(0.05)
        done.set()
        ear.join()
    listener.close()
    ledger.close()


main()
