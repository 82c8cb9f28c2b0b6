//! `tandem parked` and `tandem dirty`: what the mirror set aside, and what is to be done with it.

use std::fmt::Write;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{Admin, Failure, Output, field};
use crate::admin::client::{Client, Error};

/// Of entries that were refused, so many are told with the reason.
const NAMED_MAX: usize = 10;

pub(super) const PARKED_EXAMPLES: &str = "\
Examples:
  tandem parked list                          which rows the secondary refuses, and why
  tandem parked show 00c0ffee00c0ffee         one of them with its key's values
  tandem parked retry 00c0ffee00c0ffee        copy the row as it is now
  tandem parked retry all
  tandem parked discard 00c0ffee00c0ffee      leave it: the sides may differ there";

pub(super) const DIRTY_EXAMPLES: &str = "\
Examples:
  tandem dirty list                           which tables may differ, and why
  tandem dirty repair public.accounts         copy the whole table again
  tandem dirty repair all
  tandem dirty clear '(schema changes)'       a full journal did not take one: compare both schemas first";

#[derive(Debug, Args)]
pub(super) struct Parked {
    #[command(subcommand)]
    action: ParkedAction,
    #[command(flatten)]
    admin: Admin,
}

#[derive(Debug, Subcommand)]
enum ParkedAction {
    /// All parked keys, without their values.
    List,
    /// One parked key with its values.
    Show {
        /// As listed.
        id: String,
    },
    /// Copy the row again, as it is now.
    Retry {
        /// As listed, or `all`.
        id: String,
    },
    /// Forget it: nobody will mend that row.
    Discard {
        /// As listed, or `all`.
        id: String,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct Dirty {
    #[command(subcommand)]
    action: DirtyAction,
    #[command(flatten)]
    admin: Admin,
}

#[derive(Debug, Subcommand)]
enum DirtyAction {
    /// All dirty tables.
    List,
    /// Copy every row of a table again.
    Repair {
        /// As listed, or `all`.
        table: String,
    },
    /// Take a mark away without that: you have compared both sides, and all is well.
    Clear {
        /// As listed; one at a time.
        #[arg(value_parser = one_table)]
        table: String,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
    },
}

fn one_table(text: &str) -> Result<String, String> {
    match text {
        "all" => Err("marks are cleared one by one, each when both sides were compared there".to_owned()),
        table => Ok(table.to_owned()),
    }
}

pub(super) async fn parked(command: Parked, output: &Output) -> Result<(), Failure> {
    let client = command.admin.client()?;
    match command.action {
        ParkedAction::List => {
            let list = client.get("/v1/parked").await?;
            output.print(&list, |list| lines(list, &["/id", "/table", "/attempts", "/why"], "nothing is parked"));
        }
        ParkedAction::Show { id } => {
            let list = client.get("/v1/parked?values=true").await?;
            let found = list.as_array().into_iter().flatten().find(|entry| entry["id"] == id.as_str());
            let found = found.ok_or_else(|| Failure::Refused(format!("no parked key has the id {id}")))?;
            output.print(found, fields);
        }
        ParkedAction::Retry { id } => on_parked(&client, "retry").of(&id, output).await?,
        ParkedAction::Discard { id, yes } => {
            let what = if id == "all" { "everything that is parked" } else { &id };
            sure(yes, &format!("{what} is forgotten, and the sides differ there from now on"), output)?;
            on_parked(&client, "discard").of(&id, output).await?;
        }
    }
    Ok(())
}

pub(super) async fn dirty(command: Dirty, output: &Output) -> Result<(), Failure> {
    let client = command.admin.client()?;
    match command.action {
        DirtyAction::List => {
            let list = client.get("/v1/dirty").await?;
            output.print(&list, |list| lines(list, &["/table", "/reasons"], "no table is dirty"));
        }
        DirtyAction::Repair { table } => on_dirty(&client, "repair").of(&table, output).await?,
        DirtyAction::Clear { table, yes } => {
            sure(yes, &format!("{table} is no longer said to differ, and nothing compares it"), output)?;
            on_dirty(&client, "clear").of(&table, output).await?;
        }
    }
    Ok(())
}

/// Whoever sits at a terminal says so.
fn sure(yes: bool, then: &str, output: &Output) -> Result<(), Failure> {
    match yes || output.confirm(&format!("{then}: go on?")) {
        true => Ok(()),
        false => Err(Failure::Refused("nothing was done".to_owned())),
    }
}

/// What is to be done with entries of one list.
struct Asked<'a> {
    client: &'a Client,
    path: &'static str,
    /// The field that tells entries apart.
    name: &'static str,
    action: &'static str,
}

/// What became of one entry.
enum Became {
    Done(Value),
    /// It was paid or repaired since it was listed, maybe by what was asked for just before.
    Gone,
    Refused(String),
}

fn on_parked<'a>(client: &'a Client, action: &'static str) -> Asked<'a> {
    Asked { client, path: "/v1/parked", name: "id", action }
}

fn on_dirty<'a>(client: &'a Client, action: &'static str) -> Asked<'a> {
    Asked { client, path: "/v1/dirty", name: "table", action }
}

impl Asked<'_> {
    /// Do it to one, or to all that are listed now: then one that is refused does not keep it from the rest.
    async fn of(&self, which: &str, output: &Output) -> Result<(), Failure> {
        let is_all = which == "all";
        let names = if is_all { self.listed().await? } else { vec![which.to_owned()] };
        let mut entries = Vec::new();
        for name in names {
            let asked = self.client.post(self.path, &json!({ "action": self.action, self.name: name })).await;
            let became = match asked {
                Ok(answer) => Became::Done(answer),
                Err(Error::Missing(_)) if is_all => Became::Gone,
                Err(Error::Refused(why)) if is_all => Became::Refused(why),
                Err(error) => {
                    if is_all {
                        self.print(&entries, output);
                    }
                    return Err(error.into());
                }
            };
            entries.push((name, became));
        }
        self.print(&entries, output);
        self.verdict(&entries)
    }

