//! The command line as scripts use it: output, exit codes, signals.

use ::tandem::sandbox::Sandbox;

use crate::support::stage::Stage;
use crate::support::tandem::{Tandem, cli};
use crate::support::{connect, pair, sql};

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

#[tokio::test]
async fn before_a_switch_people_are_told_in_a_line_whether_reads_speak_for_it() {
    let stage =
        Stage::new("CREATE TABLE acc (id int PRIMARY KEY, bal int)", "[mirror]\nself_repair = false", &[]).await;
    let config = stage.tandem.dir().join("proxy.toml").display().to_string();
    let admin = ["--admin", &stage.tandem.admin];
    let said = |args: &[&str]| {
        let output = cli(&[args, &admin].concat());
        (output.status.code().expect("it ends"), text(&output.stdout))
    };
    let all_say = |words: &str| {
        let check = ["check", "--before-switch", "--config", &config];
        for args in [&["shadow", "status"][..], &check, &["switch", "target", "--dry-run"]] {
            let (_, out) = said(args);
            assert!(out.contains(words), "{args:?}: not {words} but {out}\n{}", stage.tandem.log());
        }
    };
    let client = connect(&stage.url()).await;
    client.batch_execute("INSERT INTO acc SELECT n, n FROM generate_series(1, 50) n").await.expect("written");
    stage.tandem.settled().await;
    let compared = async |reads: u64| {
        stage.tandem.status_is("compared", |status| status["shadow"]["compared"].as_u64() >= Some(reads)).await;
    };
    all_say("OFF: none is tried there");
    said(&["set", "shadow.sample=100%"]);
    all_say("UNPROVEN: none came yet");
    client.simple_query("SELECT random()").await.expect("answered");
    client.simple_query("SELECT sum(bal) FROM acc").await.expect("answered");
    compared(1).await;
    all_say("GO: 1 read compared, no difference lasts");
    assert!(said(&["shadow", "status"]).1.contains("never compared: 1 of 2 statements"));
    sql(&stage.target.url("postgres"), "UPDATE acc SET bal = 0 WHERE id = 7").await;
    client.simple_query("SELECT sum(bal) FROM acc").await.expect("answered");
    compared(2).await;
    all_say("NO GO: 1 lasting difference, 2 reads compared");
    assert_eq!(said(&["switch", "target", "--dry-run"]).0, 1);
}

#[tokio::test]
async fn a_switch_goes_there_and_back() {
    let (origin, target) = pair();
    let users = "[[users]]\nname = \"postgres\"";
    let tandem = Tandem::start(&origin.url("postgres"), &target.url("postgres"), users).await;
    let admin = ["--admin", &tandem.admin];
    let switch = |args: &[&str]| cli(&[&["switch"], args, &admin].concat());

    let dry = switch(&["target", "--dry-run"]);
    assert_eq!(dry.status.code(), Some(0), "{}{}{}", text(&dry.stdout), text(&dry.stderr), tandem.log());
    assert!(text(&dry.stdout).contains("ready: nothing stops target from taking over"), "{}", text(&dry.stdout));

    let there = cli(&[&["--json", "switch", "target", "--max-hold", "10s"], &admin[..]].concat());
    assert_eq!(there.status.code(), Some(0), "{}{}", text(&there.stderr), tandem.log());
    let ended: serde_json::Value = serde_json::from_slice(&there.stdout).expect("one JSON value");
    assert_eq!((&ended["end"], &ended["request"]["max_hold_ms"]), (&"switched".into(), &10_000.into()), "{ended}");
    tandem.status_is("switched", |status| status["phase"] == "switched" && status["primary"] == "target").await;

    let again = switch(&["target"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains("target already answers clients"), "{}", text(&again.stderr));
    let nothing = switch(&["abort"]);
    assert_eq!(nothing.status.code(), Some(1));
    assert!(text(&nothing.stderr).contains("no switch is under way"), "{}", text(&nothing.stderr));

    let back = switch(&["origin"]);
    assert_eq!(back.status.code(), Some(0), "{}{}", text(&back.stderr), tandem.log());
    assert!(text(&back.stdout).contains("switched: origin answers clients, target follows; held for "));
    let status = text(&switch(&["status"]).stdout);
    assert!(status.contains("primary    origin\n") && status.contains("the last switch:\n"), "{status}");
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
