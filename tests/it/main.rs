//! tandem against real servers, in one binary. `support` starts what a test needs.

mod check;
mod cli;
mod connect;
mod crowd;
mod demo;
mod failover;
mod full;
mod hangup;
mod hidden;
mod hidden_writes;
mod invariant;
mod journey_rust;
mod journeys;
mod ordinary;
mod payment;
mod pgbench;
mod power;
mod random;
mod rounds;
mod rules;
mod sandbox;
mod schema;
mod settings;
mod support;
mod transcript;
mod two_phase;
