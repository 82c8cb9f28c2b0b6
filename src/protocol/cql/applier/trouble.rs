//! Why a record was not applied, and what the engine should do about it.

use crate::mirror::replay::Applied;
use crate::protocol::cql::client::{Error, Refusal};
use crate::protocol::cql::wire::response::ErrorKind;

/// Everything but success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Again, after a pause.
    Retry(String),
    /// Again, for as long as the nodes that it needs are away.
    Away(String),
    /// Never.
    Reject(String),
    /// Never, and nothing waits for it.
    Listed(String),
    /// The secondary is away.
    Lost(String),
}

impl From<Trouble> for Applied {
    fn from(trouble: Trouble) -> Applied {
        match trouble {
            Trouble::Retry(why) => Applied::Retry(why),
            Trouble::Away(why) => Applied::Away(why),
            Trouble::Reject(why) => Applied::Reject(why),
            Trouble::Listed(why) => Applied::Listed(why),
            Trouble::Lost(why) => Applied::Lost(why),
        }
    }
}

impl Trouble {
    /// What the secondary's error means.
    pub(super) fn of_secondary(error: &Error) -> Trouble {
        let why = format!("secondary: {error}");
        match error {
            Error::Server(refusal) if is_away(refusal) => Trouble::Away(why),
            Error::Server(refusal) if is_final(&refusal.kind()) => Trouble::Reject(why),
            Error::Server(_) | Error::Busy(_) | Error::Answer(_) | Error::Unexpected { .. } => Trouble::Retry(why),
            Error::Disagreement(_) => Trouble::Retry(why),
            // What was to be said cannot be, whenever it is tried.
            Error::Wire(_) => Trouble::Reject(why),
            Error::Connect { .. } | Error::ConnectTimeout(_) | Error::Io(_) | Error::Tls(_) | Error::Login(_) => {
                Trouble::Lost(why)
            }
            Error::NoAnswer(_) | Error::Lost(_) | Error::NoHost(_) => Trouble::Lost(why),
            Error::NoDatacenter { .. } | Error::NoNode { .. } => Trouble::Lost(why),
        }
    }

    /// What the primary's error means: the secondary is there, so others may go on.
    pub(super) fn of_primary(error: &Error) -> Trouble {
        let why = format!("primary: {error}");
        match error {
            Error::Server(refusal) if is_away(refusal) => Trouble::Away(why),
            Error::Server(refusal) if is_final(&refusal.kind()) => Trouble::Reject(why),
            Error::Wire(_) => Trouble::Reject(why),
            Error::Connect { .. } | Error::ConnectTimeout(_) | Error::Tls(_) | Error::Login(_) | Error::NoHost(_) => {
                Trouble::Away(why)
            }
            Error::NoDatacenter { .. } | Error::NoNode { .. } => Trouble::Away(why),
            // What breaks its connection each time, or is never answered, is not the node's fault for ever.
            _ => Trouble::Retry(why),
        }
    }
}

/// The server has judged the statement, and will judge it so again. Everything else is about nodes and load.
fn is_final(kind: &ErrorKind<'_>) -> bool {
    use ErrorKind as E;
    match kind {
        E::Syntax | E::Unauthorized | E::Invalid | E::Config | E::Protocol => true,
        E::AlreadyExists { .. } | E::FunctionFailure { .. } => true,
        E::Unavailable { .. } | E::Overloaded | E::Bootstrapping | E::Unprepared { .. } | E::Server => false,
        E::WriteTimeout { .. } | E::WriteFailure { .. } | E::CdcWriteFailure | E::CasWriteUnknown { .. } => false,
        E::ReadTimeout { .. } | E::ReadFailure { .. } | E::Truncate | E::Authentication | E::Other { .. } => false,
    }
}

/// Replicas are down, and the statement was not even tried. (A statement that is too large for a node is answered with
/// Overloaded each time: that is no such thing.)
fn is_away(refusal: &Refusal) -> bool {
    match refusal.kind() {
        ErrorKind::Unavailable { .. } | ErrorKind::Bootstrapping => true,
        // Those that keep the roles are down: nobody has judged anything. (Source: Cassandra's CassandraAuthorizer and
        // Roles.hasSuperuserStatus, which wrap what the reading of a role meets into an UnauthorizedException.)
        ErrorKind::Unauthorized => refusal.error().message.starts_with("Unable to perform authorization"),
        _ => false,
    }
}

/// Whether what was sent may still be done after this error.
pub(super) fn may_linger(error: &Error) -> bool {
    let Error::Server(refusal) = error else { return matches!(error, Error::Lost(_) | Error::NoAnswer(_)) };
    let kind = refusal.kind();
    matches!(kind, ErrorKind::WriteTimeout { .. } | ErrorKind::WriteFailure { .. } | ErrorKind::Server)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::cql::client::refusal;

    #[test]
    fn nodes_that_cannot_read_roles_have_judged_nothing() {
        let of = |message: &str| Error::Server(Box::new(refusal(ErrorKind::Unauthorized, message)));
        for (message, is_final) in [
            ("Unable to perform authorization of permissions: Cannot achieve consistency level LOCAL_ONE", false),
            ("Unable to perform authorization of super-user permission: Operation timed out", false),
            ("User tandem has no MODIFY permission on <table app.t> or any of its parents", true),
        ] {
            for trouble in [Trouble::of_secondary(&of(message)), Trouble::of_primary(&of(message))] {
                assert_eq!(matches!(trouble, Trouble::Reject(_)), is_final, "{trouble:?}");
                assert_eq!(matches!(trouble, Trouble::Away(_)), !is_final, "{trouble:?}");
            }
        }
    }
}
