//! Real Cassandra clusters, of one node or of several, in temp folders.
//!
//! A node takes about 2.5 seconds of processor time to start and 250 MB of memory: tests share one where they can, each in
//! a keyspace of its own. Every node listens on port 9042 of an address of its own in 127.0.0.0/8.
//!
//! The first start of a version makes an archive of its classes in the cache folder and takes three times as long.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use super::postgres::{Tls, freeze, put, signal};
use super::{Error, Sandbox, free_port, io_error, own_folder, run};
use distribution::Classes;

mod address;
pub mod distribution;
mod leftovers;
mod settings;

pub use distribution::Distribution;

/// Where every node listens for clients.
pub const CQL_PORT: u16 = 9042;

/// How a cluster is set up. The default: no authentication, no TLS.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Clients log in; there is the superuser `cassandra` with the password `cassandra`.
    pub authentication: bool,
    /// Clients must speak TLS; with `ca`, they must show a certificate. The key is PKCS #8.
    pub tls: Option<Tls>,
    /// Lines at the end of `cassandra.yaml`, such as `write_request_timeout: 500ms`.
    pub config: Vec<String>,
    /// `None`: all clusters have the same name.
    pub cluster_name: Option<String>,
    /// Most memory for Java's objects, in MB. `None`: 384.
    pub heap_mb: Option<u32>,
    /// Where each node is. Empty: all of them are in `datacenter1`.
    pub datacenters: Vec<&'static str>,
    /// Each node has a port for its tools: [`Node::decommission`].
    pub tools: bool,
}

/// How to stop a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Writes everything to its tables, tells the other nodes, ends (`nodetool drain`): 2 to 3 seconds.
    Drain,
    /// SIGKILL: a crash. What it acknowledged is in its commit log.
    Kill,
}

/// Nodes that know each other. Dropped, they are gone.
pub struct Cluster {
    /// The first is the seed of all.
    pub nodes: Vec<Node>,
}

/// One server of a cluster. Dropped, it is gone.
pub struct Node {
    claim: address::Claim,
    folder: PathBuf,
    distribution: Distribution,
    options: Options,
    /// Where its tools reach it.
    tools: Option<u16>,
    child: Option<Child>,
    /// Write an archive of classes as it ends, instead of using one.
    record: Option<distribution::Warm>,
    /// Where in the log this start began.
    log_start: u64,
    sandbox: Sandbox,
}

/// Longest wait for a start or a stop, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(180);
/// Pause between two looks at a node's log.
const LOOK: Duration = Duration::from_millis(10);
/// Said by a node, in every version that we know, once it listens to clients.
const READY: &str = "Startup complete";
/// Said once in a cluster's life; before it nobody can log in.
const SUPERUSER: &str = "Created default superuser role";

impl Cluster {
    /// Make nodes and start them. Returns when each answers clients and all see each other.
    pub fn start(
        sandbox: &Sandbox,
        distribution: &Distribution,
        nodes: usize,
        options: &Options,
    ) -> Result<Cluster, Error> {
        let mut made = Vec::with_capacity(nodes);
        let mut seed = None;
        for place in 0..nodes {
            let node = Node::new(sandbox, distribution, options, (seed, options.datacenters.get(place).copied()))?;
            seed = seed.or(Some(node.claim.address));
            made.push(node);
        }
        let mut cluster = Cluster { nodes: made };
        cluster.launch()?;
        Ok(cluster)
    }

    /// The seed alone, then the others at once.
    fn launch(&mut self) -> Result<(), Error> {
        let authentication = self.nodes.first().is_some_and(|node| node.options.authentication);
        if let Some(seed) = self.nodes.first_mut() {
            seed.start()?;
            if authentication {
                seed.wait_log(|log| log.contains(SUPERUSER))?;
            }
        }
        self.nodes.iter_mut().skip(1).try_for_each(Node::spawn)?;
        self.nodes.iter_mut().skip(1).try_for_each(Node::wait_ready)?;
        self.settle()
    }

    /// Wait until every node that runs has heard of every other one that it is up; for instance after a restart.
    pub fn settle(&mut self) -> Result<(), Error> {
        let running: Vec<Ipv4Addr> =
            self.nodes.iter().filter(|node| node.child.is_some()).map(|node| node.claim.address).collect();
        for node in self.nodes.iter_mut().filter(|node| node.child.is_some()) {
            let own = node.claim.address;
            node.wait_log(|log| running.iter().all(|other| *other == own || sees_up(log, *other)))?;
        }
        Ok(())
    }

    /// A node to connect to: the first.
    ///
    /// # Panics
    /// In a cluster without nodes.
    pub fn contact(&self) -> SocketAddrV4 {
        self.nodes.first().expect("a cluster has nodes").address()
    }
}

/// The last that a log says of another node.
fn sees_up(log: &str, other: Ipv4Addr) -> bool {
    let said = format!("InetAddress /{other}:7000 is now ");
    log.rfind(&said).is_some_and(|at| log[at + said.len()..].starts_with("UP"))
}

