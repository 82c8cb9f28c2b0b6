//! What a body in PL/pgSQL or SQL cannot do, told from its source: end a transaction (only a procedure or DO block that could must
//! be expected to have committed something when it fails, and must come first in its own), change the key of the row that a trigger was called for,
//! or set something for its session.

/// Whether PL/pgSQL with this source could end its transaction on its way: it says COMMIT or ROLLBACK itself, or runs
/// another body by CALL or DO.
/// No other statement can: what EXECUTE runs, and functions, are refused transaction control (2D000). A word in a
/// comment or literal counts as well: the answer errs to the safe side.
pub fn could_end(source: &str) -> bool {
    // A backslash could spell a word that another dialect of literals reads otherwise.
    source.contains('\\') || words(source).any(|(word, rest)| ends(word, rest))
}

fn ends(word: &str, rest: &str) -> bool {
    let is = |keyword: &str| word.eq_ignore_ascii_case(keyword);
    is("commit") || is("rollback") || is("call") || is("do") && !of_conflict(rest)
}

/// ON CONFLICT DO NOTHING, DO UPDATE.
fn of_conflict(rest: &str) -> bool {
    let next = words(rest.trim_start()).next();
    next.is_some_and(|(word, behind)| {
        let adjoins = word.len() + behind.len() == rest.trim_start().len();
        adjoins && (word.eq_ignore_ascii_case("nothing") || word.eq_ignore_ascii_case("update"))
    })
}

/// Whether code with this source could set something that lasts longer than itself: it says SET or RESET itself, runs what
/// only its arguments say, or calls what could (`sets`, by name). The SET of an UPDATE is none. A word in a comment or
/// literal counts as well: the answer errs to the safe side.
pub fn could_set(source: &str, mut sets: impl FnMut(&str) -> bool) -> bool {
    source.contains('\\')
        || source.split(';').any(|statement| {
            let mut updates = false;
            words(statement).any(|(word, _)| {
                let small = word.to_lowercase();
                updates |= small == "update";
                SETTING.contains(&&*small) || small == "set" && !updates || sets(word) || sets(&small)
            })
        })
}

/// Words by which something is set, but for SET; that of UESCAPE spells names otherwise.
const SETTING: &[&str] = &["discard", "execute", "reset", "set_config", "uescape"];

/// Whether a BEFORE trigger with this source leaves these columns of the row as they are: the row is named only to
/// be returned whole, to be compared, or for one of its other columns; or it is copied to a variable, of which the same is true.
/// `updated_at` triggers are of that kind. A row that is skipped (NULL) or left as it was (OLD) keeps its key too.
pub fn keeps(source: &str, columns: &[&str]) -> bool {
    let copy = words(source).find_map(|(word, rest)| is_the_row(word).then(|| copy(source, word, rest)).flatten());
    let is_row = |word: &str| is_the_row(word) || copy.is_some_and(|copy| copy.eq_ignore_ascii_case(word));
    !source.contains('\\')
        && words(source).all(|(word, rest)| match () {
            () if is_the_row(word) && self::copy(source, word, rest).is_some_and(is_row) => true,
            () if is_row(word) => {
                // `_new record;` and `_new := NEW;` are all that may else be said of the copy.
                let is_named = !is_the_row(word) && (is_declared(rest) || becomes_the_row(rest));
                is_named || is_returned(source, word) || is_compared(source, word, rest) || other_column(rest, columns)
            }
            () if word.eq_ignore_ascii_case("return") => returns_the_row(rest, is_row),
            () => true,
        })
}

fn is_the_row(word: &str) -> bool {
    word.eq_ignore_ascii_case("new")
}

/// The variable that takes the row, in `variable := NEW;`.
fn copy<'s>(source: &'s str, word: &str, rest: &str) -> Option<&'s str> {
    let before = before(source, word).trim_end();
    let before = before.strip_suffix(":=").or_else(|| before.strip_suffix('='))?.trim_end();
    let variable = last_word(before);
    let begun = before.strip_suffix(variable)?.trim_end();
    let ends = |word: &&str| last_word(begun).eq_ignore_ascii_case(word);
    let begins = begun.ends_with(';') || ["begin", "then", "else", "loop"].iter().any(ends);
    let is_name = variable.is_ascii() && variable.starts_with(|char: char| char.is_ascii_alphabetic() || char == '_');
    (is_name && begins && rest.trim_start().starts_with(';')).then_some(variable)
}

