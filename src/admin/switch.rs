//! The switch: asked for, watched, called off. What it does is the controller's.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt};
use hyper::StatusCode;
use hyper::body::Frame;

use super::State;
use super::routes::Refused;
use crate::config::MAX_HOLD;
use crate::cutover::controller::{self, Handle};
use crate::cutover::report::{Report, Request};

/// Where it is.
pub(super) fn report(state: &State) -> Result<Report, Refused> {
    Ok(handle(state)?.report())
}

/// Begin one. The report has its number.
pub(super) async fn begin(state: &State, request: Request) -> Result<Report, Refused> {
    let (least, most) = (MAX_HOLD.0.as_millis(), MAX_HOLD.1.as_millis());
    if request.max_hold_ms.is_some_and(|ms| !(least..=most).contains(&ms.into())) {
        let why = format!("max_hold_ms must be between {least} and {most}");
        return Err(Refused(StatusCode::BAD_REQUEST, why));
    }
    let handle = handle(state)?;
    handle.begin(request).await.map_err(conflict)?;
    Ok(handle.report())
}

/// Call the running one off. Clients run as before when it answers.
pub(super) async fn abort(state: &State) -> Result<Report, Refused> {
    let handle = handle(state)?;
    handle.abort().await.map_err(conflict)?;
    Ok(handle.report())
}

/// Events: the report at once, and whenever it changed.
pub(super) fn events(state: &State) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + use<> {
    let watched = state.switch.as_ref().map(Handle::watch).into_iter().map(|mut watched| {
        watched.mark_changed();
        watched
    });
    stream::iter(watched).flat_map(|watched| {
        stream::unfold(watched, |mut watched| async move {
            // The controller is gone: this process ends.
            watched.changed().await.ok()?;
            let report = watched.borrow_and_update().clone();
            Some((Ok(super::routes::event("switch", &report)), watched))
        })
    })
}

fn handle(state: &State) -> Result<&Handle, Refused> {
    let why = || "mirroring is off: there is no other side to switch to".to_owned();
    state.switch.as_ref().ok_or_else(|| Refused(StatusCode::CONFLICT, why()))
}

fn conflict(refused: controller::Refused) -> Refused {
    Refused(StatusCode::CONFLICT, refused.to_string())
}