impl Node {
    fn new(
        sandbox: &Sandbox,
        distribution: &Distribution,
        options: &Options,
        (seed, datacenter): (Option<Ipv4Addr>, Option<&str>),
    ) -> Result<Node, Error> {
        let claim = address::claim()?;
        let folder = sandbox.folder(&claim.address.to_string())?;
        for name in ["tmp", "triggers"] {
            own_folder(&folder.join(name))?;
        }
        let yaml = settings::yaml(&folder, claim.address, seed.unwrap_or(claim.address), options);
        put(&folder.join("cassandra.yaml"), &yaml)?;
        put(&folder.join("logback.xml"), settings::LOGBACK)?;
        if let Some(datacenter) = datacenter {
            put(&folder.join(settings::PLACE), &format!("dc={datacenter}\nrack=rack1\n"))?;
        }
        Ok(Node {
            claim,
            folder,
            distribution: distribution.clone(),
            options: options.clone(),
            tools: options.tools.then(free_port),
            child: None,
            record: None,
            log_start: 0,
            sandbox: sandbox.clone(),
        })
    }

    /// Start it again, on the same address. Returns when it takes clients; others of its cluster may not have heard of it.
    pub fn start(&mut self) -> Result<(), Error> {
        if self.child.is_some() {
            return Ok(());
        }
        self.spawn()?;
        match self.wait_ready() {
            Err(Error::Failed { .. }) if self.said().contains(leftovers::REFUSAL) => {
                leftovers::finish(&self.folder.join("data")).map_err(io_error("delete what a killed node left"))?;
                self.spawn()?;
                self.wait_ready()
            }
            started => started,
        }
    }

    fn spawn(&mut self) -> Result<(), Error> {
        let log = File::options().create(true).append(true).open(self.log());
        let log = log.map_err(io_error("open the node's log"))?;
        self.log_start = log.metadata().map_err(io_error("open the node's log"))?.len();
        let errors = log.try_clone().map_err(io_error("open the node's log"))?;
        let child = self.java()?.stdout(log).stderr(errors).spawn().map_err(io_error("start Cassandra"))?;
        let pid = child.id();
        self.child = Some(child);
        self.sandbox.remember(pid)
    }

    fn java(&self) -> Result<Command, Error> {
        let classes = match &self.record {
            Some(warm) => Classes::Record(warm.clone()),
            None => Classes::Use(self.distribution.warm()?),
        };
        Ok(settings::java(&self.distribution, &self.folder, &classes, self.options.heap_mb, self.tools))
    }

    /// Stop it and wait until it is gone.
    pub fn stop(&mut self, how: Stop) -> Result<(), Error> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        signal(child.id(), if how == Stop::Drain { libc::SIGTERM } else { libc::SIGKILL });
        child.wait().map_err(io_error("wait for Cassandra"))?;
        self.sandbox.forget(child.id());
        Ok(())
    }

    /// Stop and start.
    pub fn restart(&mut self, how: Stop) -> Result<(), Error> {
        self.stop(how)?;
        self.start()
    }

    /// It hands what it has to the others and leaves the cluster for good; it runs on, and serves nobody. Only with
    /// [`Options::tools`].
    pub fn decommission(&self) -> Result<(), Error> {
        let port = self.tools.ok_or_else(|| Error::Failed {
            program: "nodetool".to_owned(),
            output: "the node was started without a port for tools".to_owned(),
        })?;
        // Tables of the system's own want more replicas than a small cluster has.
        let words = ["decommission", "--force"];
        run(settings::tool(&self.distribution, &self.distribution.warm()?, &self.folder, port, &words)).map(drop)
    }

    /// SIGSTOP: connections stay, nothing answers.
    pub fn freeze(&self) {
        self.child.iter().for_each(|child| freeze(child.id()));
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.child.iter().for_each(|child| signal(child.id(), libc::SIGCONT));
    }

    /// Where it listens for clients.
    pub fn address(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.claim.address, CQL_PORT)
    }

    /// What it is.
    pub fn distribution(&self) -> &Distribution {
        &self.distribution
    }

    /// Its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Its folder: settings, log, data.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The end of its log, for an error or a failing test.
    pub fn log_tail(&self) -> String {
        let log = std::fs::read(self.log()).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(4_000)..]).into_owned()
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn wait_ready(&mut self) -> Result<(), Error> {
        self.wait_log(|log| log.contains(READY))
    }

    /// Wait until what the log says since this start is enough.
    fn wait_log(&mut self, enough: impl Fn(&str) -> bool) -> Result<(), Error> {
        for _ in 0..PATIENCE.as_millis() / LOOK.as_millis() {
            if enough(&self.said()) {
                return Ok(());
            }
            let exited = self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            if exited {
                break;
            }
            std::thread::sleep(LOOK);
        }
        let _ = self.stop(Stop::Kill);
        Err(Error::Failed { program: format!("Cassandra {}", self.distribution.version), output: self.log_tail() })
    }

    fn said(&self) -> String {
        let mut said = Vec::new();
        if let Ok(mut log) = File::open(self.log()) {
            let _ = log.seek(SeekFrom::Start(self.log_start)).and_then(|_| log.read_to_end(&mut said));
        }
        String::from_utf8_lossy(&said).into_owned()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.stop(Stop::Kill);
    }
}
