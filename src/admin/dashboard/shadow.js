// Reads of clients that are repeated on the secondary: the verdict, the times of both sides by statement, and the differences
// that last. The status tells the whole at a glance; statements are asked for while they change.

import { ask } from "./link.js";
import { by, counted, list, make, millis, say, whole } from "./words.js";

const STATEMENTS = 12;
/** From one question for the statements to the next, in milliseconds. */
const EVERY = 2000;

const VERDICTS = {
  go: ["Go: what was compared is alike.", "good"],
  no_go: ["No go: differences last.", "bad"],
  unproven: ["Unproven: reads are sampled, and none says anything yet.", "warn"],
  off: ["No reads are sampled any more."],
};

/** The part of the page; `tell` says something once to who does not see it. */
export class Shadow {
  constructor(tell) {
    Object.assign(this, { tell, asked: -Infinity, drawn: "", verdict: undefined });
  }

  /** Nothing is shown where nobody reads. Whether something is. */
  show(told) {
    const off = !told || (told.verdict === "off" && !told.compared);
    by("shadow").hidden = off;
    if (off) return false;
    const [lead, level] = VERDICTS[told.verdict] ?? [told.verdict];
    say(by("shadow-lead"), lead, level);
    if (this.verdict && this.verdict !== told.verdict) this.tell(`Shadow reads: ${lead}`);
    this.verdict = told.verdict;
    list(by("shadow-figures"), figures(told), figure);
    list(by("shadow-times"), times(told), timesRow);
    by("shadow-table").hidden = !told.ratio;
    skips(told.skips ?? {});
    this.statements(told);
    return true;
  }

  /** Asked for when something was counted since, and not more often than is good. */
  statements({ compared, skipped, mismatches }) {
    const now = `${compared} ${skipped} ${mismatches}`;
    if (now === this.drawn || performance.now() < this.asked + EVERY) return;
    this.asked = performance.now();
    ask("GET", "/v1/shadow")
      .then((report) => statements(report))
      .then(() => (this.drawn = now))
      .catch(() => undefined);
  }
}

/** Cut, not rounded: all but one is not all. */
const share = (ratio) => (ratio === 0 || ratio === 1 ? `${100 * ratio} %` : `${(Math.floor(ratio * 1e4) / 100).toFixed(2)} %`);
const alikeOf = ({ alike }) => (alike == null ? "–" : share(alike));
const words = (reason) => reason.replaceAll("_", " ");

function figures(told) {
  const all = [
    ["Sampled", share(told.sample)],
    ["Compared", whole(told.compared)],
    ["Alike", alikeOf(told)],
    ["Alike when asked again", whole(told.in_flight)],
    ["Noise", whole(told.noise)],
    ["Differences that last", whole(told.mismatches)],
    ["Skipped", whole(told.skipped)],
  ];
  return told.unfollowed ? [...all, ["Of these not looked at again", whole(told.unfollowed)]] : all;
}

const figure = ([name, value]) => make("div", { children: [make("dt", { text: name }), make("dd", { text: value })] });

const ratioOf = (value) => `${value.toFixed(2)}×`;
const PERCENTILES = ["p50", "p95", "p99"];

function times({ primary_ms: primary, secondary_ms: secondary, ratio }) {
  if (!primary || !secondary || !ratio) return [];
  const rows = [["Primary", primary, millis], ["Secondary", secondary, millis], ["Ratio", ratio, ratioOf]];
  return rows.map(([name, found, said]) => [name, ...PERCENTILES.map((at) => said(found[at]))]);
}

function timesRow([name, ...cells]) {
  const head = make("th", { text: name });
  head.scope = "row";
  return make("tr", { children: [head, ...cells.map((text) => make("td", { text }))] });
}

/** The commonest first. */
function skips(found) {
  const all = Object.entries(found).sort(([, one], [, other]) => other - one);
  by("shadow-skips").hidden = all.length === 0;
  list(by("shadow-skips-list"), all.map(([reason, count]) => [words(reason), whole(count)]), figure);
}

function statements({ statements: all, findings }) {
  by("shadow-findings").hidden = findings.length === 0;
  list(by("shadow-findings"), findings, ({ severity, name, object, advice }) =>
    make("li", { children: [make("p", { children: [make("span", { kind: "severity", text: severity }), ` ${name}: ${object}`] }), make("p", { kind: "quiet", text: advice })] }),
  );
  by("statements").hidden = all.length === 0;
  list(by("statements-list"), all.slice(0, STATEMENTS), statementRow);
  const more = all.length - STATEMENTS;
  say(by("statements-more"), more > 0 ? `and ${counted(more, "statement", "statements")} more: tandem shadow status` : "");
}

function statementRow(told) {
  const head = make("th", { children: [make("code", { text: told.statement }), make("span", { kind: "quiet", text: told.table })] });
  head.scope = "row";
  head.setAttribute("role", "rowheader");
  const why = Object.keys(told.skips).map(words).join(", ");
  const cells = [
    cell("Compared", whole(told.compared)),
    cell("Alike", alikeOf(told)),
    cell("Skipped", whole(told.skipped), why),
    ...PERCENTILES.map((at) => cell(at, ...spread(told, at))),
  ];
  const row = make("tr", { children: [head, ...cells] });
  row.setAttribute("role", "row");
  return row;
}

/** Of both sides, and how they compare. */
function spread({ primary_ms: primary, secondary_ms: secondary, ratio }, at) {
  if (!primary || !secondary || !ratio) return ["–"];
  return [`${millis(primary[at])} → ${millis(secondary[at])}`, ratioOf(ratio[at])];
}

/** On a phone a row is a block, and each cell says what it is. */
function cell(name, text, more) {
  const made = make("td", { text, children: more ? [make("span", { kind: "quiet", text: more })] : [] });
  made.dataset.name = name;
  made.setAttribute("role", "cell");
  return made;
}

/** A difference that lasts, for the list of them. */
export function mismatchRow({ more, table, how, columns, statement, count, followed = true }) {
  if (more) return make("li", { text: `and ${whole(more)} more` });
  const where = columns?.length ? ` in ${columns.join(", ")}` : "";
  const left = followed ? "" : "; it is not looked at again: tandem shadow clear when it is mended";
  const text = `${table}: ${words(how)}${where}, seen ${counted(count, "time", "times")}${left}`;
  return make("li", { children: [make("p", { text }), make("code", { text: statement })] });
}
