//! Both clusters as clients reach them, and who a client is on the side that it did not log in to itself.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use crate::config::Config;
use crate::record::Side;

use super::client::{ServerConfig, TargetSession};
use super::logins::Logins;
use super::moving::sessions::Card;
use super::moving::standby::startup_parameters;
use super::setup::server_config;
use super::shared::Schema;

/// Origin and target.
pub(super) struct Servers {
    origin: Arc<ServerConfig>,
    target: Arc<ServerConfig>,
    /// Passwords by name, of the section `users`; a name without one may need none.
    users: HashMap<String, Option<String>>,
}

impl Servers {
    pub(super) fn new(config: &Config, logins: Option<&Logins>) -> Servers {
        let password = |user: &crate::config::User| user.password.as_ref().map(|secret| secret.reveal().to_owned());
        Servers {
            origin: Arc::new(server_config(&config.origin, config, logins)),
            target: Arc::new(server_config(&config.target, config, logins)),
            users: config.users.iter().map(|user| (user.name.clone(), password(user))).collect(),
        }
    }

    /// With tandem's own credentials.
    pub(super) fn of(&self, side: Side) -> &Arc<ServerConfig> {
        match side {
            Side::Origin => &self.origin,
            Side::Target => &self.target,
        }
    }

    /// The password of a user whose name and password tandem has for this side; `None` inside: it needs none.
    pub(super) fn password_of(&self, side: Side, user: &str) -> Option<Option<String>> {
        let own = self.of(side);
        let is_own = own.user == user;
        self.users.get(user).cloned().or_else(|| is_own.then(|| own.password.clone()))
    }

    /// The same, with the host first that was found to be the primary.
    pub(super) fn primary_first<'a>(&'a self, side: Side, schema: &Schema) -> Cow<'a, ServerConfig> {
        schema.primary_first(side, self.of(side))
    }

    /// For a session that did not log in there itself: as its client, with what its client asked for at the start.
    pub(super) fn for_client(&self, side: Side, card: &Card, schema: &Schema) -> ServerConfig {
        let mut params = startup_parameters(&card.packet);
        if !params.iter().any(|(name, _)| name == "client_encoding") && !card.encoding.is_empty() {
            params.push(("client_encoding".to_owned(), card.encoding.to_string()));
        }
        let password = self.users.get(&card.who.user).cloned().flatten();
        let server = self.primary_first(side, schema).into_owned();
        // Some are read-only because they ask for it.
        let target_session = match server.target_session {
            TargetSession::ReadWrite => TargetSession::Primary,
            other => other,
        };
        ServerConfig { user: card.who.user.clone(), password, params, target_session, ..server }
    }
}
