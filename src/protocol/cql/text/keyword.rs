//! The words of CQL's grammar (`Lexer.g`, `Parser.g`): those that cannot be names, and all that are no data.

/// Whether an unquoted `word` cannot be a name. The union over versions of what is needed to tell clauses from names:
/// words that only newer servers reserve are left out, as a client of an older one may use them.
pub fn is_reserved(word: &[u8]) -> bool {
    listed(RESERVED, word)
}

/// Whether `word` means something to the grammar, reserved or not.
pub fn is_keyword(word: &[u8]) -> bool {
    is_reserved(word) || listed(UNRESERVED, word)
}

/// Whether `word` names a native type, so that it may also name a cast's target.
pub fn is_native_type(word: &[u8]) -> bool {
    listed(NATIVE_TYPES, word)
}

fn listed(list: &[&str], word: &[u8]) -> bool {
    list.iter().any(|known| word.eq_ignore_ascii_case(known.as_bytes()))
}

#[rustfmt::skip]
const RESERVED: &[&str] = &[
    "add", "allow", "alter", "and", "apply", "asc", "authorize", "batch", "begin", "by", "columnfamily", "create",
    "delete", "desc", "describe", "drop", "entries", "execute", "false", "from", "full", "grant", "if", "in", "index",
    "infinity", "insert", "into", "is", "keyspace", "limit", "materialized", "modify", "nan", "norecursive", "not",
    "null", "of", "on", "or", "order", "primary", "rename", "revoke", "schema", "select", "set", "table", "to", "token",
    "true", "truncate", "unlogged", "update", "use", "using", "view", "where", "with",
];

#[rustfmt::skip]
const UNRESERVED: &[&str] = &[
    "access", "aggregate", "aggregates", "all", "ann", "as", "between", "called", "cast", "cidrs", "cluster",
    "clustering", "columnfamilies", "compact", "contains", "count", "custom", "datacenters", "default", "distinct",
    "exists", "filtering", "finalfunc", "frozen", "function", "functions", "generated", "group", "hashed", "identity",
    "initcond", "input", "internals", "json", "key", "keys", "keyspaces", "language", "like", "list", "login", "map",
    "masked", "maxwritetime", "mbean", "mbeans", "nologin", "nosuperuser", "only", "options", "partition", "password",
    "per", "permission", "permissions", "replace", "returns", "role", "roles", "select_masked", "sfunc", "static",
    "storage", "stype", "superuser", "superusers", "tables", "timestamp", "trigger", "ttl", "tuple", "type", "types",
    "unmask", "unset", "user", "users", "values", "vector", "writetime",
];

#[rustfmt::skip]
const NATIVE_TYPES: &[&str] = &[
    "ascii", "bigint", "blob", "boolean", "counter", "date", "decimal", "double", "duration", "float", "inet", "int",
    "smallint", "text", "time", "timestamp", "timeuuid", "tinyint", "uuid", "varchar", "varint",
];
