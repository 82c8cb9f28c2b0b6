#!/bin/sh
# The journey with cqlsh, which is the argument.
exec "$1" --no-color --encoding utf-8 --connect-timeout 20 --request-timeout 30 --protocol-version "$CQL_VERSION" \
    -k "$CQL_KEYSPACE" -f "$(dirname "$0")/journey.cql" "$CQL_HOST" "$CQL_PORT"
