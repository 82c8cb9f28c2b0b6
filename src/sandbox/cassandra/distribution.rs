//! Finding Cassandra's jars and a Java for them, and what makes a node start in a third of its time: an archive of the
//! classes that a node loads.
//!
//! Cassandra from Maven is a folder of jars without scripts or configuration. 4.1 and 5.0 both run on Java 17; later ones
//! refuse the security manager that 4.1 installs.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::{Error, Node, Options, Stop};
use crate::sandbox::{Sandbox, cache_folder, command, free_port, io_error, own_folder, run};

/// One Cassandra: the jars of a version, and the Java that runs them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribution {
    /// "4.1.9".
    pub version: String,
    /// The folder of its jars.
    pub jars: PathBuf,
    /// A program `java` of version 17.
    pub java: PathBuf,
    /// "17.0.15".
    pub java_version: String,
}

const INSTALL: &str =
    "scripts/setup --cql, or set TANDEM_CASSANDRA to a folder that has a folder of jars for each version";
const INSTALL_JAVA: &str =
    "scripts/setup --cql, or the package openjdk-17-jre-headless, or set TANDEM_JAVA to the java of one";

/// Every Cassandra that can be found, oldest first: `TANDEM_CASSANDRA`, or else the cache folder, has a folder of jars for
/// each version.
pub fn distributions() -> Result<Vec<Distribution>, Error> {
    let root = std::env::var_os("TANDEM_CASSANDRA").map_or_else(|| cache_folder().join("cassandra"), PathBuf::from);
    let mut folders: Vec<PathBuf> =
        entries(&root).into_iter().filter(|folder| release(folder).is_some_and(|jar| jar.is_file())).collect();
    folders.sort_by_key(|folder| numbers(&name(folder)));
    if folders.is_empty() {
        return Err(Error::NoServer { server: "Cassandra", searched: root.display().to_string(), install: INSTALL });
    }
    let (java, java_version) = java()?;
    let made = folders.into_iter().map(|jars| Distribution {
        version: name(&jars),
        jars,
        java: java.clone(),
        java_version: java_version.clone(),
    });
    Ok(made.collect())
}

