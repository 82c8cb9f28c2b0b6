// Small plots: two lines at most over the last ten minutes, drawn as SVG, and said in words for who does not see them.

import { make, seconds } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT] = [600, 100];
/** A plot is as wide as what is known, and no less than this. */
const SPAN_MS = 60_000;
/** What is further apart is not joined. */
const GAP_MS = 2500;

/** A plot of samples: `lines` are `{ name, of }`, the value of a sample or null; `words` says a value. */
export class Plot {
  constructor(title, lines, words) {
    Object.assign(this, { title, lines, words });
    this.svg = document.createElementNS(SVG, "svg");
    this.svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    this.svg.setAttribute("preserveAspectRatio", "none");
    this.svg.setAttribute("role", "img");
    this.groups = lines.map((_, at) => this.group(at));
    this.keys = lines.map((_, at) => make("span", { kind: `key ${"ab"[at]}` }));
    this.most = make("p", { kind: "most" });
    const caption = make("figcaption", { children: [make("strong", { text: title }), ...this.keys] });
    this.figure = make("figure", { children: [caption, this.svg, this.most] });
    this.draw([]);
  }

  group(at) {
    const group = document.createElementNS(SVG, "g");
    group.setAttribute("class", "ab"[at]);
    return this.svg.appendChild(group);
  }

  draw(samples) {
    const values = this.lines.flatMap(({ of }) => samples.map(of)).filter((value) => value != null);
    const top = Math.max(...values, 0);
    const span = samples.length ? samples.at(-1).at_ms - samples[0].at_ms : 0;
    this.lines.forEach(({ of }, at) => this.line(at, samples, of, { top, span: Math.max(span, SPAN_MS) }));
    const said = this.lines.map((line) => this.told(line, samples));
    said.forEach((text, at) => (this.keys[at].textContent = text));
    this.most.textContent = values.length ? `at most ${this.words(top)} in ${seconds(span / 1000)}` : "not known yet";
    this.svg.setAttribute("aria-label", `${this.title}: ${said.join(", ")}; ${this.most.textContent}`);
  }

  told({ name, of }, samples) {
    const now = samples.length ? of(samples.at(-1)) : null;
    return `${name} ${now == null ? "–" : this.words(now)}`.trim();
  }

  line(at, samples, of, scale) {
    const polylines = runs(samples, of).map((run) => {
      const polyline = document.createElementNS(SVG, "polyline");
      polyline.setAttribute("points", run.map((point) => place(point, samples.at(-1).at_ms, scale)).join(" "));
      return polyline;
    });
    this.groups[at].replaceChildren(...polylines);
  }
}

/** Stretches without a hole. */
function runs(samples, of) {
  const found = [];
  let last = -Infinity;
  for (const sample of samples) {
    const value = of(sample);
    if (value == null) continue;
    if (sample.at_ms - last > GAP_MS) found.push([]);
    found.at(-1).push({ at: sample.at_ms, value });
    last = sample.at_ms;
  }
  return found;
}

function place({ at, value }, newest, { top, span }) {
  const x = WIDTH * (1 - (newest - at) / span);
  const y = HEIGHT - 2 - (HEIGHT - 6) * (top > 0 ? value / top : 0);
  return `${x.toFixed(1)},${y.toFixed(1)}`;
}
