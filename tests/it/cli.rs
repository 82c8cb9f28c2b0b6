//! The command line as scripts use it: output, exit codes, signals.

use ::tandem::sandbox::Sandbox;

use crate::support::pair;
use crate::support::tandem::{Tandem, cli};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn status_and_set_talk_to_a_running_tandem() {
    let (origin, target) = pair();
    let mut tandem = Tandem::start(&origin.url("postgres"), &target.url("postgres"), "").await;
    let status = cli(&["--json", "status", "--admin", &tandem.admin]);
    assert_eq!(status.status.code(), Some(0), "{}", text(&status.stderr));
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).expect("one JSON value");
    assert_eq!(status["readiness"], "ready");
    let set = cli(&["set", "mirror.ddl=refuse", "--admin", &tandem.admin]);
    assert!(text(&set.stdout).contains("mirror.ddl = refuse"));
    let refused = cli(&["set", "mirror.dll=refuse", "--admin", &tandem.admin]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("did you mean `mirror.ddl`?"));
    assert_eq!(tandem.terminate(), Some(0), "{}", tandem.log());
}

#[test]
fn exit_codes_say_what_was_wrong() {
    assert_eq!(cli(&["status", "--admin", "http://127.0.0.1:1"]).status.code(), Some(3));
    assert_eq!(cli(&["status", "--admin", "nonsense"]).status.code(), Some(2));
    assert_eq!(cli(&["nonsense"]).status.code(), Some(2));
    assert_eq!(cli(&["--help"]).status.code(), Some(0));
    let sandbox = Sandbox::new(false).expect("a temp folder");
    let file = sandbox.dir().join("proxy.toml");
    std::fs::write(&file, "[jurnal]\n").expect("written");
    let run = cli(&["run", "--config", file.to_str().expect("UTF-8")]);
    assert_eq!(run.status.code(), Some(2));
    assert!(text(&run.stderr).contains("proxy.toml:1: unknown section `jurnal`: did you mean `journal`?"));
}

#[test]
fn every_command_says_how_it_is_used() {
    for command in ["run", "check", "demo", "status", "switch", "parked", "dirty", "set"] {
        let help = text(&cli(&[command, "--help"]).stdout);
        assert!(help.contains("Examples:"), "{command}");
    }
}
