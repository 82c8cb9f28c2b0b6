//! Filters of table maps: what they are made of, and whether the origin takes them for immutable.

use std::collections::BTreeSet;

use pg_query::NodeEnum;
use pg_query::protobuf::SelectStmt;
use serde_json::Value;

use crate::protocol::postgres::catalog::{Catalog, Relation, quote};
use crate::protocol::postgres::client::{Client, Error};
use crate::protocol::postgres::grammar;
use crate::record::Side;

use super::{Rows, Scope, roots};

/// The columns that a filter names, each once.
///
/// # Errors
/// It is no single expression over columns of its own row.
pub fn columns(filter: &str) -> Result<Vec<String>, String> {
    // Alone it must be an expression as well, or it could end the parentheses that it is put into.
    if !is_single(&format!("SELECT {filter}")) {
        return Err("its filter is no expression of SQL".to_owned());
    }
    // Texts come from the configuration; what the grammar makes of them is its own affair.
    let names = grammar::look(&format!("SELECT FROM t WHERE ({filter})"), |tree| {
        let mut names = BTreeSet::new();
        let looked = serde_json::to_value(tree).map_err(|_| "its filter cannot be looked into".to_owned());
        Some(looked.and_then(|tree| collect(&tree, &mut names)).map(|()| names))
    });
    let names = names.ok_or("its filter is no expression of SQL")??;
    match names.is_empty() {
        true => Err("its filter names no column: use mirror.exclude to leave a table out".to_owned()),
        false => Ok(names.into_iter().collect()),
    }
}

/// As data: every node is looked at, wherever the grammar has it.
fn collect(tree: &Value, names: &mut BTreeSet<String>) -> Result<(), String> {
    match tree {
        Value::Array(nodes) => nodes.iter().try_for_each(|node| collect(node, names)),
        Value::Object(fields) => fields.iter().try_for_each(|(name, node)| match name.as_str() {
            "SubLink" => Err("its filter has a subquery: it may look at its own row only".to_owned()),
            "ParamRef" => Err("its filter has a parameter".to_owned()),
            "ColumnRef" => {
                names.insert(of_row(node)?);
                Ok(())
            }
            _ => collect(node, names),
        }),
        _ => Ok(()),
    }
}

fn of_row(column: &Value) -> Result<String, String> {
    let name = match column["fields"].as_array().map(Vec::as_slice) {
        Some([one]) => one.pointer("/node/String/sval").and_then(Value::as_str),
        _ => return Err("its filter names a column with its table: leave the table's name out".to_owned()),
    };
    name.map(str::to_owned).ok_or_else(|| "its filter has a `*`".to_owned())
}

/// It selects one thing, and does nothing else.
fn is_single(text: &str) -> bool {
    let is_single = grammar::look(text, |tree| {
        let [statement] = &tree.stmts[..] else { return None };
        let NodeEnum::SelectStmt(select) = statement.stmt.as_ref()?.node.as_ref()? else { return None };
        Some(is_bare(select) && select.target_list.len() == 1)
    });
    is_single.unwrap_or(false)
}

/// Nothing but what it selects.
fn is_bare(select: &SelectStmt) -> bool {
    let SelectStmt { target_list, limit_option, op, .. } = select;
    let bare =
        SelectStmt { target_list: target_list.clone(), limit_option: *limit_option, op: *op, ..Default::default() };
    *select == bare
}

/// Ask the origin what only a server can say: that a filter has a meaning for its table, and that it is immutable. It is
/// what a partial index demands as well, so one is made, of an empty temporary table, in a transaction that is rolled
/// back. Each table, and why not.
///
/// # Errors
/// The connection.
pub async fn refused(conn: &mut Client, scope: &Scope, catalog: &Catalog) -> Result<Vec<(String, String)>, Error> {
    debug_assert!(scope.primary == Side::Origin, "filters speak of the origin");
    let mut found = Vec::new();
    for table in roots(catalog) {
        let name = table.shown();
        let (false, Rows::Where(filter)) = (scope.excludes(&name), scope.rows(&name)) else { continue };
        if columns(filter).is_ok()
            && let Some(why) = is_refused(conn, table, filter).await?
        {
            found.push((name, format!("its filter is refused by the origin: {why}")));
        }
    }
    found.sort_unstable();
    Ok(found)
}

async fn is_refused(conn: &mut Client, table: &Relation, filter: &str) -> Result<Option<String>, Error> {
    let columns: Vec<String> = table.columns.iter().map(|column| quote(&column.name)).collect();
    let made = conn
        .simple(&format!(
            "BEGIN; SET LOCAL search_path = ''; SET LOCAL statement_timeout = '10s'; \
             CREATE TEMPORARY TABLE tandem_filter AS SELECT {} FROM ONLY {} WITH NO DATA; \
             CREATE INDEX ON pg_temp.tandem_filter ((1)) WHERE ({filter})",
            columns.join(", "),
            table.sql()
        ))
        .await;
    match made {
        Ok(_) => conn.simple("ROLLBACK").await.map(|_| None),
        Err(Error::Db(error)) => {
            conn.simple("ROLLBACK").await?;
            Ok(Some(error.to_string()))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_a_filter_are_found() {
        for (filter, names) in [
            ("tenant_id = 7", &["tenant_id"][..]),
            ("\"Tenant\" IN (1, 2) AND NOT gone OR at < '2020-01-01'", &["Tenant", "at", "gone"]),
            (
                "CASE WHEN a THEN b END AND coalesce(c, d) = 1 AND e BETWEEN f AND g OR h IS NULL AND i::text = ANY (ARRAY[j]) \
                 AND (k, l) < (ROW(m, n)) AND o[p] COLLATE \"C\" = q AT TIME ZONE 'UTC' AND GREATEST(r, s) > 1",
                &["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r", "s"],
            ),
            ("(data ->> 'kind') = 'x' AND lower(name) LIKE 'a%'", &["data", "name"]),
        ] {
            assert_eq!(columns(filter).expect(filter), names, "{filter}");
        }
    }

    #[test]
    fn what_is_more_than_an_expression_is_refused() {
        for filter in [
            "",
            "true) OR (true",
            "a = 1; DROP TABLE t",
            "a = 1 --",
            "a = 1, b",
            "a = 1 ORDER BY a",
            "a = 1 UNION SELECT 1",
            "a IN (SELECT b FROM u)",
            "EXISTS (SELECT 1)",
            "t.a = 1",
            "a = $1",
            "true",
        ] {
            assert!(columns(filter).is_err(), "{filter}");
        }
    }
}
