//! Mirroring by state: the journal names keys, payments copy their rows.

pub mod copier;
