//! How the CLI talks to a running tandem.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::config::Secret;

/// Where a running tandem's API is.
#[derive(Clone, Debug)]
pub struct Client {
    authority: String,
    token: Option<HeaderValue>,
}

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `--admin` is not a URL that the API could have.
    #[error("--admin must be like http://127.0.0.1:6480")]
    Url,
    /// The token cannot be sent in a header.
    #[error("the token has characters that a header cannot carry")]
    Token,
    /// Nobody answers.
    #[error(
        "no tandem answers at {at}: {why}. If it listens elsewhere (admin.address of its proxy.toml): --admin URL, or TANDEM_ADMIN"
    )]
    Unreachable {
        /// Where.
        at: String,
        /// What happened.
        why: String,
    },
    /// It answered with more than is taken.
    #[error(
        "the answer is larger than {} MiB, and is not shown: ask for it with another client (`curl -o FILE`), or mend what the \
         list is about first",
        ANSWER_BYTES_MAX >> 20
    )]
    TooLarge,
    /// It answered, and refused.
    #[error("tandem refused: {0}")]
    Refused(String),
    /// It refused because what was named is not there, maybe no more.
    #[error("tandem refused: {0}")]
    Missing(String),
}

/// Longest time for one request.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer.
const ANSWER_BYTES_MAX: usize = 16 << 20;

impl Client {
    /// A client of the API at `url`.
    pub fn new(url: &str, token: Option<&Secret>) -> Result<Client, Error> {
        let uri: Uri = url.parse().map_err(|_| Error::Url)?;
        if uri.scheme_str() != Some("http") {
            return Err(Error::Url);
        }
        let authority = uri.authority().filter(|authority| authority.port().is_some()).ok_or(Error::Url)?.to_string();
        let token = token.map(|token| {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.reveal())).map_err(|_| Error::Token)?;
            value.set_sensitive(true);
            Ok(value)
        });
        Ok(Client { authority, token: token.transpose()? })
    }

    /// `GET path`.
    pub async fn get(&self, path: &str) -> Result<Value, Error> {
        self.ask(Method::GET, path, None).await
    }

    /// `POST path` with a JSON body.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, Error> {
        self.ask(Method::POST, path, Some(body)).await
    }

    /// `PATCH path` with a JSON body.
    pub async fn patch(&self, path: &str, body: &Value) -> Result<Value, Error> {
        self.ask(Method::PATCH, path, Some(body)).await
    }

    /// `DELETE path`.
    pub async fn delete(&self, path: &str) -> Result<Value, Error> {
        self.ask(Method::DELETE, path, None).await
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Error> {
        let asked = tokio::time::timeout(TIMEOUT, self.exchange(method, path, body)).await;
        let (code, answer) = asked.map_err(|_| self.unreachable("no answer in time"))??;
        let value: Value = serde_json::from_slice(&answer)
            .map_err(|_| self.unreachable("the answer is not JSON: is this tandem's admin address?"))?;
        if code.is_success() {
            return Ok(value);
        }
        let why = value.get("error").and_then(Value::as_str).unwrap_or(code.as_str());
        Err(match code {
            StatusCode::SERVICE_UNAVAILABLE => self.unreachable(why),
            StatusCode::NOT_FOUND => Error::Missing(why.to_owned()),
            _ => Error::Refused(why.to_owned()),
        })
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<&Value>) -> Result<(StatusCode, Bytes), Error> {
        let stream = TcpStream::connect(&self.authority).await.map_err(|error| self.unreachable(error))?;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| self.unreachable(error))?;
        let exchange = async {
            let answer = sender.send_request(self.request(method, path, body)).await?;
            let code = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>((code, body.to_bytes()))
        };
        // The connection does the work; what it has read when it ends is still to be taken.
        tokio::pin!(connection, exchange);
        let done = tokio::select! {
            biased;
            done = &mut exchange => done,
            _ = &mut connection => exchange.await,
        };
        done.map_err(|error| if error.is::<LengthLimitError>() { Error::TooLarge } else { self.unreachable(error) })
    }

    fn request(&self, method: Method, path: &str, body: Option<&Value>) -> Request<Full<Bytes>> {
        let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().expect("paths are the CLI's own");
        let headers = request.headers_mut();
        headers.insert(HOST, HeaderValue::from_str(&self.authority).expect("an authority fits a header"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(token) = &self.token {
            headers.insert(AUTHORIZATION, token.clone());
        }
        request
    }

    fn unreachable(&self, why: impl std::fmt::Display) -> Error {
        Error::Unreachable { at: self.authority.clone(), why: why.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_that_is_too_large_is_named_so() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let serve = async move {
            let (mut stream, _) = listener.accept().await.expect("it connects");
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                asked.push(stream.read_u8().await.expect("it asks"));
            }
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", ANSWER_BYTES_MAX + 1);
            stream.write_all(head.as_bytes()).await.expect("it listens");
            // It hangs up when it has had enough.
            let _ = stream.write_all(&vec![b' '; ANSWER_BYTES_MAX + 1]).await;
        };
        let client = Client::new(&url, None).expect("a URL");
        let (_, answer) = tokio::join!(serve, client.get("/v1/parked"));
        assert!(matches!(answer, Err(Error::TooLarge)), "{answer:?}");
    }

    #[test]
    fn only_an_http_url_with_a_port_will_do() {
        assert!(Client::new("http://127.0.0.1:6480", None).is_ok());
        assert!(Client::new("http://[::1]:6480/", None).is_ok());
        for bad in ["", "127.0.0.1:6480", "https://127.0.0.1:6480", "http://127.0.0.1", "ftp://x:1"] {
            assert!(Client::new(bad, None).is_err(), "{bad}");
        }
    }
}
