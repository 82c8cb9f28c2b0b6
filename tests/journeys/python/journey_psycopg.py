"""The journey with psycopg 3: text and binary parameters, its own pipeline mode, binary COPY, automatic preparation."""

import datetime
import json
import os
import threading
import uuid
from decimal import Decimal

import psycopg
from psycopg.types.json import Json, Jsonb


def say(step, *seen):
    print(json.dumps([step, *seen], default=str), flush=True)


def connect(**more):
    # The rest comes from the environment, as for every program that uses libpq.
    return psycopg.connect(channel_binding="disable", **{"sslmode": "disable", **more})


def logins():
    for user in (os.environ["PGUSER"], "by_md5"):
        for sslmode in ("disable", "verify-full"):
            with connect(user=user, sslmode=sslmode) as conn:
                say("login", sslmode, conn.execute("SELECT current_user").fetchone())
    try:
        connect(password="wrong")
    except psycopg.OperationalError as error:
        say("wrong password", "password authentication failed" in str(error))


def types(conn):
    at = datetime.datetime(2024, 2, 29, 23, 59, 59, 123456, tzinfo=datetime.timezone.utc)
    row = (
        -(2**15), 2**63 - 1, Decimal("-12345678901234567890.123456789"), "naïve \U0001f418 'quote' \\ back", at,
        uuid.UUID(int=2**127 + 1), Json({"a": [1, None]}), Jsonb({"b": "ü"}), [1, None, -3], ["a", "{,}", None],
        bytes(range(256)), True,
    )
    holes = ", ".join(["%s"] * 13)
    marked = ", ".join(["%b"] * 13)
    conn.execute(f"INSERT INTO typed VALUES ({holes})", (1, *row))
    conn.execute(f"INSERT INTO typed VALUES ({marked})", (2, *row))
    conn.execute(f"INSERT INTO typed VALUES ({holes})", (3, *[None] * 12))
    for binary in (False, True):
        say("types", conn.cursor(binary=binary).execute("SELECT * FROM typed ORDER BY id").fetchall())


def prepared(conn):
    conn.prepare_threshold = 2  # The third execution is of a named statement.
    keys = [
        conn.execute("INSERT INTO item (name, qty) VALUES (%s, %s) RETURNING id", (f"p{n}", n)).fetchone()
        for n in range(6)
    ]
    tags = [conn.execute("UPDATE item SET qty = qty + 1 WHERE qty > %s", (n,)).statusmessage for n in range(6)]
    say("prepared", keys, tags, conn.execute("SELECT name FROM pg_prepared_statements").rowcount)


def pipeline(conn):
    with conn.pipeline() as pipe:
        first = conn.execute("INSERT INTO item (name, qty) VALUES ('pipe', 1) RETURNING id")
        conn.execute("UPDATE account SET balance = balance - 1 WHERE id = 1")
        pipe.sync()
        second = conn.execute("SELECT balance FROM account WHERE id = 1")
    say("pipeline", first.fetchone(), second.fetchone())
    try:
        with conn.pipeline():
            conn.execute("INSERT INTO item (name, qty) VALUES ('lost', 1)")
            conn.execute("SELECT 1/0")
            conn.execute("INSERT INTO item (name, qty) VALUES ('lost', 2)")
    except psycopg.Error as error:
        say("pipeline error", error.sqlstate)
    with conn.cursor() as many:
        many.executemany(
            "INSERT INTO item (name, qty) VALUES (%s, %s) RETURNING id", [("many", 1), ("many", 2)], returning=True
        )
        keys = [many.fetchone()]
        while many.nextset():
            keys.append(many.fetchone())
        say("many", keys)


def copy(conn):
    with conn.cursor() as cursor:
        with cursor.copy("COPY bulk FROM STDIN") as into:
            for n in range(500):
                into.write_row((n, None if n % 7 == 0 else f"tab\t{n}"))
        with cursor.copy("COPY bulk (word, id) FROM STDIN (FORMAT binary)") as into:
            into.set_types(["text", "int4"])
            for n in range(500, 1000):
                into.write_row((f"word {n}", n))
        for form in ("text", "binary"):
            with cursor.copy(f"COPY (SELECT * FROM bulk ORDER BY id) TO STDOUT (FORMAT {form})") as out:
                rows = b"".join(out)
                say("copy out", form, len(rows), rows[:60].hex())
        try:
            with cursor.copy("COPY bulk FROM STDIN") as into:
                into.write_row((2000, "lost"))
                into.write_row((1, "there already"))
        except psycopg.Error as error:
            say("copy error", error.sqlstate)
        say("copied", cursor.execute("SELECT count(*), count(word), sum(id) FROM bulk").fetchone())


def cancel(conn):
    def when_it_sleeps():
        with connect(autocommit=True) as watcher:
            asleep = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
            while not watcher.execute(asleep, (conn.info.backend_pid,)).fetchone()[0]:
                pass
        conn.cancel_safe(timeout=10)

    thread = threading.Thread(target=when_it_sleeps)
    thread.start()
    try:
        conn.execute("UPDATE account SET balance = 7 WHERE id = 1 AND pg_sleep(60) IS NOT NULL")
    except psycopg.Error as error:
        say("cancelled", error.sqlstate)
    thread.join()
    say("after cancel", conn.execute("SELECT balance FROM account WHERE id = 1").fetchone())


def errors(conn):
    for text in ("INSERT INTO account VALUES (1, 1)", "SELECT nope", "UPDATE account SET balance = -1", "SELEC"):
        try:
            conn.execute(text)
        except psycopg.Error as error:
            diag = error.diag
            say("error", error.sqlstate, diag.message_primary, diag.message_detail, diag.statement_position)
    say("after errors", conn.execute("SELECT 1").fetchone())


def transactions(conn):
    with conn.transaction():
        conn.execute("UPDATE account SET balance = balance - 10 WHERE id = 1")
        try:
            with conn.transaction():  # A savepoint.
                conn.execute("UPDATE account SET balance = balance + 1000 WHERE id = 2")
                conn.execute("UPDATE account SET balance = balance - 1000 WHERE id = 1")
        except psycopg.errors.CheckViolation:
            say("rolled back to savepoint", conn.info.transaction_status.name)
        with conn.transaction():
            conn.execute("UPDATE account SET balance = balance + 10 WHERE id = 2")
    with conn.transaction(force_rollback=True):
        conn.execute("DELETE FROM account")
    say("accounts", conn.execute("SELECT * FROM account ORDER BY id").fetchall())


logins()
for part in (types, prepared, pipeline, copy, cancel, errors, transactions):
    with connect(autocommit=True, sslmode="verify-full") as connection:
        part(connection)
