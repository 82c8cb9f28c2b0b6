//! What a node is told: its `cassandra.yaml` and the arguments of its Java.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use super::distribution::{Classes, Distribution, Warm};
use super::{CQL_PORT, Options};
use crate::sandbox::command;
use crate::sandbox::postgres::Tls;

/// Only what the starter reads, and what is wrong.
pub(super) const LOGBACK: &str = r#"<configuration>
  <appender name="log" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%-5level %date{HH:mm:ss.SSS} %logger{0} %msg%n</pattern></encoder>
  </appender>
  <logger name="org.apache.cassandra.auth.CassandraRoleManager" level="INFO"/>
  <logger name="org.apache.cassandra.gms.Gossiper" level="INFO"/>
  <logger name="org.apache.cassandra.service.CassandraDaemon" level="INFO"/>
  <root level="WARN"><appender-ref ref="log"/></root>
</configuration>
"#;

/// Where a node says in which datacenter it is.
pub(super) const PLACE: &str = "cassandra-rackdc.properties";

/// Writes are acknowledged when they are in the commit log (`batch`), so that none is lost with the process; that they do
/// not wait for the disk is an argument of Java's, below.
pub(super) fn yaml(folder: &Path, address: Ipv4Addr, seed: Ipv4Addr, options: &Options) -> String {
    let folder = folder.display();
    let name = options.cluster_name.as_deref().unwrap_or("tandem's sandbox");
    let (authenticator, authorizer) = match options.authentication {
        true => ("PasswordAuthenticator", "CassandraAuthorizer"),
        false => ("AllowAllAuthenticator", "AllowAllAuthorizer"),
    };
    let snitch = if options.datacenters.is_empty() { "SimpleSnitch" } else { "GossipingPropertyFileSnitch" };
    let mut yaml = format!(
        "cluster_name: \"{name}\"\n\
         partitioner: org.apache.cassandra.dht.Murmur3Partitioner\n\
         num_tokens: 16\n\
         auto_bootstrap: false\n\
         endpoint_snitch: {snitch}\n\
         seed_provider: [{{class_name: org.apache.cassandra.locator.SimpleSeedProvider, parameters: [{{seeds: \"{seed}\"}}]}}]\n\
         listen_address: {address}\n\
         rpc_address: {address}\n\
         native_transport_port: {CQL_PORT}\n\
         data_file_directories: [{folder}/data]\n\
         commitlog_directory: {folder}/commitlog\n\
         saved_caches_directory: {folder}/caches\n\
         hints_directory: {folder}/hints\n\
         cdc_raw_directory: {folder}/cdc\n\
         commitlog_sync: batch\n\
         disk_failure_policy: stop\n\
         commit_failure_policy: stop\n\
         authenticator: {authenticator}\n\
         authorizer: {authorizer}\n\
         role_manager: CassandraRoleManager\n\
         network_authorizer: AllowAllNetworkAuthorizer\n\
         materialized_views_enabled: true\n\
         user_defined_functions_enabled: true\n"
    );
    if let Some(tls) = &options.tls {
        yaml.push_str(&encryption(tls));
    }
    for line in &options.config {
        let _ = writeln!(yaml, "{line}");
    }
    yaml
}

/// Certificates as PEM, in the settings themselves: no keystore of Java's own has to be made.
fn encryption(tls: &Tls) -> String {
    let mut yaml = format!(
        "client_encryption_options:\n  enabled: true\n  optional: false\n  require_client_auth: {}\n  \
         ssl_context_factory:\n    class_name: org.apache.cassandra.security.PEMBasedSslContextFactory\n    parameters:\n",
        tls.ca.is_some()
    );
    let key = format!("{}{}", tls.key, tls.cert);
    // Without clients' certificates nothing is trusted, but a trusted certificate must be named.
    for (name, pem) in [("private_key", &key), ("trusted_certificates", tls.ca.as_ref().unwrap_or(&tls.cert))] {
        let _ = writeln!(yaml, "      {name}: |");
        for line in pem.lines() {
            let _ = writeln!(yaml, "        {line}");
        }
    }
    yaml
}

/// The node's Java. Small and soon there rather than fast: a little heap that may grow, one thread to collect it, the
/// quick compiler only; no fsync; no waiting for other nodes to make up their minds.
pub(super) fn java(
    distribution: &Distribution,
    folder: &Path,
    classes: &Classes,
    heap_mb: Option<u32>,
    tools: Option<u16>,
) -> Command {
    let mut java = command(&distribution.java);
    let (warm, archive) = match classes {
        Classes::Use(warm) => (warm, "SharedArchiveFile"),
        Classes::Record(warm) => (warm, "ArchiveClassesAtExit"),
    };
    java.arg(format!("@{}", warm.opened.display()));
    java.args(distribution.agent().map(|jar| format!("-javaagent:{}", jar.display())));
    java.args(["-XX:+UnlockDiagnosticVMOptions", "-XX:+AllowArchivingWithJavaAgent", "-Xshare:auto"]);
    java.arg(format!("-XX:{archive}={}", warm.archive.display()));
    java.args(["-Xms64m", "-Xss512k", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"]);
    java.args([format!("-Xmx{}m", heap_mb.unwrap_or(384)), "-XX:+ExitOnOutOfMemoryError".to_owned()]);
    java.args(["-Dfile.encoding=UTF-8", "-Djava.net.preferIPv4Stack=true", "-Djdk.attach.allowAttachSelf=true"]);
    java.arg("-Dio.netty.tryReflectionSetAccessible=true");
    for (name, value) in [
        ("ring_delay_ms", "100"),
        ("skip_wait_for_gossip_to_settle", "0"),
        ("superuser_setup_delay_ms", "0"),
        ("shutdown_announce_in_ms", "0"),
        ("allow_unsafe_join", "true"),
        ("consistent.rangemovement", "false"),
        ("skip_sync", "true"),
        // Otherwise measured at each start, by making 100 000 rows.
        ("memtable.row_overhead_size", "180"),
    ] {
        java.arg(format!("-Dcassandra.{name}={value}"));
    }
    // On loopback only.
    java.args(tools.map(|port| format!("-Dcassandra.jmx.local.port={port}")));
    let at = |name: &str, file: &str| format!("-D{name}={}/{file}", folder.display());
    java.args([at("java.io.tmpdir", "tmp"), at("cassandra.storagedir", ""), at("cassandra.triggers_dir", "triggers")]);
    java.args([at("logback.configurationFile", "logback.xml"), "-Dcassandra-foreground=yes".to_owned()]);
    java.arg(format!("-D{PLACE}=file://{}/{PLACE}", folder.display()));
    java.arg(format!("-Dcassandra.config=file://{}/cassandra.yaml", folder.display()));
    java.args(["-cp", &distribution.class_path(), "org.apache.cassandra.service.CassandraDaemon"]);
    java
}

/// Cassandra's own `nodetool`, for the node in this folder, which has this port for tools.
pub(super) fn tool(distribution: &Distribution, warm: &Warm, folder: &Path, port: u16, words: &[&str]) -> Command {
    let mut java = command(&distribution.java);
    // It remembers what it was told at home.
    java.arg(format!("@{}", warm.opened.display())).arg(format!("-Duser.home={}/tmp", folder.display()));
    java.args(["-Xmx64m", "-XX:TieredStopAtLevel=1", "-Dlogback.configurationFile=logback-tools.xml"]);
    java.args(["-cp", &distribution.class_path(), "org.apache.cassandra.tools.NodeTool"]);
    java.args(["-h", "127.0.0.1", "-p", &port.to_string()]).args(words);
    java
}
