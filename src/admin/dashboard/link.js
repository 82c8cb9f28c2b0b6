// The line to tandem: its events as they come, what it is asked, and the token for both. Events are read with fetch, because
// EventSource cannot send a header. Silence is a loss too: a status comes every second, so a frozen process is noticed.

/** Without a word for so long the line is lost, in milliseconds; and for so long it is tried anew. */
const SILENT = 3500;
const GIVE_UP = 10_000;
const AGAIN = 1000;
const KEY = "tandem-token";

export const token = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

const headers = () => (token.get() ? { authorization: `Bearer ${token.get()}` } : {});

/** Ask for JSON; an error says what tandem said. */
export async function ask(method, path, body) {
  const asked = { method, headers: { ...headers(), "content-type": "application/json" }, cache: "no-store" };
  const answer = await fetch(path, body === undefined ? asked : { ...asked, body: JSON.stringify(body) });
  const value = await answer.json();
  if (!answer.ok) throw new Error(value.error ?? `HTTP ${answer.status}`);
  return value;
}

/** Pieces of a stream of server-sent events: the whole events of a text, and the rest of it. */
export function parse(text) {
  const blocks = text.split("\n\n");
  const rest = blocks.pop();
  const field = (block, name) => block.split("\n").find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
  return { events: blocks.map((block) => ({ name: field(block, "event"), data: field(block, "data") })), rest };
}

/**
 * Follow the events for as long as the page is there. `on.event(name, value)`; `on.silent(ms)` twice a second, how old is what
 * is known, infinite before the first event; `on.refused(why)`; `on.unauthorized()` ends it.
 */
export function follow(on) {
  const line = { heard: -Infinity, stop: new AbortController(), ended: false };
  const timer = setInterval(() => on.silent(performance.now() - line.heard, SILENT), 500);
  run(line, on).finally(() => clearInterval(timer));
  return () => {
    line.ended = true;
    line.stop.abort();
  };
}

async function run(line, on) {
  while (!line.ended) {
    line.stop = new AbortController();
    const answer = await open(line).catch(() => undefined);
    if (answer?.status === 401) return on.unauthorized();
    if (answer?.ok) await read(answer, line, on).catch(() => undefined);
    else if (answer) on.refused((await answer.json().catch(() => ({}))).error ?? `HTTP ${answer.status}`);
    if (!line.ended) await new Promise((done) => setTimeout(done, AGAIN));
  }
}

const patience = (line) => setTimeout(() => line.stop.abort(), GIVE_UP);

async function open(line) {
  const limit = patience(line);
  const asked = fetch("/v1/events", { headers: headers(), cache: "no-store", signal: line.stop.signal });
  return asked.finally(() => clearTimeout(limit));
}

async function read(answer, line, on) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ""; ; ) {
    const limit = patience(line);
    const { value, done } = await reader.read().finally(() => clearTimeout(limit));
    if (done) return;
    const { events, rest } = parse(text + value);
    text = rest;
    line.heard = performance.now();
    for (const event of events) on.event(event.name, JSON.parse(event.data));
  }
}
