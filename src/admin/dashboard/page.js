// The page: events come in (link.js), each part is drawn from them. Nothing is computed here that tandem knows.

import { ask, follow, token } from "./link.js";
import { Plot } from "./plot.js";
import { mismatchRow, Shadow } from "./shadow.js";
import { Switch } from "./switch.js";
import { by, bytes, counted, list, make, millis, other, perSecond, say, seconds, whole } from "./words.js";

const KEPT = 600;
const LISTED = 20;
const tell = (text) => say(by("said"), text);
const part = new Switch(tell);
const reads = new Shadow(tell);
const samples = [];
const ledgers = {};

const readsAt = (side, at) => ({ name: side, of: ({ reads }) => reads?.[side][at] });
const plots = [
  new Plot("Behind", [{ name: "", of: (sample) => sample.lag_s }], seconds),
  new Plot("Latency", [{ name: "origin", of: (sample) => sample.origin_ms }, { name: "target", of: (sample) => sample.target_ms }], millis),
  new Plot("Client traffic", [{ name: "in", of: (sample) => sample.in_rate }, { name: "out", of: (sample) => sample.out_rate }], perSecond(bytes)),
  new Plot("Written to the secondary", [{ name: "", of: (sample) => sample.mirrored_rate }], perSecond(whole)),
  ...["p50", "p95"].map((at) => new Plot(`Reads on both sides, ${at}`, [readsAt("origin", at), readsAt("target", at)], millis)),
];
/** Shown while there is something to show. */
const ofReads = plots.slice(-2);
by("plots").append(...plots.map((plot) => plot.figure));

const heard = {
  status: draw,
  switch: (report) => part.show(report),
  samples: (all) => keep(samples.splice(0) && all),
  sample: (one) => keep([one]),
};

function keep(more) {
  for (const one of more.filter(({ number }) => number > (samples.at(-1)?.number ?? 0))) {
    // The clock was set back: what it said before has no place beside what it says now.
    if (one.at_ms < samples.at(-1)?.at_ms) samples.splice(0);
    samples.push(one);
  }
  samples.splice(0, samples.length - KEPT);
  plots.forEach((plot) => plot.draw(samples));
  ofReads.forEach((plot) => (plot.figure.hidden = !samples.some(({ reads }) => reads)));
  if (samples.length) say(by("clients"), whole(samples.at(-1).clients));
}

function draw(status) {
  by("all").hidden = false;
  say(by("about"), `${status.version}, ${status.wire}, ${status.readiness}`);
  say(by("phase"), phase(status));
  say(by("flow"), status.primary === "origin" ? "→" : "←");
  ["origin", "target"].forEach((side) => cluster(side, status));
  figures(status);
  troubles(status);
  if (!status.switch) part.show(null);
  history(status.history ?? []);
  ledger("mismatches", reads.show(status.shadow) ? status.shadow.mismatches : 0, mismatchRow);
  ledger("parked", status.mirror?.parked ?? 0, parkedRow);
  ledger("dirty", status.mirror?.dirty ?? 0, dirtyRow);
}

function phase({ phase: now, primary, epoch, mirror }) {
  const words = {
    passthrough: "Nothing is mirrored.",
    mirroring: "Every write on origin is mirrored to target.",
    switching: "A switch is under way.",
    switched: "target answers; every write is mirrored back to origin.",
  };
  const does = mirror ? ` The mirror is ${mirror.phase}.` : "";
  return `${words[now] ?? `${now}.`}${does} ${primary} is the primary, in epoch ${epoch}.`;
}

function cluster(side, { primary, sides, mirror }) {
  const card = by(side);
  const { answers, latency_ms: latency, error } = sides?.[side] ?? {};
  card.dataset.role = side === primary ? "primary" : "secondary";
  const follows = mirror ? `secondary: follows ${other(side)}` : "not mirrored to";
  say(card.querySelector(".role"), side === primary ? "primary: answers clients" : follows);
  const pulse = answers == null ? ["not asked yet"] : answers ? [`answers in ${millis(latency)}`, "good"] : ["does not answer", "bad"];
  say(card.querySelector(".pulse"), ...pulse);
  say(card.querySelector(".trouble"), error ?? "");
}

const none = (count, level) => (count ? level : "good");

function figures({ mirror, journal, units_held: held }) {
  const lag = mirror && `${seconds(mirror.lag_seconds)}, ${counted(mirror.lag_records, "unit", "units")}`;
  say(by("lag"), lag || "–", mirror && none(mirror.lag_seconds > 1, "warn"));
  say(by("parked-count"), mirror ? whole(mirror.parked) : "–", mirror && none(mirror.parked, "bad"));
  say(by("dirty-count"), mirror ? whole(mirror.dirty) : "–", mirror && none(mirror.dirty, "bad"));
  say(by("held"), counted(held, "unit", "units"), held ? "warn" : undefined);
  const full = journal && journal.bytes / journal.limit_bytes;
  say(by("journal"), journal ? `${bytes(journal.bytes)}, ${Math.round(100 * full)} %` : "–", full > 0.8 ? "bad" : undefined);
}

