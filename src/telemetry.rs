//! Logs: to standard error, as text for people or one JSON object a line. What is logged are shapes (table, key hash,
//! length, lsn), never values (promise 13). `error` needs a person; a client hanging up is `debug`.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::config::{Log, LogFormat};

/// Between two lines that say the same.
pub const LINES_EVERY: Duration = Duration::from_secs(60);

/// A line that may come with every write or read: it is said once a minute.
#[derive(Clone, Debug, Default)]
pub struct Seldom {
    last: Option<Instant>,
    left_out: u64,
}

impl Seldom {
    /// Say it, and that so many were left out since the last time; `None`: leave it out.
    pub fn say(&mut self) -> Option<u64> {
        if self.is_fresh() {
            self.left_out += 1;
            return None;
        }
        self.last = Some(Instant::now());
        Some(std::mem::take(&mut self.left_out))
    }

    /// It was said within the last minute.
    pub fn is_fresh(&self) -> bool {
        self.last.is_some_and(|last| last.elapsed() < LINES_EVERY)
    }
}

/// [`Seldom`] for many threads.
#[derive(Debug, Default)]
pub struct Line(Mutex<Seldom>);

impl Line {
    /// [`Seldom::say`].
    pub fn say(&self) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).say()
    }
}

/// Changes the level of a running process.
#[derive(Clone)]
pub struct Level(reload::Handle<EnvFilter, Registry>);

/// Logs could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `log.level` is not understood.
    #[error("log.level: {0}; it is like \"info\" or \"info,tandem::mirror=debug\"")]
    Level(String),
    /// This process already logs elsewhere.
    #[error("logs are already set up")]
    Twice,
}

/// Set up logs for the process, once.
pub fn install(log: &Log) -> Result<Level, Error> {
    let (filter, handle) = reload::Layer::new(filter(&log.level)?);
    let registry = tracing_subscriber::registry().with(filter);
    let plain = fmt::layer().with_writer(std::io::stderr).with_target(false);
    let set = match log.format {
        LogFormat::Text => registry.with(plain.with_ansi(false)).try_init(),
        LogFormat::Json => registry.with(plain.json().flatten_event(true)).try_init(),
    };
    set.map_err(|_| Error::Twice)?;
    Ok(Level(handle))
}

impl Level {
    /// Log at another level from now on.
    pub fn set(&self, level: &str) -> Result<(), Error> {
        self.0.reload(filter(level)?).map_err(|error| Error::Level(error.to_string()))
    }
}

/// Understand a level without using it.
pub fn filter(level: &str) -> Result<EnvFilter, Error> {
    EnvFilter::builder().parse(level).map_err(|error| Error::Level(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_line_that_may_come_often_is_said_once_a_minute_with_how_many_were_left_out() {
        let line = Line::default();
        let said: Vec<u64> = (0..100).filter_map(|_| line.say()).collect();
        assert_eq!(said, [0]);
        tokio::time::advance(LINES_EVERY).await;
        assert_eq!((line.say(), line.say()), (Some(99), None));
    }

    #[test]
    fn a_level_is_a_word_or_words_by_module() {
        assert!(filter("info").is_ok());
        assert!(filter("info,tandem::mirror=debug").is_ok());
        assert!(filter("tandem=loud").is_err());
    }
}
