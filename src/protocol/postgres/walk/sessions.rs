//! What stands in the way of a switch of the sessions that there are when it is prepared.

use std::sync::Arc;

use super::rules;
use crate::check::{self, Finding, NAMED_MAX};
use crate::config::Immovable;
use crate::protocol::postgres::moving::sessions::Card;

/// Of all sessions that are here, those that were `called` with this number have answered by now. Of whoever came since it is only
/// known what it cannot do: it connects when it moves, as those do that come when everything is prepared.
pub(super) fn findings(all: &[Arc<Card>], called: (&[Arc<Card>], u64), immovable: Immovable) -> Vec<Finding> {
    let (elsewhere, ours): (Vec<_>, Vec<_>) = all.iter().partition(|card| card.stays);
    let mut found: Vec<Finding> = ours.into_iter().filter_map(|card| of_one(card, called, immovable)).collect();
    if !elsewhere.is_empty() {
        let object = format!("{} sessions", elsewhere.len());
        found.push(Finding { rule: rules::SESSION_ELSEWHERE, side: None, object });
    }
    summed(found)
}

fn of_one(card: &Arc<Card>, (called, number): (&[Arc<Card>], u64), immovable: Immovable) -> Option<Finding> {
    let found = |rule, object| Some(Finding { rule, side: None, object });
    let pins = card.pins();
    if !pins.is_empty() {
        let rule = match immovable {
            Immovable::Refuse | Immovable::Wait => rules::SESSION_IMMOVABLE,
            Immovable::Close => rules::SESSION_CLOSED,
        };
        return found(rule, format!("{}: {}", card.told(), pins.join(", ")));
    }
    let moving = card.moving();
    let why = match (moving.has_answered(number), moving.failure()) {
        (false, _) if called.iter().any(|one| Arc::ptr_eq(one, card)) => "not ready in time",
        (false, _) | (true, None) => return None,
        (true, Some(why)) => why,
    };
    found(rules::SESSION_NOT_READY, format!("{}: {why}", card.told()))
}

/// Of each rule the first findings by name, the rest by number.
fn summed(found: Vec<Finding>) -> Vec<Finding> {
    let mut kept: Vec<Finding> = Vec::new();
    let mut more: Vec<(&'static check::Rule, usize)> = Vec::new();
    for finding in found {
        let rule = finding.rule;
        if kept.iter().filter(|one| one.rule == rule).count() < NAMED_MAX {
            kept.push(finding);
        } else if let Some((_, count)) = more.iter_mut().find(|(one, _)| *one == rule) {
            *count += 1;
        } else {
            more.push((rule, 1));
        }
    }
    let rest = more.into_iter().map(|(rule, count)| Finding { rule, side: None, object: format!("and {count} more") });
    kept.into_iter().chain(rest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::postgres::client::{Endpoint, Host};
    use crate::protocol::postgres::moving::sessions::{Call, Home, Sessions, Who};
    use crate::protocol::postgres::plan::Traces;
    use crate::record::Side;

    fn enter(sessions: &Sessions, stays: bool) -> Arc<Card> {
        let endpoint = Endpoint { host: Host::Tcp("a".into()), port: 1 };
        let home = Home { side: Side::Origin, endpoint, key: vec![1] };
        let card = Arc::new(Card::new(Who::default(), Box::default(), "UTF8".into(), (stays, false), 7, home));
        sessions.enter(&card);
        card
    }

    fn names(found: Vec<Finding>) -> Vec<&'static str> {
        found.into_iter().map(|finding| finding.rule.name).collect()
    }

    #[test]
    fn who_came_after_the_call_and_is_still_connecting_is_in_nobodys_way() {
        let sessions = Sessions::default();
        let (quick, _elsewhere) = (enter(&sessions, false), enter(&sessions, true));
        let number = sessions.call(Call::Prepare(Side::Target)).number;
        let called = sessions.all();
        sessions.answer(&quick, number, Ok(()));
        let (_connecting, refused, pinned) =
            (enter(&sessions, false), enter(&sessions, false), enter(&sessions, false));
        let found = || names(findings(&sessions.all(), (&called, number), Immovable::Refuse));
        assert_eq!(found(), ["session_elsewhere"]);
        // What cannot be done at all is no matter of time.
        sessions.answer(&refused, number, Err("28P01".to_owned()));
        pinned.leave(Traces::LAST_VALUE);
        assert_eq!(found(), ["session_not_ready", "session_immovable", "session_elsewhere"]);
    }

    #[test]
    fn who_was_called_and_has_not_answered_is_named() {
        let sessions = Sessions::default();
        let slow: Vec<_> = (0..NAMED_MAX + 3).map(|_| enter(&sessions, false)).collect();
        let number = sessions.call(Call::Prepare(Side::Target)).number;
        let found = findings(&sessions.all(), (&slow, number), Immovable::Refuse);
        assert_eq!(found.len(), NAMED_MAX + 1);
        assert!(found[0].object.contains("not ready in time"), "{found:?}");
        assert_eq!(found[NAMED_MAX].object, "and 3 more");
    }
}
