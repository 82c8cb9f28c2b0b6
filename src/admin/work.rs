//! Workers of other processes: they come, ask for chunks, say that they work, and what became of it. What that means is the
//! crew's.

use hyper::StatusCode;
use serde::{Deserialize, Serialize};

use super::State;
use super::history::desk;
use super::routes::Refused;
use crate::backfill::crew::message::{Done, Join, Joined, Work};
use crate::backfill::crew::{self, Crew};

/// What a worker says.
#[derive(Debug, Deserialize)]
#[serde(tag = "action", rename_all = "lowercase")]
pub(super) enum Said {
    Join(Join),
    Take { worker: u64 },
    Beat { worker: u64, holds: Vec<u64> },
    Put { worker: u64, loan: u64, done: Done },
    Leave { worker: u64 },
}

/// What it is told.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Told {
    Joined(Joined),
    /// A chunk, or none yet; whether there is a walk at all.
    Work {
        work: Option<Work>,
        busy: bool,
    },
    /// What it still has.
    Held {
        held: Vec<u64>,
    },
    Taken {
        taken: bool,
    },
}

pub(super) async fn heard(state: &State, said: Said) -> Result<Told, Refused> {
    let desk = desk(state)?;
    let crew: &Crew = desk.crew();
    let told = match said {
        Said::Join(join) => crew.join(&join).map(Told::Joined),
        Said::Take { worker } => crew.take(worker).await.map(|work| Told::Work { work, busy: desk.is_busy() }),
        Said::Beat { worker, holds } => crew.beat(worker, &holds).map(|held| Told::Held { held }),
        Said::Put { worker, loan, done } => crew.put(worker, loan, done).map(|()| Told::Taken { taken: true }),
        Said::Leave { worker } => {
            crew.leave(worker);
            Ok(Told::Taken { taken: true })
        }
    };
    told.map_err(refused)
}

fn refused(refused: crew::Refused) -> Refused {
    let code = match refused {
        crew::Refused::Unknown => StatusCode::NOT_FOUND,
        crew::Refused::Join(_) | crew::Refused::Late => StatusCode::CONFLICT,
    };
    Refused(code, refused.to_string())
}
