//! Any bytes as CQL segments and as the frames in them: no panic, no frame that was not put.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tandem::protocol::cql::wire::storm;

fuzz_target!(|script: &[u8]| storm::segments(script));
