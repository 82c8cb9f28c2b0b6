//! tandem against real servers, in one binary. `support` starts what a test needs.

mod cli;
mod demo;
mod payment;
mod rules;
mod sandbox;
mod settings;
mod support;
mod transcript;
