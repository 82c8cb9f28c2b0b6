//! The file that says who answers clients, read as anybody could read it.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::tandem::Tandem;

/// Which side answers, and its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Control {
    pub(crate) epoch: u64,
    pub(crate) primary: String,
    /// A walk is under way.
    pub(crate) walks: bool,
}

impl Control {
    /// From the file, which nobody needs to be asked for.
    pub(crate) fn of_file(tandem: &Tandem) -> Control {
        let text = std::fs::read_to_string(control_file(tandem)).expect("a control file");
        let (_, body) = text.split_once('\n').expect("a first line");
        let stored: Value = serde_json::from_str(body).expect("JSON");
        let control = &stored["control"];
        Control {
            epoch: control["epoch"].as_u64().expect("a number"),
            primary: control["primary"].as_str().expect("a side").to_owned(),
            walks: !control["walk"].is_null(),
        }
    }

    /// The secondary.
    pub(crate) fn other(&self) -> &'static str {
        if self.primary == "origin" { "target" } else { "origin" }
    }

    /// After a switch.
    pub(crate) fn flipped(&self) -> Control {
        Control { epoch: self.epoch + 1, primary: self.other().to_owned(), walks: false }
    }

    /// With no walk under way.
    pub(crate) fn cleared(&self) -> Control {
        Control { walks: false, ..self.clone() }
    }
}

/// Where it is.
pub(crate) fn control_file(tandem: &Tandem) -> PathBuf {
    let found = files(tandem.dir()).into_iter().find(|path| path.ends_with("switch-control"));
    found.expect("a control file")
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}
