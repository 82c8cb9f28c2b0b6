//! Any bytes of a client and of a server, through the session between them: no panic, no circle, no growth, the gate let go.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tandem::protocol::postgres::session::storm;

fuzz_target!(|script: &[u8]| storm::run(script));
