//! What the API answers.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Body, Frame};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::status::Status;
use super::{Readiness, State, dashboard, guard, history, ledgers, samples::Samples, shadow, switch, work};
use crate::backfill::crew::message;
use crate::metrics;

/// Every path, its methods, and whether it needs the token. The dashboard's files are beside them: `GET /`.
pub const ROUTES: &[(&str, &[&str], bool)] = &[
    ("/healthz", &["GET"], false),
    ("/readyz", &["GET"], false),
    ("/metrics", &["GET"], false),
    ("/v1/status", &["GET"], true),
    ("/v1/parked", &["GET", "POST"], true),
    ("/v1/dirty", &["GET", "POST"], true),
    ("/v1/backfill", &["GET", "POST"], true),
    ("/v1/backfill/work", &["POST"], true),
    ("/v1/verify", &["GET", "POST"], true),
    ("/v1/verify/differences", &["GET"], true),
    ("/v1/repair", &["GET", "POST"], true),
    ("/v1/shadow", &["GET"], true),
    ("/v1/mismatches", &["GET", "DELETE"], true),
    ("/v1/switch", &["GET", "POST"], true),
    ("/v1/switch/abort", &["POST"], true),
    ("/v1/settings", &["GET", "PATCH"], true),
    ("/v1/events", &["GET"], true),
];

/// Bytes of a request's body.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Time for a request's body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a subscriber of events hears of a changed status.
const EVENTS_EVERY: Duration = Duration::from_secs(1);
/// What one reader of events too many hears.
const CROWDED: &str = "too many read the events: close dashboards that nobody looks at, or ask for /v1/status";

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// A request that is refused: its code and why.
pub(super) struct Refused(pub(super) StatusCode, pub(super) String);

/// Answer one request.
pub(super) async fn answer<B>(request: Request<B>, state: &State, stop: CancellationToken) -> Answer
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    let answer = route(request, state, stop).await.unwrap_or_else(refused);
    metrics::ADMIN_REQUESTS_TOTAL.counter(&[("code", class(answer.status()))]).increment(1);
    answer
}

async fn route<B>(request: Request<B>, state: &State, stop: CancellationToken) -> Result<Answer, Refused>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    let path = request.uri().path().to_owned();
    if let (&Method::GET | &Method::HEAD, Some(file)) = (request.method(), dashboard::file(&path)) {
        return Ok(page(file));
    }
    let (_, methods, guarded) = ROUTES
        .iter()
        .find(|(known, ..)| *known == path)
        .ok_or_else(|| Refused(StatusCode::NOT_FOUND, format!("there is no {path}")))?;
    if *guarded {
        guard::authorize(request.headers(), state.token.as_ref())?;
    }
    if !methods.contains(&request.method().as_str()) {
        return Ok(not_allowed(methods));
    }
    match (request.method(), path.as_str()) {
        (_, "/healthz") => Ok(text(StatusCode::OK, "ok\n".to_owned())),
        (_, "/readyz") => Ok(ready(*state.readiness.borrow())),
        (_, "/metrics") => {
            Status::of(state).record();
            state.mirror.iter().for_each(|mirror| mirror.desk().record());
            state.shadow.iter().for_each(|board| board.record());
            Ok(text(StatusCode::OK, state.exporter.render()))
        }
        (_, "/v1/status") => Ok(json(&Status::of(state))),
        (_, "/v1/events") => events(state.clone(), stop),
        (&Method::GET, "/v1/parked") => Ok(json(&ledgers::parked(state, has_values(&request))?)),
        (&Method::POST, "/v1/parked") => {
            Ok(json(&ledgers::act_on_parked(state, &parse(&body(request).await?)?).await?))
        }
        (&Method::GET, "/v1/dirty") => Ok(json(&ledgers::dirty(state)?)),
        (&Method::POST, "/v1/dirty") => Ok(json(&ledgers::act_on_dirty(state, &parse(&body(request).await?)?).await?)),
        (_, "/v1/backfill/work") => {
            let said = parse(&body_of(request, message::BYTES_MAX).await?)?;
            // Who waits for a chunk does not keep tandem from its end.
            let told = stop.run_until_cancelled(work::heard(state, said)).await;
            Ok(json(&told.unwrap_or_else(|| Err(ending()))?))
        }
        (_, "/v1/verify/differences") => Ok(json(&history::differences(state, has_values(&request)).await?)),
        (_, "/v1/shadow") => Ok(json(&shadow::report(state)?)),
        (&Method::DELETE, "/v1/mismatches") => Ok(json(&shadow::clear(state, request.uri().query())?)),
        (_, "/v1/mismatches") => Ok(json(&shadow::mismatches(state, has_values(&request))?)),
        (&Method::GET, "/v1/switch") => Ok(json(&switch::report(state)?)),
        (&Method::POST, "/v1/switch") => {
            let begun = switch::begin(state, parse(&body(request).await?)?).await?;
            Ok(json_with(StatusCode::ACCEPTED, &begun))
        }
        (_, "/v1/switch/abort") => Ok(json(&switch::abort(state).await?)),
        (&Method::PATCH, "/v1/settings") => change(body(request).await?, state),
        (_, "/v1/settings") => Ok(json(&state.live.get().texts())),
        (method, path) if let Some(kind) = history::kind(path) => match *method {
            Method::POST => Ok(json(&history::act(state, kind, parse(&body(request).await?)?).await?)),
            _ => Ok(json(&history::report(state, kind, request.uri().query())?)),
        },
        _ => Err(Refused(StatusCode::NOT_FOUND, format!("there is no {path}"))),
    }
}

