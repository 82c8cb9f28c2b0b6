//! tandem against real servers, in one binary. `support` starts what a test needs.

mod cli;
mod demo;
mod hidden_writes;
mod payment;
mod rules;
mod sandbox;
mod settings;
mod support;
mod transcript;
