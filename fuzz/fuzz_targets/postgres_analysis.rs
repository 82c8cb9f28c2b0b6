//! Any bytes as a statement, in every dialect: cut into tokens in order, and given a plan without a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tandem::protocol::postgres::analysis::analyze;
use tandem::protocol::postgres::catalog::Catalog;
use tandem::protocol::postgres::lexer::{Dialect, Encoding, Tokens};

fuzz_target!(|text: &[u8]| {
    let catalog = Catalog::default();
    let mut tokens = Tokens::default();
    for encoding in [Encoding::Utf8, Encoding::Safe, Encoding::Unsafe] {
        for standard_strings in [true, false] {
            tokens.lex(text, Dialect { standard_strings, encoding });
            assert!(tokens.list().is_sorted_by(|a, b| a.end <= b.start));
            let script = analyze(text, &tokens, &catalog);
            assert!(script.statements.iter().all(|statement| statement.tokens.end <= tokens.list().len()));
        }
    }
});
