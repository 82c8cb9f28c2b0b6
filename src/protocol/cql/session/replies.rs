//! What tandem answers in the server's place: to what it refuses, to what is asked about the cluster, and to what the server
//! did not answer.

use bytes::BytesMut;

use crate::protocol::cql::outcome::Kind;
use crate::protocol::cql::topology::question::Asked;
use crate::protocol::cql::topology::{Moment, Question};
use crate::protocol::cql::wire::primitive::Consistency;
use crate::protocol::cql::wire::request::Request;
use crate::protocol::cql::wire::response::{self, ErrorKind, Response, ServerError, WriteType};
use crate::protocol::cql::wire::{Error, Header, HeaderError, Version};

use super::flights::Flight;
use super::{Fault, Has, QUIET, Session, What};

impl Session {
    /// Configuration says so.
    pub(super) fn refuse_by(&mut self, setting: &str, stream: i16) {
        let text = format!("tandem: {setting} = \"refuse\": this statement is not to run while a mirror is on");
        self.tell(stream, &Response::Error(ServerError::new(ErrorKind::Invalid, &text)));
        self.has = Has::default();
    }

    pub(super) fn describe(&mut self, stream: i16) -> Result<(), Fault> {
        let mut out = BytesMut::new();
        let (to, owned) = ((self.framing.version, stream), self.keyspace.is_some());
        self.shared.identity.put_description(&mut out, to, self.address, owned).map_err(Fault::Own)?;
        self.to_client.push(&out);
        Ok(())
    }

    /// What is asked about the cluster is answered here.
    pub(super) fn say(&mut self, stream: i16, question: &Question, request: &Request<'_>) -> Result<(), Fault> {
        let (parameters, asked) = match request {
            Request::Query(query) => (&query.parameters, Asked::AsText),
            Request::Execute(execute) => (&execute.parameters, Asked::Prepared(execute.result_metadata_id)),
            _ => return Ok(()),
        };
        let versions = [self.shared.side(self.side).tables().version];
        let moment = Moment { address: self.address, schema_versions: &versions, others: &[] };
        let rows = self.shared.identity.rows(question.table(), &moment);
        let mut out = BytesMut::new();
        let to = (self.framing.version, stream);
        question.put_answer(&mut out, to, asked, parameters, &rows).map_err(Fault::Own)?;
        self.to_client.push(&out);
        Ok(())
    }

    /// The server did not answer, and will not be heard any more.
    pub(super) fn answer_for_server(&mut self, flight: Flight) {
        self.answered();
        let text = "tandem: the server did not answer";
        let kind = match &flight.what {
            What::Write(writing) => timed_out(writing.kind, writing.consistency, self.framing.version),
            // Nobody looked at what it writes: it may be there in part.
            What::Unmirrored => timed_out(Kind::Spread, QUIET, self.framing.version),
            _ => ErrorKind::ReadTimeout { consistency: QUIET, received: 0, block_for: 1, data_present: false },
        };
        self.tell(flight.client, &Response::Error(ServerError::new(kind, text)));
        if let What::Read(watched) = flight.what {
            watched.lost();
        }
    }

    pub(super) fn unprepared(&mut self, stream: i16, id: &[u8]) {
        let text = "tandem does not know this prepared statement: prepare it again";
        self.tell(stream, &Response::Error(ServerError::new(ErrorKind::Unprepared { id }, text)));
    }

    /// An answer of our own.
    pub(super) fn tell(&mut self, stream: i16, response: &Response<'_>) {
        let mut out = BytesMut::new();
        match response.put_frame(&mut out, self.framing.version, stream) {
            Ok(()) => self.to_client.push(&out),
            Err(error) => tracing::error!(%error, "an answer could not be written"),
        }
    }

    /// Answer a header as servers do. `stream`: its own, if that is known.
    pub(super) fn refuse(&mut self, refused: &HeaderError, stream: Option<i16>) {
        let mut refused = refused.clone();
        let mut text = refused.error.to_string();
        if let Error::Version(number) = refused.error {
            text = self.shared.identity.supported.refusal(number);
            if refused.version >= Version::V3 as u8 {
                refused.version = self.framing.version as u8;
            }
        }
        // Below v5 a server has not read the stream when it looks at the version.
        if self.framing.version >= Version::V5 {
            refused.stream = stream.unwrap_or(refused.stream);
        }
        let mut out = BytesMut::new();
        if response::put_refusal_in(&mut out, &refused, &text).is_ok() {
            self.to_client.push(&out);
        }
    }

    /// A version that exists, but not on this connection.
    pub(super) fn refuse_version(&mut self, header: Header) {
        let (got, had) = (header.version, self.framing.version);
        let text = format!(
            "Invalid message version. Got {}/{got} but previous messages on this connection had version {}/{had}",
            got as u8, had as u8
        );
        self.tell(header.stream, &Response::Error(ServerError::new(ErrorKind::Protocol, &text)));
    }
}

/// What a write says that is not known to be everywhere: nothing that drivers would try again elsewhere.
pub(super) fn timed_out(kind: Kind, consistency: Consistency, version: Version) -> ErrorKind<'static> {
    let write_type = match kind {
        Kind::Single => WriteType::Simple,
        Kind::Logged => WriteType::BatchLog,
        Kind::Spread => WriteType::UnloggedBatch,
        Kind::Counter | Kind::Counters => WriteType::Counter,
        Kind::Conditional => WriteType::Cas,
    };
    timed_out_as(write_type, consistency, version)
}

pub(super) fn timed_out_as(
    write_type: WriteType<'static>,
    consistency: Consistency,
    version: Version,
) -> ErrorKind<'static> {
    let contentions = (write_type == WriteType::Cas && version >= Version::V5).then_some(0);
    ErrorKind::WriteTimeout { consistency, received: 0, block_for: 1, write_type, contentions }
}
