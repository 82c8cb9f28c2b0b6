//! Could a PL/pgSQL body end a transaction? Only a procedure or DO block that could must be expected to have committed
//! something when it fails.

/// Whether PL/pgSQL with this source could commit on its way: it says COMMIT itself, or runs another body by CALL or DO.
/// No other statement can: what EXECUTE runs, and functions, are refused transaction control (2D000). A word in a
/// comment or literal counts as well: the answer errs to the safe side.
pub fn could_commit(source: &str) -> bool {
    // A backslash could spell a word that another dialect of literals reads otherwise.
    source.contains('\\') || words(source).any(|(word, rest)| ends(word, rest))
}

fn ends(word: &str, rest: &str) -> bool {
    let is = |keyword: &str| word.eq_ignore_ascii_case(keyword);
    is("commit") || is("call") || is("do") && !of_conflict(rest)
}

/// ON CONFLICT DO NOTHING, DO UPDATE.
fn of_conflict(rest: &str) -> bool {
    let next = words(rest.trim_start()).next();
    next.is_some_and(|(word, behind)| {
        let adjoins = word.len() + behind.len() == rest.trim_start().len();
        adjoins && (word.eq_ignore_ascii_case("nothing") || word.eq_ignore_ascii_case("update"))
    })
}

/// Words, each with what follows it.
fn words(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let part = |char: char| char.is_alphanumeric() || matches!(char, '_' | '$');
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches(|char| !part(char));
        let end = rest.find(|char| !part(char)).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(end);
        rest = behind;
        (!word.is_empty()).then_some((word, behind))
    })
}

#[cfg(test)]
mod tests {
    use super::could_commit;

    #[test]
    fn only_bodies_that_name_a_way_to_commit_could() {
        for calm in [
            "BEGIN INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING; END",
            "begin insert into t values (1) on conflict (id) do\n update set v = commits; rollback; end",
            "BEGIN PERFORM undo(1), recall FROM t; RAISE 'no'; END",
            "",
        ] {
            assert!(!could_commit(calm), "{calm}");
        }
        for hot in [
            "BEGIN COMMIT; END",
            "BEGIN commit and chain; END",
            "BEGIN Call p(); END",
            "BEGIN DO $$BEGIN END$$; END",
            "BEGIN DO 'update'; END",
            "BEGIN DO /* update */ $x$ $x$; END",
            "BEGIN c\\157mmit; END",
            "do",
        ] {
            assert!(could_commit(hot), "{hot}");
        }
    }
}
