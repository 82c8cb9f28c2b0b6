"""Connects as libpq does, by each line of standard input (a connection string), and says what became of it: a line of JSON.
A statement is cancelled on every connection that came to be."""

import json
import sys
import threading

import psycopg


def cancelled(conn):
    """True if it was and libpq agrees; otherwise why not."""
    failed = []

    def when_it_sleeps():
        with psycopg.connect(conn.info.dsn, password=conn.info.password, autocommit=True) as watcher:
            asleep = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
            while not watcher.execute(asleep, (conn.info.backend_pid,)).fetchone()[0]:
                pass
        try:
            conn.cancel_safe(timeout=10)
        except psycopg.Error as error:
            failed.append(str(error))

    thread = threading.Thread(target=when_it_sleeps)
    thread.start()
    try:
        conn.execute("SELECT pg_sleep(60)")
    except psycopg.errors.QueryCanceled:
        thread.join()
        return failed or True


for line in sys.stdin:
    try:
        with psycopg.connect(line.strip(), autocommit=True) as connection:
            pgconn = connection.pgconn
            seen = {
                "user": connection.execute("SELECT current_user").fetchone()[0],
                "tls": bool(pgconn.ssl_in_use),
                "protocol": getattr(pgconn, "full_protocol_version", None),
                "cancelled": cancelled(connection),
            }
    except psycopg.OperationalError as error:
        seen = {"error": str(error)}
    print(json.dumps(seen), flush=True)