    async fn listed(&self) -> Result<Vec<String>, Failure> {
        let list = self.client.get(self.path).await?;
        Ok(list.as_array().into_iter().flatten().map(|entry| field(entry, &format!("/{}", self.name))).collect())
    }

    fn print(&self, entries: &[(String, Became)], output: &Output) {
        let all: Vec<Value> = entries.iter().map(|(name, became)| self.json(name, became)).collect();
        output.print(&all.into(), |_| self.text(entries));
    }

    fn json(&self, name: &str, became: &Became) -> Value {
        let mut value = match became {
            Became::Done(answer) => answer.clone(),
            Became::Gone => json!({ "gone": true }),
            Became::Refused(why) => json!({ "refused": why }),
        };
        value[self.name] = name.into();
        value
    }

    fn text(&self, entries: &[(String, Became)]) -> String {
        let (mut count, mut gone, mut walks) = (0, 0, false);
        for (_, became) in entries {
            count += usize::from(!matches!(became, Became::Refused(_)));
            gone += usize::from(matches!(became, Became::Gone));
            walks |= matches!(became, Became::Done(answer) if answer["settles_at"].is_null());
        }
        let gone = if gone == 0 { String::new() } else { format!(", {gone} of them gone already") };
        match walks && self.action == "repair" {
            true => {
                format!("{}: {count} asked for{gone}; `tandem repair status` shows the walk over them", self.action)
            }
            false if self.action == "discard" => {
                format!(
                    "discard: {count} forgotten{gone}; the sides differ there from now on: rows come back with `tandem repair --table TABLE` when nothing refuses them any more, schema changes and TRUNCATE are yours to repeat"
                )
            }
            false if self.action == "clear" => format!("clear: {count} done{gone}"),
            false => {
                format!("{}: {count} done{gone}; `tandem status` shows when the mirror has caught up", self.action)
            }
        }
    }

    /// Which were refused, and why.
    fn verdict(&self, entries: &[(String, Became)]) -> Result<(), Failure> {
        let why = |(name, became): &(String, Became)| match became {
            Became::Refused(why) => Some(format!("\n  {name}: {why}")),
            Became::Done(_) | Became::Gone => None,
        };
        let mut refused: Vec<String> = entries.iter().filter_map(why).collect();
        if refused.is_empty() {
            return Ok(());
        }
        let count = refused.len();
        if count > NAMED_MAX {
            refused.truncate(NAMED_MAX);
            refused.push(format!("\n  and {} more", count - NAMED_MAX));
        }
        Err(Failure::Refused(format!("{}: {count} of {} refused{}", self.action, entries.len(), refused.concat())))
    }
}

fn lines(list: &Value, columns: &[&str], empty: &str) -> String {
    let mut out = String::new();
    for entry in list.as_array().into_iter().flatten() {
        let cells: Vec<String> = columns.iter().map(|column| field(entry, column)).collect();
        let _ = writeln!(out, "{}", cells.join("  "));
    }
    if out.is_empty() { empty.to_owned() } else { out }
}

