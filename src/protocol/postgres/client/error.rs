//! What can go wrong on a connection of ours, and what a server's error says.

use std::fmt;
use std::io;

use crate::protocol::postgres::wire::{Fields, WireError, back};

use super::config::Endpoint;

/// Why a call failed. After anything but [`Error::Db`] the connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No host of the list could be entered; the last one's error.
    #[error("cannot connect to {host}: {why}")]
    Connect {
        /// The last host tried.
        host: Endpoint,
        /// Its error.
        why: Box<Error>,
    },
    /// The time for one host was over.
    #[error("no connection within {0:?}")]
    Timeout(std::time::Duration),
    /// The socket.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The server hung up.
    #[error("the server closed the connection")]
    Closed,
    /// TLS cannot be had as configured.
    #[error("TLS: {0}")]
    Tls(String),
    /// The server asks for a login that cannot be done as configured.
    #[error("authentication: {0}")]
    Auth(&'static str),
    /// Bytes that are not the protocol.
    #[error("{0}")]
    Wire(#[from] WireError),
    /// A message that makes no sense here.
    #[error("unexpected message of type {kind:?} while {doing}")]
    Unexpected {
        /// Its type byte.
        kind: char,
        /// What we were doing.
        doing: &'static str,
    },
    /// A value that is not what its column promised.
    #[error("column {0} of an answer cannot be read")]
    Value(usize),
    /// This host is a standby or read-only, and read-write was asked for.
    #[error("the server is read-only")]
    ReadOnly,
    /// What was configured cannot work.
    #[error("{0}")]
    Config(String),
    /// The server refused the statement; the connection lives on.
    #[error("{0}")]
    Db(Box<DbError>),
}

impl Error {
    /// The server's error, if that is what it is.
    pub fn db(&self) -> Option<&DbError> {
        match self {
            Error::Db(error) => Some(error),
            Error::Connect { why, .. } => why.db(),
            _ => None,
        }
    }

    /// The SQLSTATE, if the server sent one.
    pub fn code(&self) -> Option<&str> {
        self.db().map(|error| error.code.as_str())
    }
}

/// An ErrorResponse. `Display` shows severity, SQLSTATE, message and names, never the detail: details hold row values
/// (promise 13). The message itself may quote a value in class 22 (`invalid input syntax ... "x"`), so there only the
/// SQLSTATE and the text up to the first quote are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DbError {
    /// `ERROR`, `FATAL`, `PANIC`, never translated.
    pub severity: String,
    /// SQLSTATE, five characters.
    pub code: String,
    /// The primary message.
    pub message: String,
    /// Row values may be in here.
    pub detail: Option<String>,
    /// Advice.
    pub hint: Option<String>,
    /// Schema of the table concerned.
    pub schema: Option<String>,
    /// The table concerned.
    pub table: Option<String>,
    /// The column concerned.
    pub column: Option<String>,
    /// The constraint concerned.
    pub constraint: Option<String>,
}

impl DbError {
    /// Read an ErrorResponse or NoticeResponse; fields that are missing or not UTF-8 are left empty or replaced.
    pub fn parse(body: &[u8]) -> Result<DbError, WireError> {
        let mut fields = Fields::new(back::ERROR_RESPONSE, body);
        let mut error = DbError::default();
        loop {
            let field = fields.u8()?;
            if field == 0 {
                return Ok(error);
            }
            let value = String::from_utf8_lossy(fields.cstr()?).into_owned();
            error.set(field, value);
        }
    }

    // Field codes: documentation, "Error and Notice Message Fields".
    fn set(&mut self, field: u8, value: String) {
        match field {
            b'S' if self.severity.is_empty() => self.severity = value,
            b'V' => self.severity = value,
            b'C' => self.code = value,
            b'M' => self.message = value,
            b'D' => self.detail = Some(value),
            b'H' => self.hint = Some(value),
            b's' => self.schema = Some(value),
            b't' => self.table = Some(value),
            b'c' => self.column = Some(value),
            b'n' => self.constraint = Some(value),
            _ => (),
        }
    }

    /// The message without what may be a row value.
    pub fn discreet(&self) -> &str {
        if self.code.starts_with("22") {
            let end = self.message.find(['"', '\'']).unwrap_or(self.message.len());
            return self.message[..end].trim_end_matches([' ', ':']);
        }
        &self.message
    }
}

impl fmt::Display for DbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.severity, self.code, self.discreet())?;
        if let Some(hint) = &self.hint {
            write!(f, " (hint: {hint})")?;
        }
        Ok(())
    }
}

impl std::error::Error for DbError {}

impl From<crate::net::tls::Error> for Error {
    fn from(error: crate::net::tls::Error) -> Error {
        Error::Tls(error.to_string())
    }
}

impl From<DbError> for Error {
    fn from(error: DbError) -> Error {
        Error::Db(Box::new(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_error_shows_no_row_values() {
        let body = b"SERROR\0VERROR\0C23505\0Mduplicate key\0DKey (id)=(4711) already exists.\0tacc\0nacc_pkey\0\0";
        let error = DbError::parse(body).expect("valid");
        assert_eq!(error.constraint.as_deref(), Some("acc_pkey"));
        assert_eq!(error.to_string(), "ERROR 23505: duplicate key");
        let quoted = b"VERROR\0C22P02\0Minvalid input syntax for type integer: \"4711\"\0\0";
        let shown = DbError::parse(quoted).expect("valid").to_string();
        assert_eq!(shown, "ERROR 22P02: invalid input syntax for type integer");
    }

    #[test]
    fn an_error_cut_anywhere_is_malformed() {
        let body = b"SERROR\0C23505\0Mm\0\0";
        for cut in 0..body.len() {
            assert!(DbError::parse(&body[..cut]).is_err());
        }
    }
}