fn before<'s>(source: &'s str, word: &str) -> &'s str {
    let at = word.as_ptr() as usize - source.as_ptr() as usize;
    source.get(..at).unwrap_or_default()
}

/// The word that a text ends with.
fn last_word(text: &str) -> &str {
    text.strip_prefix(text.trim_end_matches(is_part)).unwrap_or_default()
}

/// `record;`: the rest of a declaration.
fn is_declared(rest: &str) -> bool {
    let rest = rest.trim_start();
    words(rest).next().is_some_and(|(word, behind)| {
        word.len() + behind.len() == rest.len()
            && word.eq_ignore_ascii_case("record")
            && behind.trim_start().starts_with(';')
    })
}

/// `:= NEW;`
fn becomes_the_row(rest: &str) -> bool {
    let rest = rest.trim_start();
    rest.strip_prefix(":=").or_else(|| rest.strip_prefix('=')).is_some_and(|rest| {
        let rest = rest.trim_start();
        words(rest).next().is_some_and(|(word, behind)| {
            let adjoins = word.len() + behind.len() == rest.len();
            adjoins && is_the_row(word) && behind.trim_start().starts_with(';')
        })
    })
}

/// `NEW IS ..`, `.. DISTINCT FROM NEW`, `NEW.*`: nothing is assigned by these.
fn is_compared(source: &str, word: &str, rest: &str) -> bool {
    let next = rest.trim_start();
    let is_asked = next.len() < rest.len()
        && words(next).next().is_some_and(|(next_word, behind)| {
            next_word.eq_ignore_ascii_case("is") && next_word.len() + behind.len() == next.len()
        });
    let before = before(source, word).trim_end();
    let from = last_word(before);
    let behind_distinct = || {
        let before = before.strip_suffix(from).unwrap_or_default();
        last_word(before.trim_end()).eq_ignore_ascii_case("distinct")
    };
    is_asked || rest.starts_with(".*") || from.eq_ignore_ascii_case("from") && behind_distinct()
}

/// Whether a trigger with this source writes nothing but its own row. `hot`: names of functions and types of the user's
/// that may write; `reads`: so may what is read, by views. A word in a comment or literal counts as well: the answer
/// errs to the safe side.
pub fn is_calm(source: &str, hot: impl Fn(&str) -> bool, reads: bool) -> bool {
    let mut before = String::new();
    !source.contains('\\')
        && words(source).all(|(word, _)| {
            let small = word.to_lowercase();
            let compared = small == "from" && before == "distinct";
            let read = small == "from" && reads && !compared;
            let plain = !read && WRITING.binary_search(&&*small).is_err() && !is_odd(&small);
            let calm = plain && !hot(word) && !hot(&small);
            before = small;
            calm
        })
}

/// Words without which PL/pgSQL neither writes, nor runs what may, nor leaves anything behind in its session.
const WRITING: &[&str] = &[
    "alter",
    "call",
    "cluster",
    "copy",
    "create",
    "delete",
    "discard",
    "do",
    "drop",
    "execute",
    "import",
    "insert",
    "listen",
    "merge",
    "prepare",
    "refresh",
    "reindex",
    "reset",
    "rowtype",
    "set",
    "set_config",
    "table",
    "truncate",
    "type",
    "uescape",
    "unlisten",
    "update",
];

/// Built-in functions that run what their arguments say, write large objects, or lock for the session.
fn is_odd(word: &str) -> bool {
    word.contains("xml")
        || word.contains("advisory")
        || word.starts_with("ts_")
        || word.starts_with("lo_")
        || word == "lowrite"
}

/// `RETURN` stands right before this word of the source.
fn is_returned(source: &str, word: &str) -> bool {
    let before = before(source, word);
    before.ends_with(char::is_whitespace) && last_word(before.trim_end()).eq_ignore_ascii_case("return")
}

