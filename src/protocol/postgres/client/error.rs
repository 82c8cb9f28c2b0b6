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
    /// It says nothing to a question, and lets nobody in: [`super::Watch`].
    #[error("it does not answer for {0:?}, not even a new connection")]
    Hangs(std::time::Duration),
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
/// (promise 13). Where the message or the hint may hold one, it is not shown whole, see [`DbError::discreet`].
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
    /// The words are of a function of somebody's.
    pub is_raised: bool,
}

/// SQLSTATE of what a timeout or a CancelRequest ended.
pub const QUERY_CANCELED: &str = "57014";

/// Where the procedural languages report what a function says, by file of the server's source; PL/pgSQL reports much else
/// in its own, and what it is told to from these functions.
const RAISING_FILES: &[&str] = &["plpy", "plperl", "pltcl", "plv8", "plr", "pljava", "plrust"];
const RAISING: &[&str] = &["exec_stmt_raise", "exec_stmt_assert"];

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
            b'F' => self.is_raised |= RAISING_FILES.iter().any(|file| value.starts_with(file)),
            b'R' => self.is_raised |= RAISING.contains(&value.as_str()),
            _ => (),
        }
    }

    /// The message without what may be a row value. In class 22 (`invalid input syntax for type integer: "x"`) it ends before
    /// the first character that may quote one, in whatever language the server speaks. What a function raises says what its
    /// author liked.
    pub fn discreet(&self) -> &str {
        if self.is_raised {
            return "raised by a function, in words that may hold row values: the server's log has them";
        }
        if self.code.starts_with("22") {
            let quotes = |c: char| !c.is_alphanumeric() && !" ().,-/_".contains(c);
            let end = self.message.find(quotes).unwrap_or(self.message.len());
            return self.message[..end].trim_end();
        }
        &self.message
    }

    /// The hint, where it is the server's own and not about a value.
    fn advice(&self) -> Option<&str> {
        let may_quote = self.is_raised || ["22", "P0", "XX"].iter().any(|class| self.code.starts_with(class));
        self.hint.as_deref().filter(|_| !may_quote)
    }
}

impl fmt::Display for DbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.severity, self.code, self.discreet())?;
        if let Some(hint) = self.advice() {
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
    fn nor_does_it_in_another_language_or_in_the_words_of_a_function() {
        let shown = |body: &[u8]| DbError::parse(body).expect("valid").to_string();
        let german = "VERROR\0C22P02\0Mungültige Eingabesyntax für Typ integer: »4711«\0\0";
        assert_eq!(shown(german.as_bytes()), "ERROR 22P02: ungültige Eingabesyntax für Typ integer");
        let french = "VERROR\0C22003\0Mla valeur « 4711 » est en dehors des limites\0H« 4711 »\0\0";
        assert_eq!(shown(french.as_bytes()), "ERROR 22003: la valeur");
        let raised = b"VERROR\0CP0001\0Mbad iban 4711\0Hask 4711\0Fpl_exec.c\0L1\0Rexec_stmt_raise\0\0";
        assert!(!shown(raised).contains("4711") && shown(raised).starts_with("ERROR P0001: raised by a function"));
        let python = b"VERROR\0C23514\0Mbad iban 4711\0Fplpy_elog.c\0RPLy_elog_impl\0\0";
        assert!(!shown(python).contains("4711"));
        let own = b"VERROR\0C42501\0Mpermission denied for table t\0HGRANT it\0Faclchk.c\0Raclcheck_error\0\0";
        assert_eq!(shown(own), "ERROR 42501: permission denied for table t (hint: GRANT it)");
        let geometry = b"VERROR\0CXX000\0Mparse error - invalid geometry\0H\"POINT(4 711)\" <-- parse error\0\0";
        assert_eq!(shown(geometry), "ERROR XX000: parse error - invalid geometry");
    }

    #[test]
    fn an_error_cut_anywhere_is_malformed() {
        let body = b"SERROR\0C23505\0Mm\0\0";
        for cut in 0..body.len() {
            assert!(DbError::parse(&body[..cut]).is_err());
        }
    }
}
