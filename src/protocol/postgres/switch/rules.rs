//! Everything that is looked for before a switch. Names are stable, and those that `tandem check` has mean the same; how
//! bad a finding is may differ, for here clients are about to move.

crate::check::rules! {
    ENCODING_DIFFERS: Error "encoding_differs" "the new primary's database has another encoding: create it with the old one's";
    COLLATION_DIFFERS: Note "collation_differs" "text sorts differently on the new primary, and unique or ordered queries may answer differently";
    PREPARED_TRANSACTIONS_DIFFER: Warning "prepared_transactions_differ" "two-phase transactions will be refused after the switch: raise max_prepared_transactions on the new primary";

    TABLE_WITHOUT_KEY: Error "table_without_key" "it is not mirrored, so its rows on the new primary are old or missing: give it a key and copy it, or know that it does not matter";
    FOREIGN_TABLE: Note "foreign_table" "its rows are elsewhere: the new primary needs a foreign table of its own";
    MATERIALIZED_VIEW: Note "materialized_view" "not mirrored: REFRESH it on the new primary";
    TABLE_MISSING: Error "table_missing" "the new primary has no such table";
    NOT_A_TABLE: Error "not_a_table" "it is a table on the old primary and something else on the new one";
    COLUMN_MISSING: Error "column_missing" "the new primary has no such column";
    COLUMN_UNKNOWN: Error "column_unknown" "the new primary has a column that is NOT NULL without a default: inserts of today's clients are refused there";
    COLUMN_TYPE_DIFFERS: Warning "column_type_differs" "drivers see another type after the switch, and the newest rows are compared without this column";
    COLUMN_COLLATION_DIFFERS: Warning "column_collation_differs" "the column sorts and compares by another collation on the new primary: ORDER BY, ranges and unique indexes of it answer differently";
    COLUMN_ORDER_DIFFERS: Warning "column_order_differs" "SELECT * and INSERT without a column list mean something else after the switch";
    NOT_NULL_DIFFERS: Warning "not_null_differs" "the column is NOT NULL on one side only: the new primary refuses rows that the old one takes, or takes NULLs that the old one refuses";
    COLUMN_DEFAULT_DIFFERS: Error "column_default_differs" "what fills the column (a default, an identity, an expression) is missing on the new primary, or is another kind of it: today's inserts are refused there, or leave it NULL";
    RENAMED_TABLE: Error "renamed_table" "clients go on with the old primary's names, which the new one does not know: make a view of the old name there, or deploy the new names with the switch, then ignore this";
    FILTERED_TABLE: Error "filtered_table" "only some of its rows are on both sides: what clients of the others ask for they will not find, and its rows are not mirrored back";
    UNLOGGED_TABLE: Warning "unlogged_table" "it is unlogged on the new primary only, and loses its rows in a crash: SET LOGGED";
    LARGE_OBJECTS: Warning "large_objects" "large objects are not mirrored: copy them, or move them into bytea columns";

    UNIQUE_MISSING: Error "unique_missing" "the new primary has no such unique index: duplicates are taken, and ON CONFLICT fails";
    INDEX_MISSING: Warning "index_missing" "the new primary has no such index: what needs it is slow after the switch";
    INDEX_INVALID: Error "index_invalid" "the index on the new primary was not built to its end: REINDEX or drop it";
    CONSTRAINT_MISSING: Warning "constraint_missing" "the new primary does not check this";
    CONSTRAINT_NOT_VALID: Warning "constraint_not_valid" "the new primary has not checked it for the rows that are there, or does not enforce it: ALTER TABLE .. VALIDATE CONSTRAINT";
    FOREIGN_KEY_DIFFERS: Warning "foreign_key_differs" "the foreign key of this name refers to something else on the new primary, or does something else when a row goes or changes: make it anew as it is on the old one";
    FOREIGN_KEY_OFF: Error "foreign_key_off" "the foreign key's own triggers are disabled on the new primary: ALTER TABLE .. ENABLE TRIGGER ALL, on both of its tables";

    ROW_SECURITY_DIFFERS: Error "row_security_differs" "row security is on, or forced, on one side only: clients see rows that they must not see after the switch, or none: ALTER TABLE .. ENABLE or FORCE ROW LEVEL SECURITY";
    POLICY_DIFFERS: Error "policy_differs" "the policy is on one side only, or says something else on the new primary: clients see and write other rows after the switch";
    VIEW_MISSING: Warning "view_missing" "the new primary has no such view: statements that name it fail";
    FUNCTION_MISSING: Warning "function_missing" "the new primary has no such function: statements that call it fail";

    TYPE_MISSING: Error "type_missing" "the new primary has no such type";
    TYPE_DIFFERS: Error "type_differs" "the new primary's type lacks labels, or is made of other fields, or in another order: what clients write is refused there, or means something else";
    ENUM_ORDER_DIFFERS: Warning "enum_order_differs" "labels sort otherwise on the new primary: ORDER BY, ranges and comparisons answer differently";
    DOMAIN_DIFFERS: Warning "domain_differs" "the domain is over another type on the new primary, or takes other values";
    TYPE_OID_DIFFERS: Warning "type_oid_differs" "drivers remember oids by connection: clients that use this type must reconnect after the switch";
    EXTENSION_MISSING: Error "extension_missing" "CREATE EXTENSION on the new primary";
    EXTENSION_VERSION_DIFFERS: Note "extension_version_differs" "ALTER EXTENSION .. UPDATE, or know that both versions do the same";
    COLLATION_MISSING: Warning "collation_missing" "create it on the new primary";
    ROLE_MISSING: Warning "role_missing" "this role can log in to the old primary and is not on the new one: its clients will be refused";
    SETTING_DIFFERS: Warning "setting_differs" "the servers are set otherwise, and a session that says nothing means something else after the switch: set it on the new primary, or know that clients say it themselves";
    ROLE_SETTING_DIFFERS: Warning "role_setting_differs" "ALTER ROLE or ALTER DATABASE .. SET differs: sessions mean something else after the switch; set it on both";
    PRIVILEGE_MISSING: Error "privilege_missing" "this role may do so on the old primary and not on the new one: its clients are refused there; GRANT it on the new primary (pg_dump --schema-only has all grants of the old one)";
    READ_ONLY_BY_DEFAULT: Error "read_only_by_default" "sessions on the new primary are read-only unless they ask for more: reset default_transaction_read_only there";

    SEQUENCE_MISSING: Error "sequence_missing" "create it on the new primary: after the switch clients ask it for numbers";
    SEQUENCE_UNREADABLE: Error "sequence_unreadable" "tandem's role on the old primary needs SELECT on the sequence and USAGE on its schema, or its position stays unknown";
    MAY_NOT_SET_SEQUENCE: Error "may_not_set_sequence" "tandem's role on the new primary needs SELECT and UPDATE on the sequence and USAGE on its schema";
    SEQUENCE_DIFFERS: Error "sequence_differs" "it counts the other way on the new primary, or the position is outside its limits there: ALTER SEQUENCE";
    SEQUENCE_AMBIGUOUS: Error "sequence_ambiguous" "the column owns several sequences, and their names do not say which of the new primary's goes on where it stands: give them the same names on both sides, or ALTER SEQUENCE .. OWNED BY NONE";

    TRIGGER_MISSING: Warning "trigger_missing" "it fires on the old primary and is not on the new one";
    TRIGGER_DIFFERS: Warning "trigger_differs" "it fires at other times on the new primary than on the old one: ALTER TABLE .. ENABLE or DISABLE TRIGGER";
    TRIGGER_ON_MIRRORED_ROWS: Warning "trigger_on_mirrored_rows" "an ALWAYS or REPLICA trigger also fires on what is mirrored back: what it writes may differ from the new primary's rows";
    MAY_NOT_SWITCH_TRIGGER: Error "may_not_switch_trigger" "tandem's role must own the table (be a member of its owner's role) to switch its triggers, or be allowed to set session_replication_role there";
    RULES_ACT: Error "rules_act" "a rule would rewrite what is mirrored back, and tandem's role there may not set session_replication_role: grant it, or drop the rule";

    LONG_TRANSACTION: Error "long_transaction" "it is open for longer than clients may be held, and the switch waits for it: end it, or try later";
    PREPARED_TRANSACTION: Error "prepared_transaction" "it is prepared for longer than clients may be held, and the switch waits for it: COMMIT PREPARED or ROLLBACK PREPARED";
    BYPASSING: Warning "bypassing" "a session that does not come through tandem: what it writes after the switch is on the old primary only, and it may do so for as long as it is connected: end it before the switch (pg_terminate_backend)";
    ANOTHER_TANDEM: Error "another_tandem" "a tandem with another journal is connected: its clients would go on with the old primary, and it mirrors nothing once the other side answers. Stop it";
    MAY_NOT_SEE_STATS: Warning "may_not_see_stats" "GRANT pg_read_all_stats to tandem's role: without it nobody can be told what sessions of others do";
    MAY_NOT_TERMINATE: Warning "may_not_terminate" "strangers in the way shall be terminated: GRANT pg_signal_backend to tandem's role";
    MAY_NOT_SET_READ_ONLY: Warning "may_not_set_read_only" "the old primary shall refuse late writers: tandem's role must own the database there (be a member of its owner's role)";

    REVERSE_STORE: Error "reverse_store" "tandem cannot keep its own tables there, so nothing could be mirrored back: GRANT CREATE ON DATABASE to its role";
    REVERSE_FENCED: Error "reverse_fenced" "the old primary could not be mirrored to: another tandem applies there, or it answers another one's clients: stop that one";
    REVERSE_TABLE: Error "reverse_table" "its rows could not be mirrored back after the switch";
    REVERSE_LOST: Error "reverse_lost" "a value written on the new primary did not arrive on the old one as it was";
}