/// `.column`, and not one of these.
fn other_column(rest: &str, columns: &[&str]) -> bool {
    let Some(rest) = rest.strip_prefix('.') else { return false };
    if let Some(quoted) = rest.strip_prefix('"') {
        let Some((column, behind)) = quoted.split_once('"') else { return false };
        return !behind.starts_with('"') && !columns.iter().any(|key| key.eq_ignore_ascii_case(column));
    }
    words(rest).next().is_some_and(|(column, behind)| {
        let adjoins = column.len() + behind.len() == rest.len();
        adjoins && !columns.iter().any(|key| key.eq_ignore_ascii_case(column))
    })
}

/// `NEW;`, `OLD;` or `NULL;`: no other record takes the row's place.
fn returns_the_row(rest: &str, is_row: impl Fn(&str) -> bool) -> bool {
    let rest = rest.trim_start();
    words(rest).next().is_some_and(|(word, behind)| {
        let known = is_row(word) || ["old", "null"].iter().any(|known| word.eq_ignore_ascii_case(known));
        known && word.len() + behind.len() == rest.len() && behind.trim_start().starts_with(';')
    })
}

/// Of a word.
fn is_part(char: char) -> bool {
    char.is_alphanumeric() || matches!(char, '_' | '$')
}

/// Words, each with what follows it.
fn words(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches(|char| !is_part(char));
        let end = rest.find(|char| !is_part(char)).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(end);
        rest = behind;
        (!word.is_empty()).then_some((word, behind))
    })
}

/// Built-in functions that PostgreSQL calls stable, and that depend on nothing but their arguments and settings such as
/// `TimeZone`, `DateStyle`, `lc_*`, or on the text forms of types. Of the others each tells the time, the user, or
/// something of its server (`pg_proc.dat`, those with provolatile `s`).
const BY_SETTINGS: &[&str] = &[
    "array_to_json",
    "array_to_string",
    "concat",
    "concat_ws",
    "convert",
    "convert_from",
    "convert_to",
    "date",
    "date_add",
    "date_bin",
    "date_part",
    "date_subtract",
    "date_trunc",
    "enum_first",
    "enum_last",
    "enum_range",
    "extract",
    "format",
    "generate_series",
    "get_current_ts_config",
    "in_range",
    "interval_pl_timestamptz",
    "json_agg",
    "json_agg_strict",
    "json_array",
    "json_arrayagg",
    "json_build_array",
    "json_build_object",
    "json_object_agg",
    "json_object_agg_strict",
    "json_object_agg_unique",
    "json_object_agg_unique_strict",
    "json_populate_record",
    "json_populate_recordset",
    "json_to_record",
    "json_to_recordset",
    "json_to_tsvector",
    "jsonb_agg",
    "jsonb_agg_strict",
    "jsonb_build_array",
    "jsonb_build_object",
    "jsonb_object_agg",
    "jsonb_object_agg_strict",
    "jsonb_object_agg_unique",
    "jsonb_object_agg_unique_strict",
    "jsonb_path_exists_tz",
    "jsonb_path_match_tz",
    "jsonb_path_query_array_tz",
    "jsonb_path_query_first_tz",
    "jsonb_path_query_tz",
    "jsonb_populate_record",
    "jsonb_populate_recordset",
    "jsonb_to_record",
    "jsonb_to_recordset",
    "jsonb_to_tsvector",
    "length",
    "make_timestamptz",
    "money",
    "numeric",
    "overlaps",
    "phraseto_tsquery",
    "plainto_tsquery",
    "quote_literal",
    "quote_nullable",
    "row_to_json",
    "time",
    "timestamp",
    "timestamptz",
    "timetz",
    "timezone",
    "to_char",
    "to_date",
    "to_json",
    "to_jsonb",
    "to_number",
    "to_timestamp",
    "to_tsquery",
    "to_tsvector",
    "websearch_to_tsquery",
    "xml",
    "xml_is_well_formed",
];

