//! The `tandem` command: what it takes, what it prints, how it exits.
//!
//! Exit codes: 0 done, 1 found differences or refused, 2 usage or configuration, 3 could not reach something. With
//! `--json` standard output holds one JSON value and nothing else. This module is the only one that prints.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde_json::Value;

use crate::admin::client;
use crate::config::{self, Secret};

mod check;
mod demo;
mod findings;
mod history;
mod ledgers;
mod output;
mod run;
mod set;
mod shadow;
mod status;
mod switch;
mod worker;

use output::Output;

/// A migration proxy: put it in front of a database, and every write reaches a second one too.
#[derive(Debug, Parser)]
#[command(name = "tandem", version, max_term_width = 110, after_help = EXAMPLES)]
struct Cli {
    /// Print one JSON value instead of text.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  tandem demo                                 see it work, on two servers of its own
  tandem run --config proxy.toml              serve clients and mirror their writes
  tandem check --config proxy.toml            find what stands in the way, before anything runs
  tandem status --watch                       see the lag go down
  tandem backfill start                       copy what was there before, then compare
  tandem switch target --dry-run              what would stop the other side from taking over
  tandem set mirror.on_uncaptured=refuse      change a setting of the running tandem

Exit codes: 0 done, 1 found differences or refused, 2 usage or configuration, 3 could not reach something.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve clients and mirror their writes until SIGTERM or Ctrl-C.
    #[command(after_help = run::EXAMPLES)]
    Run(run::Run),
    /// Find what stands in the way of a migration: tables, types, settings, privileges.
    #[command(after_help = check::EXAMPLES)]
    Check(check::Check),
    /// See it work: two real servers, a load, a killed target, a killed tandem, and a comparison.
    #[command(after_help = demo::EXAMPLES)]
    Demo(demo::Demo),
    /// Show a running tandem: phase, sides, journal, lag.
    #[command(after_help = status::EXAMPLES)]
    Status(status::Status),
    /// Let the other side answer clients, without dropping one; and back.
    #[command(after_help = switch::EXAMPLES)]
    Switch(switch::Switch),
    /// Copy rows that were there before the mirror, while clients write.
    #[command(after_help = history::BACKFILL_EXAMPLES)]
    Backfill(history::Backfill),
    /// Compare both sides row by row, while clients write.
    #[command(after_help = history::VERIFY_EXAMPLES)]
    Verify(history::Verify),
    /// Have the mirror copy rows that differ.
    #[command(after_help = history::REPAIR_EXAMPLES)]
    Repair(history::Repair),
    /// Rows that the secondary refuses: list, show, retry, discard.
    #[command(after_help = ledgers::PARKED_EXAMPLES)]
    Parked(ledgers::Parked),
    /// Tables that may differ: list, repair.
    #[command(after_help = ledgers::DIRTY_EXAMPLES)]
    Dirty(ledgers::Dirty),
    /// Reads repeated on the other side: is it right, and fast enough?
    #[command(after_help = shadow::EXAMPLES)]
    Shadow(shadow::Shadow),
    /// Show or change settings of a running tandem.
    #[command(after_help = set::EXAMPLES)]
    Set(set::Set),
}

/// How to reach a running tandem.
#[derive(Debug, Args)]
struct Admin {
    /// Address of its admin API.
    #[arg(long, global = true, env = "TANDEM_ADMIN", default_value = "http://127.0.0.1:6480", value_name = "URL")]
    admin: String,
    /// A file that holds the bearer token; the token itself may be in TANDEM_TOKEN.
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// Why a command did not end with "done".
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// Found differences, or was refused.
    #[error("{0}")]
    Refused(String),
    /// Wrong arguments or configuration.
    #[error("{0}")]
    Usage(String),
    /// Could not reach something.
    #[error("{0}")]
    Unreachable(String),
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Failure::Refused(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Unreachable(_) => 3,
        }
    }
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Failure {
        let text = error.to_string();
        match error {
            client::Error::Refused(_) | client::Error::Missing(_) | client::Error::TooLarge => Failure::Refused(text),
            client::Error::Unreachable { .. } => Failure::Unreachable(text),
            client::Error::Url | client::Error::Token => Failure::Usage(text),
        }
    }
}

impl From<config::Error> for Failure {
    fn from(error: config::Error) -> Failure {
        Failure::Usage(error.to_string())
    }
}

impl Admin {
    fn client(&self) -> Result<client::Client, Failure> {
        Ok(client::Client::new(&self.admin, self.token()?.as_ref())?)
    }

    fn token(&self) -> Result<Option<Secret>, Failure> {
        let Some(path) = &self.token_file else {
            return Ok(std::env::var("TANDEM_TOKEN").ok().map(|token| Secret::new(&token)));
        };
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| Failure::Usage(format!("{} cannot be read: {error}", path.display())))?;
        Ok(Some(Secret::new(text.trim_end())))
    }
}

/// Run the command line of this process.
pub fn main() -> ExitCode {
    // Clap exits with 2 on wrong usage by itself, and with 0 on --help.
    let cli = Cli::parse();
    let output = Output::new(cli.json);
    // Fails only when another part of the process chose ring before us.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let done = match cli.command {
        Command::Run(command) => run::run(command),
        Command::Check(command) => wait(check::run(command, &output)),
        Command::Demo(command) => demo::run(command, &output),
        Command::Status(command) => wait(status::run(command, &output)),
        Command::Switch(command) => wait(switch::run(command, &output)),
        Command::Backfill(command) => match command.worker() {
            Ok(worker) => worker::run(worker, &output),
            Err(command) => wait(history::backfill(*command, &output)),
        },
        Command::Verify(command) => wait(history::verify(command, &output)),
        Command::Repair(command) => wait(history::repair(command, &output)),
        Command::Parked(command) => wait(ledgers::parked(command, &output)),
        Command::Dirty(command) => wait(ledgers::dirty(command, &output)),
        Command::Shadow(command) => wait(shadow::run(command, &output)),
        Command::Set(command) => wait(set::run(command, &output)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output.complain(&failure);
            ExitCode::from(failure.code())
        }
    }
}

/// Run a command that only talks over the network.
fn wait(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::Unreachable(format!("cannot start: {error}")))?.block_on(command)
}

/// A value's field as text, `-` where there is none.
fn field(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn failures_exit_as_documented() {
        let unreachable = client::Error::Unreachable { at: String::new(), why: String::new() };
        assert_eq!(Failure::from(unreachable).code(), 3);
        assert_eq!(Failure::from(client::Error::Refused(String::new())).code(), 1);
        assert_eq!(Failure::from(client::Error::TooLarge).code(), 1);
        assert_eq!(Failure::from(client::Error::Url).code(), 2);
    }
}