/// An old and a new one: two different versions where they can be had.
pub fn oldest_and_newest() -> Result<(Distribution, Distribution), Error> {
    let mut found = distributions()?;
    let newest = found.last().cloned().expect("an empty list is an error");
    Ok((found.swap_remove(0), newest))
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect()
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The server's own jar in a folder that is named after its version.
fn release(folder: &Path) -> Option<PathBuf> {
    let version = name(folder);
    version.starts_with(|c: char| c.is_ascii_digit()).then(|| folder.join(format!("cassandra-all-{version}.jar")))
}

/// "4.1.9" into 4, 1, 9, so that 4.10 comes after 4.9.
fn numbers(version: &str) -> Vec<u32> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

/// A Java 17: what `TANDEM_JAVA` names, or else that of `JAVA_HOME`, of the system, or the one on PATH.
fn java() -> Result<(PathBuf, String), Error> {
    let named = std::env::var_os("TANDEM_JAVA").map(PathBuf::from);
    let home = std::env::var_os("JAVA_HOME").map(|home| PathBuf::from(home).join("bin/java"));
    let system = entries(Path::new("/usr/lib/jvm")).into_iter().map(|jvm| jvm.join("bin/java"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|dir| dir.join("java"));
    let mut candidates = named.into_iter().chain(home).chain(system).chain(on_path);
    candidates.find_map(|java| Some((java.clone(), java_version(&java)?))).ok_or_else(|| Error::NoServer {
        server: "Java 17",
        searched: "TANDEM_JAVA, JAVA_HOME, /usr/lib/jvm, PATH".to_owned(),
        install: INSTALL_JAVA,
    })
}

/// What the file `release` at the top of an installation says, which is faster than asking it. Only 17 counts.
fn java_version(java: &Path) -> Option<String> {
    let home = java.canonicalize().ok()?.parent()?.parent()?.to_owned();
    let release = std::fs::read_to_string(home.join("release")).ok()?;
    let line = release.lines().find_map(|line| line.strip_prefix("JAVA_VERSION="))?;
    Some(line.trim_matches('"').to_owned()).filter(|version| version == "17" || version.starts_with("17."))
}

/// What a node is started with besides its own settings; made once for each version and kept in the cache folder.
#[derive(Clone, Debug)]
pub(super) struct Warm {
    /// A file of arguments that opens Java's packages to Cassandra.
    pub(super) opened: PathBuf,
    /// The classes that a node loads, as Java maps them into memory: start in 2.5 seconds of processor time instead of 4.6.
    pub(super) archive: PathBuf,
}

/// What a node does with the archive.
#[derive(Clone, Debug)]
pub(super) enum Classes {
    /// Starts from it.
    Use(Warm),
    /// Starts without, and writes it as it ends.
    Record(Warm),
}

/// Modules into whose packages Cassandra reaches, above all to measure how much memory its objects take.
const OPENED: &[&str] = &[
    "java.base",
    "java.management",
    "java.logging",
    "java.xml",
    "java.rmi",
    "jdk.management",
    "jdk.attach",
    "jdk.compiler",
];

impl Distribution {
    /// All jars, as a class path. No folder may be among them, or Java makes no archive of it.
    pub(super) fn class_path(&self) -> String {
        self.jar_files().iter().map(|jar| jar.display().to_string()).collect::<Vec<_>>().join(":")
    }

    /// The jar that measures objects, which Java loads as an agent.
    pub(super) fn agent(&self) -> Option<PathBuf> {
        self.jar_files().into_iter().find(|jar| name(jar).starts_with("jamm-"))
    }

    fn jar_files(&self) -> Vec<PathBuf> {
        let mut jars = entries(&self.jars);
        jars.retain(|jar| jar.extension().is_some_and(|extension| extension == "jar"));
        jars.sort();
        jars
    }

    /// What the cache folder has for this version, made if it is not there yet: that takes as long as two starts.
    pub(super) fn warm(&self) -> Result<Warm, Error> {
        let templates = cache_folder().join("templates");
        let ready = templates.join(format!("cassandra-{}-java-{}", self.version, self.java_version));
        if !ready.is_dir() {
            own_folder(&templates)?;
            self.make_warm(&templates, &ready)?;
        }
        Ok(Warm::inside(&ready))
    }

    /// One process makes it, others wait for that one.
    fn make_warm(&self, templates: &Path, ready: &Path) -> Result<(), Error> {
        let turn = File::options().create(true).append(true).open(templates.join(".lock"));
        let turn = turn.map_err(io_error("open the lock of the templates"))?;
        turn.lock().map_err(io_error("lock the templates"))?;
        if ready.is_dir() {
            return Ok(());
        }
        let fresh = templates.join(format!("{}.{}-{}", name(ready), std::process::id(), free_port()));
        own_folder(&fresh)?;
        let made = self.fill(&Warm::inside(&fresh));
        let moved = made.and_then(|()| std::fs::rename(&fresh, ready).map_err(io_error("keep the archive of classes")));
        if moved.is_err() {
            let _ = std::fs::remove_dir_all(&fresh);
        }
        moved
    }

    /// A node that was started with nothing writes down, as it ends, which classes it has loaded.
    fn fill(&self, warm: &Warm) -> Result<(), Error> {
        let mut opened = String::new();
        for module in OPENED {
            opened.push_str(&self.packages(module));
        }
        std::fs::write(&warm.opened, opened).map_err(io_error("write the list of packages"))?;
        let sandbox = Sandbox::new(false)?;
        let mut node = Node::new(&sandbox, self, &Options::default(), (None, None))?;
        node.record = Some(warm.clone());
        node.start()?;
        node.stop(Stop::Drain)
    }

    /// Arguments that open all packages of a module. One that this Java does not have has none.
    fn packages(&self, module: &str) -> String {
        let mut asked = command(&self.java);
        asked.args(["--describe-module", module]);
        let described = run(asked).unwrap_or_default();
        let packages = described.lines().filter_map(package);
        packages
            .map(|package| {
                format!("--add-opens={module}/{package}=ALL-UNNAMED\n--add-exports={module}/{package}=ALL-UNNAMED\n")
            })
            .collect()
    }
}

impl Warm {
    fn inside(folder: &Path) -> Warm {
        Warm { opened: folder.join("opened"), archive: folder.join("classes.jsa") }
    }
}

/// The package that a line of `java --describe-module` names, such as "exports java.io" or "qualified exports sun.nio to ...".
fn package(line: &str) -> Option<&str> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        ["exports" | "contains", package, ..] | ["qualified", _, package, ..] => Some(package),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_read_as_java_prints_them() {
        let lines = ["java.base@17.0.15", "exports java.io", "requires java.xml transitive", "contains sun.launcher"];
        let found: Vec<_> = lines.iter().filter_map(|line| package(line)).collect();
        assert_eq!(found, ["java.io", "sun.launcher"]);
        assert_eq!(package("qualified exports sun.nio.ch to java.management"), Some("sun.nio.ch"));
    }

    #[test]
    fn versions_are_in_the_order_of_their_numbers() {
        let mut versions = ["5.0.5", "4.10.0", "4.9.1"];
        versions.sort_by_key(|version| numbers(version));
        assert_eq!(versions, ["4.9.1", "4.10.0", "5.0.5"]);
    }
}
