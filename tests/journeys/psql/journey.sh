#!/bin/sh
# The journey with psql ("$1"): the simple protocol with whole scripts in one message, its own variables, \copy both ways,
# cursors, savepoints around each statement, Ctrl-C; where psql knows them, \bind, \parse and \startpipeline.
# What psql prints, results and errors in their order, is the observation.
set -u
export PGCHANNELBINDING=disable PGSSLMODE=verify-full
program=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

psql() { "$program" --no-psqlrc --quiet --no-align --tuples-only --set=SHOW_CONTEXT=never "$@" 2>&1; }
# say STEP: a line of JSON for each line.
say() { sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e "s/.*/[\"$1\", \"&\"]/"; }

# Some builds of psql come without TLS.
case $(psql -c 'SELECT 1') in *'SSL support is not compiled in'*) PGSSLMODE=disable ;; esac

for user in "$PGUSER" by_md5; do
    for mode in disable $PGSSLMODE; do
        PGSSLMODE=$mode psql -U "$user" -c "SELECT current_user, '$mode'" | say login
    done
done
PGPASSWORD=wrong psql -c 'SELECT 1' | grep -c 'password authentication failed' | say 'wrong password'

psql <<'SQL' | say types
INSERT INTO typed VALUES (1, -32768, 9223372036854775807, -12345678901234567890.123456789, 'naïve 🐘 ''quote'' \ back',
    '2024-02-29 23:59:59.123456+00', '80000000-0000-0000-0000-000000000001', '{"a": [1, null]}', '{"b": "ü"}',
    '{1,NULL,-3}', '{a,"{,}",NULL}', '\x00ff10', true) RETURNING *;
INSERT INTO typed VALUES (2);
SELECT * FROM typed ORDER BY id;
SELECT * FROM typed \gdesc
\d typed
\x
SELECT count(*) AS rows FROM typed;
SQL

psql <<'SQL' | say statements
INSERT INTO item (name, qty) VALUES ('one', 1) RETURNING id;
INSERT INTO item (name, qty) VALUES ('two', 2) RETURNING id \gset
\echo :id :ROW_COUNT :SQLSTATE
UPDATE item SET qty = qty + 1;
\echo :ROW_COUNT
PREPARE bump (int, int) AS UPDATE item SET qty = qty + $2 WHERE id = $1 RETURNING qty;
EXECUTE bump (1, 10);
EXECUTE bump (2, 20);
DEALLOCATE bump;
INSERT INTO item (name, qty) SELECT name || '!', qty FROM item WHERE id < 3 RETURNING id;
SELECT 'INSERT INTO item (name, qty) VALUES (''exec'', ' || n || ')' FROM generate_series(1, 3) n \gexec
SELECT count(*), sum(qty) FROM item;
INSERT INTO item (name, qty) VALUES ('together', 1) \; UPDATE item SET qty = qty + 1 WHERE id = 1 \; SELECT 'both';
SQL

# The extended protocol, which psql speaks in full since 18.
major=$("$program" --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
[ "$major" -lt 18 ] || psql <<'SQL' | say extended
INSERT INTO item (name, qty) VALUES ($1, $2) RETURNING id \bind 'bound' 7 \g
UPDATE item SET qty = qty + $1 WHERE name LIKE $2 \bind 2 'b%' \g
INSERT INTO item (name, qty) VALUES ($1, $2) RETURNING id \parse add
\bind_named add 'named' 1 \g
\bind_named add 'named' 2 \g
\startpipeline
\bind_named add 'piped' 1 \sendpipeline
UPDATE item SET qty = 0 WHERE id = $1 \bind 1 \sendpipeline
\syncpipeline
INSERT INTO item (name, qty) VALUES ($1, $2) \bind 'lost' 1 \sendpipeline
SELECT 1 / $1 \bind 0 \sendpipeline
\endpipeline
\startpipeline
SELECT count(*), sum(qty) FROM item \bind \sendpipeline
\endpipeline
\close_prepared add
SQL

# One message is one transaction.
psql -c "INSERT INTO item (name, qty) VALUES ('a', 1); INSERT INTO item (name, qty) VALUES ('b', 1)" \
    -c "INSERT INTO item (name, qty) VALUES ('lost', 1); SELECT 1/0" -c 'SELECT id, name FROM item ORDER BY id' | say script

seq 0 999 | sed 's/.*/&,word &/' >"$folder/in.csv"
psql -c "\\copy bulk FROM '$folder/in.csv' CSV" -c "\\copy bulk TO '$folder/out' BINARY" \
    -c "\\copy (SELECT * FROM bulk WHERE id < 3 ORDER BY id) TO STDOUT" | say copy
cksum <"$folder/out" | say 'copy out'
printf '2000\tlost\n1\tthere already\n' | psql -c 'COPY bulk FROM STDIN' | say 'copy error'
psql -c 'SELECT count(*), sum(id) FROM bulk' | say copied

# Ctrl-C while the statement runs.
sleeper=journey_$PGDATABASE
sleeps="SELECT count(*) FROM pg_stat_activity WHERE application_name = '$sleeper' AND wait_event = 'PgSleep'"
PGAPPNAME=$sleeper "$program" --no-psqlrc --quiet -c 'UPDATE account SET balance = 7 WHERE id = 1 AND pg_sleep(60) IS NOT NULL' \
    >"$folder/cancelled" 2>&1 &
running=$!
until [ "$(psql -c "$sleeps")" = 1 ]; do :; done
kill -INT "$running"
wait "$running"
echo "exit code $?" >>"$folder/cancelled"
say cancelled <"$folder/cancelled"
psql -c 'SELECT balance FROM account WHERE id = 1' | say 'after cancel'

psql <<'SQL' | say errors
INSERT INTO account VALUES (1, 1);
\echo :SQLSTATE
SELECT nope;
UPDATE account SET balance = -1;
\echo :SQLSTATE :LAST_ERROR_MESSAGE
SELEC;
SELECT 'goes on';
SQL

psql <<'SQL' | say transactions
BEGIN;
UPDATE account SET balance = balance - 10 WHERE id = 1;
SAVEPOINT here;
UPDATE account SET balance = balance + 1000 WHERE id = 2;
UPDATE account SET balance = balance - 1000 WHERE id = 1;
SELECT 1;
ROLLBACK TO here;
UPDATE account SET balance = balance + 10 WHERE id = 2;
COMMIT;
BEGIN;
DELETE FROM account;
ROLLBACK;
\set ON_ERROR_ROLLBACK on
BEGIN;
INSERT INTO account VALUES (3, 3);
INSERT INTO account VALUES (3, 3);
COMMIT;
\set AUTOCOMMIT off
UPDATE account SET balance = balance + 1 WHERE id = 3;
COMMIT;
UPDATE account SET balance = 0;
ROLLBACK;
\set FETCH_COUNT 2
SELECT * FROM account ORDER BY id;
SQL