/// Whether a built-in function that is called stable answers the same on any server under the same settings.
pub fn depends_on_settings(name: &str) -> bool {
    BY_SETTINGS.binary_search(&name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::{BY_SETTINGS, WRITING, could_end, could_set, depends_on_settings, is_calm, keeps};

    #[test]
    fn a_trigger_is_calm_that_names_no_way_to_write() {
        assert!(WRITING.is_sorted());
        let hot = |word: &str| word == "put";
        for calm in [
            "BEGIN NEW.updated_at = now(); RETURN NEW; END",
            "BEGIN IF NEW IS DISTINCT FROM OLD THEN new.\"v\" := lower(NEW.v); END IF; RETURN NEW; END",
            "BEGIN PERFORM pg_notify('changed', NEW.id::text); RETURN NULL; END",
            "BEGIN IF NEW.v < 0 THEN RAISE EXCEPTION 'no'; END IF; RETURN NEW; END",
        ] {
            assert!(is_calm(calm, hot, true), "{calm}");
        }
        for other in [
            "BEGIN INSERT INTO log VALUES (1); RETURN NEW; END",
            "BEGIN Update t SET v = 1; RETURN NULL; END",
            "BEGIN PERFORM put(1); RETURN NULL; END",
            "BEGIN NEW.v := \"PUT\"(1); RETURN NEW; END",
            "BEGIN EXECUTE 'del' || 'ete from t'; RETURN NULL; END",
            "BEGIN NEW.v := max(v) FROM view_that_writes; RETURN NEW; END",
            "BEGIN NEW.v := (TABLE view_that_writes); RETURN NEW; END",
            "BEGIN PERFORM query_to_xml(TG_ARGV[0], true, true, ''); RETURN NULL; END",
            "BEGIN PERFORM set_config('app.seen', 'yes', false); RETURN NULL; END",
            "BEGIN PERFORM pg_advisory_lock(1); RETURN NULL; END",
            "BEGIN PERFORM U&\"\\0070ut\"(1); RETURN NULL; END",
            "DECLARE x t.v%TYPE := 1; BEGIN RETURN NEW; END",
        ] {
            assert!(!is_calm(other, hot, true), "{other}");
        }
        let reads = "BEGIN IF (SELECT sum(v) FROM t) < 0 THEN RAISE 'no'; END IF; RETURN NULL; END";
        assert!(is_calm(reads, hot, false) && !is_calm(reads, hot, true));
    }

    #[test]
    fn what_tells_the_time_does_not_depend_on_settings_alone() {
        assert!(BY_SETTINGS.is_sorted());
        assert!(depends_on_settings("to_char") && depends_on_settings("concat"));
        for unsteady in ["now", "age", "current_setting", "version", "to_regclass", "txid_current", "session_user"] {
            assert!(!depends_on_settings(unsteady), "{unsteady}");
        }
    }

    #[test]
    fn a_trigger_that_names_no_key_column_of_its_row_keeps_the_key() {
        for calm in [
            "BEGIN NEW.updated_at = now(); RETURN NEW; END",
            "begin new.updated_at := now();\n new.\"v\" := 1; if tg_op = 'DELETE' then return old; end if; return\n new ; end",
            "BEGIN IF OLD.id = 3 THEN RETURN NULL; END IF; INSERT INTO log VALUES (OLD.id); RETURN NEW; END",
            "BEGIN SELECT max(at) INTO NEW.at FROM t; RETURN NEW; END",
            // What diesel, Hasura and the like make.
            "BEGIN IF (NEW IS DISTINCT FROM OLD AND NEW.updated_at IS NOT DISTINCT FROM OLD.updated_at) THEN \
             NEW.updated_at := current_timestamp; END IF; RETURN NEW; END;",
            "BEGIN IF row(NEW.*) IS DISTINCT FROM row(OLD.*) THEN NEW.v = 1; END IF; RETURN NEW; END",
            "BEGIN IF OLD is  distinct\n FROM new THEN NEW.v = 1; END IF; RETURN NEW; END",
            "DECLARE _new record; BEGIN _new := NEW; _new.\"updated_at\" = NOW(); RETURN _new; END;",
            "BEGIN NEW.\"my-key\" := 1; RETURN NEW; END",
        ] {
            assert!(keeps(calm, &["id", "k"]), "{calm}");
        }
        for hot in [
            "BEGIN NEW.id = 3; RETURN NEW; END",
            "BEGIN new . id := 3; RETURN NEW; END",
            "BEGIN NEW.\"ID\" := 3; RETURN NEW; END",
            "BEGIN NEW./**/k := 3; RETURN NEW; END",
            "BEGIN NEW := other; RETURN NEW; END",
            "BEGIN SELECT * INTO NEW FROM t; RETURN NEW; END",
            "DECLARE r record; BEGIN RETURN r; END",
            "DECLARE r record; BEGIN RETURN -- new;\n r; END",
            "DECLARE row ALIAS FOR NEW; BEGIN row.id := 1; RETURN NEW; END",
            "BEGIN RETURN jsonb_populate_record(NEW, '{}'); END",
            "BEGIN f.new.k := 1; RETURN NEW; END",
            "BEGIN NEW.U&\"\\0069d\" := 1; RETURN NEW; END",
            "BEGIN RETURN (NEW); END",
            "DECLARE _new record; BEGIN _new := NEW; _new.id = 1; RETURN _new; END;",
            "DECLARE _new record; BEGIN _new := NEW; SELECT * INTO _new FROM t; RETURN _new; END;",
            "DECLARE _new record; BEGIN _new := NEW; _new := other; RETURN _new; END;",
            "DECLARE a record; b record; BEGIN a := NEW; b := NEW; b.id := 1; RETURN b; END;",
            "DECLARE _new record; BEGIN _new := NEW; PERFORM put(_new); FETCH c INTO _new; RETURN _new; END;",
            "BEGIN SELECT 1 INTO NEW FROM t WHERE v IS DISTINCT FROM 1; RETURN NEW; END",
            "BEGIN NEW.\"i-d\" := 1; RETURN NEW; END",
        ] {
            assert!(!keeps(hot, &["id", "k", "i-d"]), "{hot}");
        }
    }

    #[test]
    fn only_bodies_that_name_a_way_to_set_something_could() {
        let sets = |word: &str| word == "become";
        for calm in [
            "BEGIN UPDATE t SET v = 1 WHERE id = 2; RETURN 3; END",
            "BEGIN INSERT INTO t VALUES (1) ON CONFLICT (id) DO UPDATE SET v = 2; END",
            "SELECT sum(v), current_setting('app.tenant') FROM t",
            "",
        ] {
            assert!(!could_set(calm, sets), "{calm}");
        }
        for other in [
            "BEGIN PERFORM set_config('app.tenant', who, false); END",
            "BEGIN UPDATE t SET v = 1; SET search_path = b; END",
            "begin set role other; end",
            "BEGIN RESET ALL; END",
            "BEGIN EXECUTE what; END",
            "SELECT app.\"become\"('red')",
            "SELECT Become('red')",
            "SELECT U&\"\\0062ecome\"('red')",
        ] {
            assert!(could_set(other, sets), "{other}");
        }
    }

    #[test]
    fn only_bodies_that_name_a_way_to_end_their_transaction_could() {
        for calm in [
            "BEGIN INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING; END",
            "begin insert into t values (1) on conflict (id) do\n update set v = commits; end",
            "BEGIN PERFORM undo(1), recall FROM t; RAISE 'no'; END",
            "",
        ] {
            assert!(!could_end(calm), "{calm}");
        }
        for hot in [
            "BEGIN COMMIT; END",
            "BEGIN INSERT INTO t VALUES (1); ROLLBACK; END",
            "BEGIN commit and chain; END",
            "BEGIN Call p(); END",
            "BEGIN DO $$BEGIN END$$; END",
            "BEGIN DO 'update'; END",
            "BEGIN DO /* update */ $x$ $x$; END",
            "BEGIN c\\157mmit; END",
            "do",
        ] {
            assert!(could_end(hot), "{hot}");
        }
    }
}
