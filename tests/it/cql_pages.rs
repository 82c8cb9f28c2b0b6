//! A page that one node began can be continued by another, of another version, in another version of the protocol: on this stands
//! a switch in the midst of a client's paging.

use tandem::sandbox::cassandra::Node;

use crate::support::cassandra::pair_with;
use crate::support::cql::{Ask, Cql, Dial};

/// Queries, and how many rows they have.
const QUERIES: &[(&str, usize)] = &[
    ("SELECT k, c FROM t", 24),
    ("SELECT k, c FROM t WHERE k = 2", 6),
    ("SELECT DISTINCT k FROM t", 4),
    ("SELECT k, c FROM t LIMIT 13", 13),
    ("SELECT k, c FROM t WHERE k IN (1, 3)", 12),
    ("SELECT k, c FROM t PER PARTITION LIMIT 2", 8),
    ("SELECT k, c FROM t WHERE k = 1 ORDER BY c DESC", 6),
    ("SELECT k, c FROM t WHERE v = 1", 6),
    ("SELECT k, c FROM t WHERE c > 7 ALLOW FILTERING", 16),
    ("SELECT k, max(c) FROM t GROUP BY k", 4),
    ("SELECT k, max(c) FROM t WHERE k IN (0, 1, 2, 3) GROUP BY k, c", 24),
    ("SELECT k, c FROM by_v WHERE v = 1", 6),
];

/// One page, and where the next begins.
fn page(cql: &mut Cql, query: &str, state: Option<&[u8]>) -> (Vec<String>, Option<Vec<u8>>) {
    let ask = Ask { page_size: Some(3), paging_state: state, ..Ask::default() };
    let rows = cql.query(query, &ask).expect(query).rows();
    (rows.lines(), rows.paging_state)
}

/// Two pages from one, the rest from the other.
fn begun_and_continued(begun: &mut Cql, continued: &mut Cql, query: &str) -> Vec<String> {
    let (mut all, mut state) = page(begun, query, None);
    let mut turn = 1;
    while let Some(at) = state {
        let cql = if turn < 2 { &mut *begun } else { &mut *continued };
        let (rows, next) = page(cql, query, Some(&at));
        all.extend(rows);
        (state, turn) = (next, turn + 1);
    }
    all
}

fn clients_of(nodes: [&Node; 2]) -> Vec<(String, Cql)> {
    let both = nodes.into_iter().flat_map(|node| [3, 4, 5].map(|version| (node, version)));
    let named = both.map(|(node, version)| {
        let cql = Cql::with(node, "pages", &Dial { version, ..Dial::default() });
        (format!("{} v{version}", node.distribution().version), cql)
    });
    named.collect()
}

#[test]
fn a_page_is_continued_by_any_version_in_any_protocol() {
    let nodes = pair_with("pages");
    for node in nodes {
        let mut cql = Cql::of(node, "pages");
        cql.define("CREATE TABLE t (k int, c int, v int, PRIMARY KEY (k, c))");
        cql.define("CREATE INDEX ON t (v)");
        let view = "SELECT * FROM t WHERE v IS NOT NULL AND k IS NOT NULL AND c IS NOT NULL";
        cql.define(&format!("CREATE MATERIALIZED VIEW by_v AS {view} PRIMARY KEY (v, k, c)"));
        for n in 0..24 {
            cql.run(&format!("INSERT INTO t (k, c, v) VALUES ({}, {n}, {})", n / 6, n % 4));
        }
    }
    let (mut begin, mut go_on) = (clients_of(nodes), clients_of(nodes));
    for (query, count) in QUERIES {
        let whole = Cql::of(nodes[0], "pages").rows(query);
        assert_eq!(whole.len(), *count, "{query}");
        for (one, begun) in &mut begin {
            for (other, continued) in &mut go_on {
                assert_eq!(begun_and_continued(begun, continued, query), whole, "{query}: {one}, then {other}");
            }
        }
    }
}
