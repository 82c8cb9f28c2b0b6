//! `tandem run`: the proxy itself.

use std::path::PathBuf;

use clap::Args;

use super::Failure;
use crate::config::Config;
use crate::proxy;

pub(super) const EXAMPLES: &str = "\
Examples:
  tandem run --config proxy.toml
  TANDEM_JOURNAL_DURABILITY=os tandem run     every key can be overridden: TANDEM_SECTION_KEY

The smallest proxy.toml:
  [[listen]]
  wire = \"postgres\"
  address = \"127.0.0.1:6432\"
  [origin]
  url = \"postgres://tandem@127.0.0.1:5432/app\"
  [target]
  url = \"postgres://tandem@127.0.0.1:5433/app\"

SIGTERM or Ctrl-C: no new clients, those inside finish (limits.drain_timeout). A second one ends at once.";

#[derive(Debug, Args)]
pub(super) struct Run {
    /// The configuration.
    #[arg(long, short, default_value = "proxy.toml", value_name = "FILE")]
    config: PathBuf,
}

pub(super) fn run(command: Run) -> Result<(), Failure> {
    let config = Config::load(&command.config)?;
    proxy::run(config).map_err(|error| match error {
        proxy::Error::Setup(_) => Failure::Usage(error.to_string()),
        proxy::Error::Unreachable(_) => Failure::Unreachable(error.to_string()),
        proxy::Error::Failed(_) => Failure::Refused(error.to_string()),
    })
}