fn ending() -> Refused {
    Refused(StatusCode::SERVICE_UNAVAILABLE, "tandem ends".to_owned())
}

async fn body<B>(request: Request<B>) -> Result<Bytes, Refused>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    body_of(request, BODY_BYTES_MAX).await
}

async fn body_of<B>(request: Request<B>, bytes_max: usize) -> Result<Bytes, Refused>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    let collected = tokio::time::timeout(BODY_TIMEOUT, Limited::new(request.into_body(), bytes_max).collect());
    let late = || Refused(StatusCode::REQUEST_TIMEOUT, "the body did not come in time".to_owned());
    let broken = |_| Refused(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is cut or over {bytes_max} bytes"));
    Ok(collected.await.map_err(|_| late())?.map_err(broken)?.to_bytes())
}

/// The query is this number and nothing else: whoever mistypes means one thing, and must not get all.
pub(super) fn number(query: &str, name: &str) -> Result<u64, Refused> {
    let number = query.strip_prefix(name).and_then(|rest| rest.strip_prefix('=')?.parse().ok());
    let refused = || Refused(StatusCode::BAD_REQUEST, format!("the query must be {name}=NUMBER, or none at all"));
    number.ok_or_else(refused)
}

/// Row values are shown only to who asks for them by name (promise 13).
fn has_values<B>(request: &Request<B>) -> bool {
    request.uri().query().is_some_and(|query| query.split('&').any(|pair| pair == "values=true"))
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refused> {
    serde_json::from_slice(body).map_err(|error| Refused(StatusCode::BAD_REQUEST, format!("the body: {error}")))
}

fn change(body: Bytes, state: &State) -> Result<Answer, Refused> {
    let bad = |why: String| Refused(StatusCode::BAD_REQUEST, why);
    let changes: BTreeMap<String, String> = serde_json::from_slice(&body)
        .map_err(|_| bad("the body must be an object of texts: {\"mirror.ddl\": \"refuse\"}".to_owned()))?;
    if let Some(level) = changes.get("log.level") {
        crate::telemetry::filter(level).map_err(|error| bad(error.to_string()))?;
    }
    let pairs = changes.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let settings = state.live.change(pairs).map_err(|error| bad(error.to_string()))?;
    if let Some(level) = &state.level {
        level.set(&settings.level).map_err(|error| bad(error.to_string()))?;
    }
    for (name, value) in &changes {
        tracing::info!(name, value, "setting changed by the admin API");
    }
    Ok(json(&settings.texts()))
}

/// A stream of server-sent events: `status` and `switch` at once, and each whenever it changed; `samples`, what the last
/// minutes were like, and then each `sample`.
fn events(state: State, stop: CancellationToken) -> Result<Answer, Refused> {
    let crowded = |_| Refused(StatusCode::SERVICE_UNAVAILABLE, CROWDED.to_owned());
    let place = state.subscribers.0.clone().try_acquire_owned().map_err(crowded)?;
    let switch = switch::events(&state);
    let samples = samples(&state.samples);
    let ticks = tokio::time::interval(EVENTS_EVERY);
    let status = stream::unfold((state, ticks, None), |(state, mut ticks, last)| async move {
        loop {
            ticks.tick().await;
            let status = Some(Status::of(&state));
            if status != last {
                return Some((Ok(event("status", &status)), (state, ticks, status)));
            }
        }
    });
    let told = stream::select(stream::select(status, switch), samples).take_until(stop.cancelled_owned());
    // The place is given back with the stream.
    let body = StreamBody::new(told.inspect(move |_| {
        let _ = &place;
    }));
    let mut answer = Response::new(UnsyncBoxBody::new(body));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(answer)
}

/// All that are kept, then each that comes.
fn samples(samples: &Samples) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + use<> {
    let mut newest = samples.watch();
    newest.mark_unchanged();
    let all = event("samples", &samples.all());
    let each = stream::unfold(newest, |mut newest| async move {
        newest.changed().await.ok()?;
        let sample = newest.borrow_and_update().clone();
        Some((Ok(event("sample", &sample)), newest))
    });
    stream::once(std::future::ready(Ok(all))).chain(each)
}

/// An event of a stream, as HTML's chapter "Server-sent events" has it.
pub(super) fn event(name: &str, value: &impl Serialize) -> Frame<Bytes> {
    let value = serde_json::to_string(value).expect("our own types are JSON");
    Frame::data(Bytes::from(format!("event: {name}\ndata: {value}\n\n")))
}

fn ready(readiness: Readiness) -> Answer {
    let code = if readiness == Readiness::Ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    text(code, format!("{}\n", readiness.as_str()))
}

fn page(file: &dashboard::File) -> Answer {
    let mut answer = Response::new(UnsyncBoxBody::new(Full::new(file.body())));
    file.describe(answer.headers_mut());
    answer
}

fn text(code: StatusCode, text: String) -> Answer {
    reply(code, "text/plain; charset=utf-8", text.into())
}

fn json(value: &impl Serialize) -> Answer {
    json_with(StatusCode::OK, value)
}

fn json_with(code: StatusCode, value: &impl Serialize) -> Answer {
    let text = serde_json::to_vec(value).expect("our own types are JSON");
    reply(code, "application/json", text.into())
}

fn reply(code: StatusCode, kind: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(UnsyncBoxBody::new(Full::new(body)));
    *answer.status_mut() = code;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

fn refused(Refused(code, why): Refused) -> Answer {
    let mut answer = json_with(code, &BTreeMap::from([("error", why)]));
    if code == StatusCode::UNAUTHORIZED {
        answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    answer
}

fn not_allowed(methods: &[&str]) -> Answer {
    let allowed = methods.join(", ");
    let mut answer = refused(Refused(StatusCode::METHOD_NOT_ALLOWED, format!("this takes {allowed}")));
    if let Ok(allowed) = HeaderValue::from_str(&allowed) {
        answer.headers_mut().insert(ALLOW, allowed);
    }
    answer
}

fn class(code: StatusCode) -> &'static str {
    match code.as_u16() / 100 {
        2 => "2xx",
        4 => "4xx",
        _ => "5xx",
    }
}
