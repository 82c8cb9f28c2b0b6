//! The switch: which side answers clients, and how that changes while they are connected.
//!
//! ```text
//! steady --> prepare --> fence --> drain --> apply --> verify --> ready --> FLIP --> resume --> settle --> steady
//!               |          |         |         |         |          |        (durable)
//!               '----------'---------'---------'---------'----------'--> undo --> steady, as before
//! ```
//!
//! Clients are held from the fence to the resume, and for no longer than `max_hold`. What is true after a crash is what
//! the control store holds: a walk that did not reach its flip is undone, one that did is finished.
//!
//! [`phase`] is the order of it, pure; [`controller`] does it; [`store`] is what survives a crash; [`steps`] is what it
//! asks of a wire; [`mirror`] is what it finds of the mirror; [`gate`] is what every unit passes; [`report`] is what is told
//! about it.

pub mod controller;
pub mod gate;
pub mod mirror;
pub mod phase;
pub mod report;
pub mod steps;
pub mod store;

#[cfg(test)]
mod simulation;
