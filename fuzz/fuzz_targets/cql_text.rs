//! Any bytes as a CQL statement: cut into tokens that are the text, understood, rewritten, shaped, answered, without a
//! panic; and what was rewritten is understood again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tandem::protocol::cql::text::fuzzed;

fuzz_target!(|text: &[u8]| fuzzed::everything(text));