fn fields(entry: &Value) -> String {
    let mut out = String::new();
    for (name, value) in entry.as_object().into_iter().flatten() {
        let _ = writeln!(out, "{name:12} {}", field(value, ""));
    }
    out
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    use bytes::Bytes;
    use http_body_util::{BodyExt, Full};
    use hyper::body::Incoming;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper::{Request, Response, StatusCode};
    use hyper_util::rt::TokioIo;
    use tokio::net::TcpListener;

    use super::*;

    /// An API with three entries in each list, which answers about each as it is told to; and about which it was asked.
    struct Fake {
        url: String,
        asked: Arc<Mutex<Vec<String>>>,
    }

    type Answers = &'static [(&'static str, u16)];

    async fn fake(name: &'static str, answers: Answers) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = asked.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a client");
                let heard = heard.clone();
                let answered = service_fn(move |request| answer(request, name, answers, heard.clone()));
                // A client may leave as it likes.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answered).await;
            }
        });
        Fake { url, asked }
    }

    async fn answer(
        request: Request<Incoming>,
        name: &str,
        answers: Answers,
        heard: Arc<Mutex<Vec<String>>>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let body = request.into_body().collect().await.expect("sent").to_bytes();
        let (code, value) = if body.is_empty() {
            (200, answers.iter().map(|(one, _)| json!({ name: one })).collect())
        } else {
            let one = field(&serde_json::from_slice(&body).expect("JSON"), &format!("/{name}"));
            let code = answers.iter().find(|(known, _)| *known == one).map_or(404, |(_, code)| *code);
            heard.lock().expect("not poisoned").push(one);
            (code, if code == 200 { json!({ "settles_at": 7 }) } else { json!({ "error": format!("said {code}") }) })
        };
        let mut response = Response::new(Full::new(Bytes::from(value.to_string())));
        *response.status_mut() = StatusCode::from_u16(code).expect("a code");
        Ok(response)
    }

    impl Fake {
        fn admin(&self) -> Admin {
            Admin { admin: self.url.clone(), token_file: None }
        }

        async fn retry(&self, id: &str) -> Result<(), Failure> {
            let command = Parked { action: ParkedAction::Retry { id: id.to_owned() }, admin: self.admin() };
            parked(command, &Output::new(true)).await
        }

        fn asked(&self) -> Vec<String> {
            self.asked.lock().expect("not poisoned").clone()
        }
    }

    #[tokio::test]
    async fn all_goes_on_after_one_that_was_paid_meanwhile() {
        let api = fake("id", &[("a", 200), ("b", 404), ("c", 200)]).await;
        let done = api.retry("all").await;
        assert_eq!(api.asked(), ["a", "b", "c"]);
        assert!(done.is_ok(), "{done:?}");
    }

    #[tokio::test]
    async fn all_goes_on_after_a_table_that_was_repaired_meanwhile() {
        let api = fake("table", &[("public.a", 404), ("public.b", 200)]).await;
        let repair = DirtyAction::Repair { table: "all".to_owned() };
        let done = dirty(Dirty { action: repair, admin: api.admin() }, &Output::new(true)).await;
        assert_eq!(api.asked(), ["public.a", "public.b"]);
        assert!(done.is_ok(), "{done:?}");
    }

    #[tokio::test]
    async fn all_goes_on_after_a_refusal_and_says_which_and_why_at_the_end() {
        let api = fake("id", &[("a", 409), ("b", 200), ("c", 404)]).await;
        let failure = api.retry("all").await.expect_err("one was refused");
        assert_eq!(api.asked(), ["a", "b", "c"]);
        assert_eq!((failure.code(), failure.to_string().as_str()), (1, "retry: 1 of 3 refused\n  a: said 409"));
    }

    #[tokio::test]
    async fn all_ends_where_nobody_answers_any_more() {
        let api = fake("id", &[("a", 200), ("b", 503), ("c", 200)]).await;
        let failure = api.retry("all").await.expect_err("it ends");
        assert_eq!((api.asked().len(), failure.code()), (2, 3));
    }

    #[tokio::test]
    async fn one_that_is_not_there_is_refused() {
        let api = fake("id", &[]).await;
        let failure = api.retry("00ff").await.expect_err("there is none");
        assert_eq!((failure.code(), failure.to_string().as_str()), (1, "tandem refused: said 404"));
    }

    #[test]
    fn what_was_done_is_counted_and_told_apart() {
        let client = Client::new("http://127.0.0.1:1", None).expect("a URL");
        let asked = on_parked(&client, "retry");
        let refused = |number: usize| (number.to_string(), Became::Refused("full".to_owned()));
        let entries =
            [("a".to_owned(), Became::Done(json!({ "settles_at": 7 }))), ("b".to_owned(), Became::Gone), refused(1)];
        assert!(asked.text(&entries).starts_with("retry: 2 done, 1 of them gone already; `tandem status`"));
        let shown: Vec<Value> = entries.iter().map(|(name, became)| asked.json(name, became)).collect();
        assert_eq!(
            Value::from(shown),
            json!([{ "id": "a", "settles_at": 7 }, { "id": "b", "gone": true }, { "id": "1", "refused": "full" }])
        );
        let many: Vec<_> = (0..NAMED_MAX + 2).map(refused).collect();
        let failure = asked.verdict(&many).expect_err("all refused").to_string();
        assert!(failure.starts_with("retry: 12 of 12 refused\n  0: full\n") && failure.ends_with("\n  and 2 more"));
    }
}
