// The switch: where it is, what it found, and three buttons. What changes who answers clients is asked for by typing a
// side's name, because a click is made too easily. `--force`, which loses writes, is for the command line alone.

import { ask } from "./link.js";
import { allow, by, counted, list, make, other, pressed, say, seconds } from "./words.js";

const PHASES = ["preparing", "draining", "applying", "verifying", "readying", "flipping", "settling"];
const HELD = "draining applying verifying readying flipping".split(" ");

export class Switch {
  /** `tell(text)` is read aloud. */
  constructor(tell) {
    Object.assign(this, { tell, report: null, live: false, ignored: new Set() });
    pressed(by("dry-run"), () => this.begin(other(this.report.primary), { dry_run: true }));
    pressed(by("begin"), () => this.confirmSwitch());
    pressed(by("abort"), () => this.confirmAbort());
    this.dialog();
  }

  /** What tandem says of it; null: nothing is mirrored. */
  show(report) {
    const before = this.report;
    this.report = report;
    // What was asked for was another thing: somebody else was faster.
    if (before?.primary !== report?.primary) by("confirm").close();
    this.draw();
    if (before && report) this.announce(before, report);
  }

  /** Whether what is shown is how things are: nothing is asked for by who cannot see. */
  enable(live) {
    this.live = live;
    if (!live) by("confirm").close();
    const steady = this.report?.phase === "steady";
    for (const button of ["dry-run", "begin"]) allow(by(button), live && steady);
    allow(by("abort"), live && this.report && !steady);
  }

  draw() {
    const report = this.report;
    by("switch").hidden = !report;
    if (!report) return;
    this.enable(this.live);
    say(by("begin"), `Switch to ${other(report.primary)}`);
    say(by("switch-state"), state(report));
    this.phases(report);
    this.ended(report);
  }

  phases(report) {
    const walks = report.phase !== "steady";
    const took = new Map(!walks && report.last ? report.last.took_us : []);
    const shown = [...PHASES, ...(report.phase === "undoing" || took.has("undoing") ? ["undoing"] : [])];
    const at = report.phase === "undoing" ? 0 : shown.indexOf(report.phase);
    // A switch has ended for clients before it settles.
    const settled = (phase) => phase === "settling" && !walks && report.last?.end === "switched";
    const done = (phase, place) => took.has(phase) || settled(phase) || (walks && place < at);
    const rows = shown.map((phase, place) => ({
      text: took.has(phase) ? `${phase} ${seconds(took.get(phase) / 1e6)}` : phase,
      is: phase === report.phase ? "now" : done(phase, place) ? "done" : "",
    }));
    list(by("phases"), rows, ({ text, is }) => {
      const row = make("li", { text });
      if (is === "now") row.setAttribute("aria-current", "step");
      else if (is) row.dataset.is = is;
      return row;
    });
  }

  ended({ last, phase }) {
    by("ended").hidden = !last || phase !== "steady";
    if (!last) return;
    say(by("ended-title"), title(last));
    say(by("ended-why"), last.why ?? "");
    list(by("hindrances"), last.hindrances, (text) => make("li", { text }));
    list(by("findings"), last.findings, (finding) => this.finding(finding));
  }

  finding({ name, severity, side, object, advice }) {
    const head = make("p", { children: [make("span", { kind: "severity", text: severity }), ` ${name}: ${object}${side ? ` (${side})` : ""}`] });
    const row = make("li", { children: [head, make("p", { kind: "quiet", text: advice })] });
    if (severity === "error") row.append(this.ignoring(name));
    return row;
  }

  ignoring(name) {
    const box = make("input");
    box.type = "checkbox";
    box.checked = this.ignored.has(name);
    box.addEventListener("change", () => (box.checked ? this.ignored.add(name) : this.ignored.delete(name)));
    return make("label", { children: [box, ` It is no reason to refuse: ignore every ${name}`] });
  }

  announce(before, { phase, last, to, primary }) {
    if (last && last.number !== before.last?.number) this.tell(`${title(last)}. ${last.why ?? ""}`);
    else if (phase !== before.phase && phase !== "steady") this.tell(`${phase}, ${to ?? primary}`);
  }

  async begin(to, how) {
    await this.asked("/v1/switch", { to, ignore: [...this.ignored], ...how });
  }

  async asked(path, body) {
    say(by("refused"), "");
    await ask("POST", path, body).catch((error) => say(by("refused"), error.message));
  }

  confirmSwitch() {
    const to = other(this.report.primary);
    const ignoring = this.ignored.size ? ` Findings that are ignored: ${[...this.ignored].join(", ")}.` : "";
    const text = `Clients are held for a moment and go on with ${to} as their primary; ${this.report.primary} follows it.${ignoring}`;
    this.confirm({ title: `Switch to ${to}?`, text, side: to, yes: `Switch to ${to}`, then: () => this.begin(to, {}) });
  }

  confirmAbort() {
    const { primary } = this.report;
    const text = `Before the flip, clients go on with ${primary} as if nothing had been. After it there is nothing to call off.`;
    const then = () => this.asked("/v1/switch/abort");
    this.confirm({ title: "Call the switch off?", text, side: primary, yes: "Call it off", then });
  }

  confirm({ title: asks, text, side, yes, then }) {
    say(by("confirm-title"), asks);
    say(by("confirm-text"), text);
    say(by("confirm-side"), side);
    say(by("confirm-yes"), yes);
    by("confirm-word").value = "";
    by("confirm-yes").disabled = true;
    this.confirmed = then;
    by("confirm").showModal();
    by("confirm-word").focus();
  }

  dialog() {
    const typed = () => by("confirm-word").value.trim() === by("confirm-side").textContent;
    by("confirm-word").addEventListener("input", () => (by("confirm-yes").disabled = !typed()));
    by("confirm-no").addEventListener("click", () => by("confirm").close());
    by("confirm-form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (!typed()) return;
      by("confirm").close();
      this.confirmed();
    });
  }
}

function state({ phase, to, primary }) {
  if (phase === "steady") return `None is under way: ${primary} answers clients.`;
  const clients = HELD.includes(phase) ? "clients are held" : "clients go on";
  return to ? `To ${to}: ${phase}; ${clients}.` : `${phase}; ${clients}.`;
}

function title({ request, end, held_us: held, compared, findings }) {
  const found = counted(findings.length, "finding", "findings");
  switch (end) {
    case "switched":
      return `Switched to ${request.to}: clients were held for ${seconds(held / 1e6)}, ${counted(compared, "key", "keys")} compared`;
    case "ready":
      return `Ready to switch to ${request.to}: ${found}, none in the way`;
    case "refused":
      return `Refused to switch to ${request.to}: ${found}`;
    default:
      return `Aborted: clients go on as before; they were held for ${seconds(held / 1e6)}`;
  }
}
