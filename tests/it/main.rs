//! tandem against real servers, in one binary. `support` starts what a test needs.

mod cli;
mod sandbox;
mod support;
