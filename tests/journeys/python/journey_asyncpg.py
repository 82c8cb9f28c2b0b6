"""The journey with asyncpg: binary format throughout, its own statement cache, COPY of records, cancelled tasks."""

import asyncio
import datetime
import io
import json
import os
import ssl
import uuid
from decimal import Decimal

import asyncpg


def say(step, *seen):
    print(json.dumps([step, *seen], default=str), flush=True)


async def connect(**more):
    # asyncpg does not bind to the channel: there is nothing to switch off.
    return await asyncpg.connect(**{"ssl": False, **more})


def trusted():
    return ssl.create_default_context(cafile=os.environ["PGSSLROOTCERT"])


async def logins():
    for user in (os.environ["PGUSER"], "by_md5"):
        for name, tls in (("plain", False), ("tls", trusted())):
            conn = await connect(user=user, ssl=tls)
            say("login", name, await conn.fetchval("SELECT current_user"))
            await conn.close()
    try:
        await connect(password="wrong")
    except asyncpg.InvalidPasswordError as error:
        say("wrong password", error.sqlstate)


async def types(conn):
    at = datetime.datetime(2024, 2, 29, 23, 59, 59, 123456, tzinfo=datetime.timezone.utc)
    row = (
        -(2**15), 2**63 - 1, Decimal("-12345678901234567890.123456789"), "naïve \U0001f418 'quote' \\ back", at,
        uuid.UUID(int=2**127 + 1), '{"a": [1, null]}', '{"b": "ü"}', [1, None, -3], ["a", "{,}", None],
        bytes(range(256)), True,
    )
    holes = ", ".join(f"${n}" for n in range(1, 14))
    await conn.execute(f"INSERT INTO typed VALUES ({holes})", 1, *row)
    await conn.execute(f"INSERT INTO typed VALUES ({holes})", 2, *[None] * 12)
    say("types", [list(row) for row in await conn.fetch("SELECT * FROM typed ORDER BY id")])


async def prepared(conn):
    statement = await conn.prepare("INSERT INTO item (name, qty) VALUES ($1, $2) RETURNING id")
    say("described", [str(kind.name) for kind in statement.get_parameters()], [a.name for a in statement.get_attributes()])
    say("prepared", [await statement.fetchval(f"p{n}", n) for n in range(6)], statement.get_statusmsg())
    say("cached", [await conn.execute("UPDATE item SET qty = qty + 1 WHERE id = $1", n) for n in range(1, 4)])
    async with conn.transaction():
        cursor = await conn.cursor("SELECT name FROM item ORDER BY id")
        say("cursor", [len(await cursor.fetch(4)), len(await cursor.fetch(4))])


async def batch(conn):
    await conn.executemany("INSERT INTO item (name, qty) VALUES ($1, $2)", [(f"m{n}", n) for n in range(50)])
    try:
        await conn.executemany("INSERT INTO account VALUES ($1, $2)", [(9, 1), (1, 1), (10, 1)])
    except asyncpg.UniqueViolationError as error:
        say("batch error", error.sqlstate, error.detail)
    say("batch", list(await conn.fetchrow("SELECT count(*), sum(qty) FROM item")))


async def copy(conn):
    say("copy", await conn.copy_records_to_table("bulk", records=[(n, f"word {n}") for n in range(500)]))
    text = io.BytesIO(b"".join(b"word\t%d\n" % n for n in range(500, 1000)))
    say("copy", await conn.copy_to_table("bulk", source=text, columns=["word", "id"]))
    out = io.BytesIO()
    say("copy out", await conn.copy_from_query("SELECT * FROM bulk ORDER BY id", output=out, format="csv"))
    say("copied", len(out.getvalue()), out.getvalue()[:40].decode())
    try:
        await conn.copy_records_to_table("bulk", records=[(2000, "lost"), (1, "there already")])
    except asyncpg.UniqueViolationError as error:
        say("copy error", error.sqlstate)


async def cancel(conn):
    watcher = await connect()
    running = asyncio.create_task(
        conn.execute("UPDATE account SET balance = 7 WHERE id = 1 AND pg_sleep(60) IS NOT NULL")
    )
    asleep = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'PgSleep'"
    while not await watcher.fetchval(asleep, conn.get_server_pid()):
        await asyncio.sleep(0)
    running.cancel()
    try:
        await running
    except asyncio.CancelledError:
        say("cancelled")
    say("after cancel", await conn.fetchval("SELECT balance FROM account WHERE id = 1"))
    await watcher.close()


async def errors(conn):
    for text in ("INSERT INTO account VALUES (1, 1)", "SELECT nope", "UPDATE account SET balance = -1", "SELEC"):
        try:
            await conn.execute(text)
        except asyncpg.PostgresError as error:
            say("error", error.sqlstate, error.message, error.detail, error.position)
        try:
            await conn.fetch(text)
        except asyncpg.PostgresError as error:
            say("error, extended", error.sqlstate, error.message, error.detail, error.position)
    say("after errors", await conn.fetchval("SELECT 1"))


async def transactions(conn):
    async with conn.transaction(isolation="repeatable_read"):
        await conn.execute("UPDATE account SET balance = balance - $1 WHERE id = 1", 10)
        try:
            async with conn.transaction():  # A savepoint.
                await conn.execute("UPDATE account SET balance = balance + $1 WHERE id = 2", 1000)
                await conn.execute("UPDATE account SET balance = balance - $1 WHERE id = 1", 1000)
        except asyncpg.CheckViolationError:
            say("rolled back to savepoint", conn.is_in_transaction())
        async with conn.transaction():
            await conn.execute("UPDATE account SET balance = balance + $1 WHERE id = 2", 10)
    abandoned = conn.transaction()
    await abandoned.start()
    await conn.execute("DELETE FROM account")
    await abandoned.rollback()
    say("accounts", [list(row) for row in await conn.fetch("SELECT * FROM account ORDER BY id")])


async def main():
    await logins()
    for part in (types, prepared, batch, copy, cancel, errors, transactions):
        conn = await connect(ssl=trusted())
        await part(conn)
        await conn.close()


asyncio.run(main())
