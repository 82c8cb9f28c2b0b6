//! Any bytes as messages and as a COPY stream: cut and read without a panic, and never past their end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tandem::protocol::postgres::wire::{Fields, HEADER, Header};

fuzz_target!(|input: &[u8]| {
    let mut rest = input;
    while let Ok(Some(header)) = Header::peek(rest) {
        assert!(header.size >= HEADER);
        let Some((message, next)) = rest.split_at_checked(header.size) else { break };
        fields(header.kind, &message[HEADER..]);
        rest = next;
    }
});

/// The body itself says what is read of it.
fn fields(kind: u8, body: &[u8]) {
    let mut fields = Fields::new(kind, body);
    let mut choices = body.iter();
    while let Some(choice) = choices.next() {
        let before = fields.rest().len();
        let read = match choice % 7 {
            0 => fields.u8().is_ok(),
            1 => fields.u16().is_ok(),
            2 => fields.i16().is_ok(),
            3 => fields.u32().is_ok(),
            4 => fields.cstr().is_ok_and(|text| !text.contains(&0)),
            5 => fields.value().is_ok(),
            _ => fields.take(usize::from(*choice)).is_ok_and(|taken| taken.len() == usize::from(*choice)),
        };
        if !read {
            return;
        }
        assert!(fields.rest().len() < before || *choice % 7 == 6);
    }
}