function troubles({ mirror, journal }) {
  const waits = Object.entries(mirror?.held ?? {}).map(([table, why]) => `${table} waits: ${why}`);
  const full = journal?.full && `The journal is full: ${journal.waiting ? `${counted(journal.waiting, "record waits", "records wait")} for room` : "what is written becomes dirty, or waits"}.`;
  const all = [journal?.broken && `The journal takes nothing more: ${journal.broken}`, full, mirror?.error && `Mirror: ${mirror.error}`, ...waits];
  say(by("trouble"), all.filter(Boolean).join(" "));
}

function history(walks) {
  by("history").hidden = walks.length === 0;
  list(by("walks"), walks, (walk) => {
    const bar = make("progress");
    Object.assign(bar, { max: 1, value: walk.done });
    bar.setAttribute("aria-label", `${walk.kind}, this pass`);
    return make("li", { children: [make("p", { text: walked(walk) }), bar, make("p", { kind: "quiet", text: walk.why ?? "" })] });
  });
}

function walked({ kind, state, done, eta_seconds: eta, rows, bytes: size, differing, tables, left_out: out }) {
  const parts = [
    `${kind}: ${state}, ${Math.floor(100 * done)} % of this pass`,
    eta == null ? "" : `about ${seconds(eta)} to go`,
    counted(tables, "table", "tables") + (out ? `, ${out} left out` : ""),
    rows ? `${counted(rows, "row", "rows")} copied (${bytes(size)})` : "",
    `${counted(differing, "row differs", "rows differ")}`,
  ];
  return parts.filter(Boolean).join("; ");
}

/** How old a list may become, in milliseconds: its rows change when its length does not. */
const LIST_AGE = 5000;

/** The list is asked for when its length changed, and now and then. Differences that are gone, or of before a switch, are kept
 * there too. */
function ledger(name, count, row) {
  by(name).hidden = !count;
  const { count: known, at } = ledgers[name] ?? {};
  if (known === count && (!count || Date.now() - at < LIST_AGE)) return;
  ledgers[name] = { count, at: Date.now() };
  if (!count) return list(by(`${name}-list`), [], row);
  ask("GET", `/v1/${name}`)
    .then((all) => all.filter(({ state = "open" }) => state === "open"))
    .then((all) => list(by(`${name}-list`), [...all.slice(0, LISTED), ...rest(all)], row))
    .catch(() => delete ledgers[name]);
}

const rest = (all) => (all.length > LISTED ? [{ more: all.length - LISTED }] : []);

function parkedRow({ more, table, why, attempts, whole_table: all }) {
  if (more) return make("li", { text: `and ${whole(more)} more` });
  return make("li", { text: `${table}${all ? " (the whole table)" : ""}: ${why}; tried ${counted(attempts, "time", "times")}` });
}

function dirtyRow({ more, table, reasons }) {
  if (more) return make("li", { text: `and ${whole(more)} more` });
  const why = Object.entries(reasons).map(([reason, count]) => `${reason} ${whole(count)}`);
  return make("li", { text: `${table}: ${why.join(", ")}` });
}

// The line.

function silent(age, limit) {
  const lost = age > limit;
  const known = Number.isFinite(age);
  const was = by("link").dataset.is;
  const is = lost ? (known ? "lost" : "waiting") : "live";
  by("link").dataset.is = is;
  say(by("link-word"), { lost: "Connection lost:", waiting: "Connecting", live: "Live" }[is]);
  say(by("link-age"), is === "lost" ? `this is ${old(age / 1000)} old` : "");
  document.body.toggleAttribute("data-stale", lost);
  if (is !== was) turned(is, was);
}

const old = (age) => (age < 120 ? `${Math.floor(age)} s` : seconds(age));

/** Said once; the age beside it is only seen. */
function turned(is, was) {
  say(by("alert"), is === "lost" ? "The connection to tandem is lost. What you see may not be how things are now." : "");
  if (was === "lost" && is === "live") tell("Connected again");
  part.enable(is === "live");
}

function enter() {
  by("login").hidden = true;
  by("leave").hidden = !token.get();
  return follow({ event: (name, value) => heard[name]?.(value), silent, refused, unauthorized });
}

function refused(why) {
  say(by("alert"), `tandem refuses: ${why}`);
}

function unauthorized() {
  say(by("login-note"), token.get() ? "This token is not the right one." : "It stays in this tab, until you close it.");
  token.forget();
  by("all").hidden = by("leave").hidden = true;
  by("login").hidden = false;
  by("token").value = "";
  by("token").focus();
  by("link").dataset.is = "waiting";
  say(by("link-word"), "Waiting for the token");
}

by("login").addEventListener("submit", (event) => {
  event.preventDefault();
  token.set(by("token").value.trim());
  leave = enter();
});

by("leave").addEventListener("click", () => {
  leave();
  token.forget();
  unauthorized();
});

let leave = enter();
