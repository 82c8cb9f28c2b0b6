// The dashboard in a real Chromium, one scene at a time: `node dashboard.js SCENE`, started by tests/it/dashboard.rs. What only
// the test can do (write a row, freeze tandem, ..) is asked of it: a line `? what` on stdout, answered by a line on stdin.
//
// Each scene also keeps what holds always: nothing in the console, no request to another host, no breach of the page's policy.

"use strict";
const readline = require("node:readline");
const path = require("node:path");
const modules = path.join(process.env.BROWSER_MODULES, "node_modules");
const { chromium } = require(path.join(modules, "playwright-core"));
const axe = require.resolve(path.join(modules, "axe-core"));

const admin = process.env.ADMIN;
const shots = process.env.SHOTS;
const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/** Ask the test to do something; it is done when this returns. */
async function please(what) {
  console.log(`? ${what}`);
  const { value } = await lines.next();
  return value;
}

function assert(holds, what) {
  if (!holds) throw new Error(what);
}

function equal(seen, expected, what) {
  assert(JSON.stringify(seen) === JSON.stringify(expected), `${what}: ${JSON.stringify(seen)}, not ${JSON.stringify(expected)}`);
}

/** A tab that notes what must not happen. `expected` is what a scene provokes. */
async function tab(browser, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1000, height: 900 }, ...options });
  const page = await context.newPage();
  const wrong = [];
  page.on("console", (message) => wrong.push(`console ${message.type()}: ${message.text()}`));
  page.on("pageerror", (error) => wrong.push(`error: ${error.stack}`));
  page.on("request", (request) => {
    if (!request.url().startsWith(`${admin}/`) && !request.url().startsWith("data:")) wrong.push(`request: ${request.url()}`);
  });
  page.setDefaultTimeout(60_000);
  return Object.assign(page, { wrong, nothingWrong: (expected) => equal(wrong.filter((one) => !expected?.test(one)), [], "wrong") });
}

/** Open it, and see it live. */
async function open(page) {
  const answer = await page.goto(`${admin}/`);
  assert(/default-src 'none'/.test(answer.headers()["content-security-policy"]), "no policy");
  await live(page);
}

const live = (page) => page.locator("#link[data-is=live]").waitFor();
const text = (page, selector) => page.locator(selector).innerText();
/** Whether a button does something, and wait until it does. It is not `disabled`, which would take the focus from it. */
const isOff = async (page, id) => (await page.locator(`#${id}`).getAttribute("aria-disabled")) === "true";
const on = (page, id) => page.locator(`#${id}[aria-disabled=false]`).waitFor();
const until = (page, selector, pattern) => page.locator(selector).filter({ hasText: pattern }).waitFor();

/** No rule of WCAG A and AA is broken that a program can see. */
async function accessible(page, what) {
  await page.evaluate(require("node:fs").readFileSync(axe, "utf8"));
  const { violations } = await page.evaluate(() => window.axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }));
  equal(violations.map(({ id, nodes }) => [id, nodes.map((node) => node.html)]), [], what);
}

/** Walk with the Tab key until the focus is there. */
async function tabTo(page, id) {
  for (let step = 0; step < 40; step += 1) {
    await page.keyboard.press("Tab");
    if ((await page.evaluate(() => document.activeElement.id)) === id) return;
  }
  throw new Error(`the Tab key never comes to ${id}`);
}

async function picture(page, name, clip) {
  if (shots) await page.screenshot({ path: path.join(shots, `dashboard-${name}.png`), fullPage: !clip, clip });
}

/** Nothing is wider than the smallest phone. */
async function fitsPhone(page) {
  await page.setViewportSize({ width: 320, height: 640 });
  const wide = await page.evaluate(() => [document.documentElement.scrollWidth, [...document.querySelectorAll("body *")].filter((one) => one.getBoundingClientRect().right > 320.5 && !one.closest(".unseen, .skip, thead")).map((one) => one.id || one.tagName)]);
  equal(wide, [320, []], "what is wider than a phone");
}

/** What a status may say of shadow reads that real ones hardly ever do, told by a stream of our own. */
const SHADOW = {
  verdict: "no_go", sample: 0.05, queued: 0, queued_bytes: 0, mismatches: 1, unfollowed: 1, forgotten: 0,
  compared: 12345, matched: 12340, in_flight: 3, noise: 1, mismatched: 1, alike: 0.99984, skipped: 20, skips: { in_transaction: 20 },
  primary_ms: { p50: 0.4, p95: 1.1, p99: 4 }, secondary_ms: { p50: 0.5, p95: 2.2, p99: 5 }, ratio: { p50: 1.25, p95: 2, p99: 1.25 },
};
const REPORT = { ...SHADOW, findings: [], statements: Array.from({ length: 14 }, (_, at) => ({ ...SHADOW, statement: `SELECT ${at}`, table: "public.acc" })) };
const MISMATCH = { id: 1, state: "open", followed: false, table: "public.acc", how: "other_value", columns: ["bal"], statement: "SELECT bal FROM acc WHERE id = $1", count: 2 };

async function shadows(browser) {
  const page = await tab(browser);
  const status = { ...(await (await page.request.get(`${admin}/v1/status`)).json()), shadow: SHADOW };
  const body = `event: status\ndata: ${JSON.stringify(status)}\n\n`;
  await page.route("**/v1/events", (route) => route.fulfill({ contentType: "text/event-stream", body }));
  await page.route("**/v1/shadow", (route) => route.fulfill({ json: REPORT }));
  await page.route("**/v1/mismatches", (route) => route.fulfill({ json: [MISMATCH, { ...MISMATCH, state: "gone", table: "public.gone" }] }));
  await open(page);
  await until(page, "#shadow-lead", "No go");
  await until(page, "#shadow-figures", /Of these not looked at again\s*1/);
  await until(page, "#statements-more", "and 2 statements more");
  equal(await page.locator("#statements-list tr").count(), 12, "statements");
  await until(page, "#shadow-figures", /Alike\s*99.98 %/);
  await until(page, "#shadow-times", /Secondary\s*0.5 ms\s*2.2 ms\s*5.0 ms\s*Ratio\s*1.25×\s*2.00×/);
  await until(page, "#mismatches", "public.acc: other value in bal, seen 2 times; it is not looked at again");
  equal(await page.locator("#mismatches-list li").count(), 1, "differences that last");
  await accessible(page, "shadow reads");
  page.nothingWrong();
}

/** tandem's clock is set back by an hour while somebody looks. */
async function clocks(browser) {
  const page = await tab(browser);
  const sample = (number, at_ms, clients) => ({ number, at_ms, clients, held: 0, in_rate: 1000, out_rate: 1000 });
  const hour = 3_600_000;
  const events = [
    ["samples", [sample(1, 5 * hour, 1), sample(2, 5 * hour + 1000, 2)]],
    ["sample", sample(2, 5 * hour + 1000, 2)],
    ["sample", sample(3, 4 * hour, 3)],
    ["sample", sample(4, 4 * hour + 1000, 44)],
    ["status", await (await page.request.get(`${admin}/v1/status`)).json()],
  ];
  const body = events.map(([event, data]) => `event: ${event}\ndata: ${JSON.stringify(data)}\n\n`).join("");
  await page.route("**/v1/events", (route) => route.fulfill({ contentType: "text/event-stream", body }));
  await open(page);
  await until(page, "#clients", "44");
  await page.locator(".plots figure", { hasText: "Client traffic" }).filter({ hasText: /at most 1.* in 1.0 s/ }).waitFor();
  page.nothingWrong();
}

const scenes = {
  /** Loads, lives, fits, and is readable. */
  async looks(browser) {
    const page = await tab(browser);
    await open(page);
    assert(await page.locator("#login").isHidden(), "a token is asked for, and there is none");
    await until(page, "#origin .role", "primary: answers clients");
    await until(page, "#origin .pulse", "answers in");
    await until(page, "#target .pulse", "answers in");
    assert(await page.locator("#shadow").isHidden(), "a section of shadow reads, and nobody reads");
    const before = await page.evaluate(() => document.querySelectorAll(".plots polyline").length);
    await please("write");
    await page.waitForFunction(() => /[1-9][\d,]*\/s/.test(document.querySelector(".plots figure:nth-child(4) .most").textContent));
    for (let second = 0; shots && second < 90; second += 1) await please("write").then(() => page.waitForTimeout(900));
    assert(before >= 0 && (await page.locator(".plots polyline").count()) >= 5, "every plot has its lines");
    await please("backfill");
    await until(page, "#walks", /backfill: Done/);
    await please("freeze the target");
    await until(page, "#target .pulse", "does not answer");
    await until(page, "#target .trouble", "no answer within 5 s");
    await please("thaw the target");
    await until(page, "#target .pulse", "answers in");
    await please("dirty");
    await until(page, "#dirty-count", "1");
    await until(page, "#dirty-list", "public.acc");
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme });
      const ground = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
      const bright = ground.match(/\d+/g).map(Number).reduce((sum, part) => sum + part) / 3;
      assert(colorScheme === "light" ? bright > 200 : bright < 60, `${colorScheme}: ${ground}`);
      await accessible(page, colorScheme);
      await picture(page, colorScheme);
    }
    await page.emulateMedia({ colorScheme: "light" });
    await fitsPhone(page);
    await accessible(page, "phone");
    await picture(page, "phone", { x: 0, y: 0, width: 320, height: 640 });
    page.nothingWrong();
    await shadows(browser);
    await clocks(browser);
  },

  /** Real reads on both sides: compared, timed, skipped with their reasons; a difference comes, and goes when it is mended. */
  async reads(browser) {
    const page = await tab(browser);
    await open(page);
    assert(await page.getByText("Reads on both sides, p50").isHidden(), "a plot of reads, and nobody reads");
    await please("sample");
    await until(page, "#shadow-lead", "Unproven");
    await please("read");
    await until(page, "#shadow-lead", "Go: what was compared is alike");
    await until(page, "#shadow-figures", /Alike\s*100 %/);
    await until(page, "#shadow-skips-list", /in transaction\s*1/);
    const times = String.raw`[\d.]+ m?s → [\d.]+ m?s\s*[\d.]+×`;
    const row = page.locator("#statements-list tr", { hasText: /select sum/i });
    await row.filter({ hasText: new RegExp(`public.acc\\s*\\d+\\s*100 %\\s*0\\s*${times}\\s*${times}\\s*${times}`) }).waitFor();
    await page.locator("#statements-list tr", { hasText: /where id = .*public.acc\s*0\s*–\s*1in transaction/i }).waitFor();
    for (const at of ["p50", "p95"]) {
      const plot = page.locator(".plots figure", { hasText: `Reads on both sides, ${at}` });
      await plot.filter({ hasText: /origin [\d.]+ m?s\s*target [\d.]+ m?s/ }).waitFor();
      assert(/origin [\d.]+ m?s, target/.test(await plot.locator("svg").getAttribute("aria-label")), "the plot in words");
    }
    for (let second = 0; shots && second < 30; second += 1) await please("read").then(() => page.waitForTimeout(900));
    await please("plant");
    await until(page, "#shadow-lead", "No go");
    await until(page, "#said", "Shadow reads: No go");
    await until(page, "#mismatches-list", /public.acc: other value in sum, seen \d+ time/);
    await until(page, "#shadow-findings", "error shadow_mismatch: public.acc: 1 other_value");
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme });
      await accessible(page, `reads, ${colorScheme}`);
      if (colorScheme === "light") await picture(page, "reads");
    }
    await fitsPhone(page);
    await accessible(page, "reads, phone");
    assert(await row.getByRole("cell").first().isVisible(), "a row is a row on a phone, too");
    await please("mend");
    await until(page, "#shadow-lead", "Go: what was compared is alike");
    await page.locator("#mismatches").waitFor({ state: "hidden" });
    // A busy machine may well have a slower side.
    await page.locator("#shadow-findings li", { hasText: "shadow_mismatch" }).waitFor({ state: "detached" });
    page.nothingWrong();
  },

  /** With the keyboard alone: look, be refused, ignore nothing, switch, call one off. */
  async switches(browser) {
    const page = await tab(browser);
    await open(page);
    await please("be immovable");
    await page.keyboard.press("Tab");
    equal(await page.evaluate(() => document.activeElement.textContent), "Skip to the switch", "the first stop");
    await page.keyboard.press("Enter");
    await tabTo(page, "dry-run");
    await on(page, "dry-run");
    await page.keyboard.press("Enter");
    await until(page, "#ended-title", /^Refused to switch to target: \d+ findings?$/);
    equal(await page.evaluate(() => document.activeElement.id), "dry-run", "the focus stays");
    await until(page, "#findings", "session_immovable");
    await accessible(page, "findings");
    await please("be movable");
    await on(page, "dry-run");
    await page.keyboard.press("Enter");
    await until(page, "#ended-title", /^Ready to switch to target/);

    await tabTo(page, "begin");
    await on(page, "begin");
    await page.keyboard.press("Enter");
    await page.locator("#confirm").waitFor();
    await accessible(page, "dialog");
    await page.keyboard.press("Escape");
    await page.locator("#confirm").waitFor({ state: "hidden" });
    equal(await page.evaluate(() => document.activeElement.id), "begin", "the focus goes back");
    await on(page, "begin");
    await page.keyboard.press("Enter");
    await page.locator("#confirm").waitFor();
    await page.keyboard.type("origin");
    assert(await page.locator("#confirm-yes").isDisabled(), "another word does not confirm");
    await page.keyboard.press("Enter");
    equal(await please("who"), "origin", "nothing was switched");
    for (let typed = 0; typed < 6; typed += 1) await page.keyboard.press("Backspace");
    await page.keyboard.type("target");
    await page.keyboard.press("Enter");
    await until(page, "#ended-title", /^Switched to target: clients were held for /);
    await until(page, "#target .role", "primary: answers clients");
    await until(page, "#said", /Switched to target/);
    for (const phase of ["preparing", "draining", "applying", "verifying", "readying", "flipping"]) {
      await until(page, "#phases", new RegExp(`${phase} \\d`));
    }
    await page.locator("#phases li[data-is=done]", { hasText: "settling" }).waitFor();
    await picture(page, "switched");
    equal(await please("who"), "target", "who answers a client that stayed");

    await page.focus("#begin");
    await on(page, "begin");
    await page.keyboard.press("Enter");
    await page.locator("#confirm").waitFor();
    await please("switch to origin");
    await page.locator("#confirm").waitFor({ state: "hidden" });
    await until(page, "#ended-title", /^Switched to origin/);
    await please("switch to target");
    await until(page, "#ended-title", /^Switched to target/);

    await please("hold a transaction open");
    await page.focus("#begin");
    await on(page, "begin");
    await page.keyboard.press("Enter");
    await page.locator("#confirm").waitFor();
    await page.keyboard.type("origin");
    await page.keyboard.press("Enter");
    await until(page, "#phases [aria-current=step]", "draining");
    await until(page, "#switch-state", "clients are held");
    await tabTo(page, "abort");
    await on(page, "abort");
    await page.keyboard.press("Enter");
    await page.locator("#confirm").waitFor();
    await page.keyboard.type("target");
    await page.keyboard.press("Enter");
    await until(page, "#ended-title", /^Aborted: clients go on as before/);
    await until(page, "#ended-why", "called off by an operator");
    equal(await please("who"), "target", "who answers after all");
    page.nothingWrong();
  },

  /** A line that is cut or silent is shown as such, with the age of what is shown. */
  async loses(browser) {
    const page = await tab(browser);
    await open(page);
    await please("freeze");
    await until(page, "#alert", "The connection to tandem is lost");
    await until(page, "#link", /Connection lost: this is [4-9] s old/);
    for (const button of ["dry-run", "begin", "abort"]) assert(await isOff(page, button), `${button} of a page that is old`);
    await picture(page, "lost", { x: 0, y: 0, width: 1000, height: 420 });
    await please("thaw");
    await live(page);
    equal(await text(page, "#alert"), "", "the alarm is over");
    await please("kill");
    await until(page, "#link", /Connection lost/);
    await please("start");
    await live(page);
    await until(page, "#said", "Connected again");
    assert(await page.locator("#begin").isEnabled(), "a page that is live can ask again");
    // The browser itself notes the connections that failed.
    page.nothingWrong(/console error: Failed to load resource: net::ERR_(CONNECTION_REFUSED|CONNECTION_RESET|EMPTY_RESPONSE|INCOMPLETE_CHUNKED_ENCODING|ABORTED)/);
  },

  /** A token is asked for where there is one, and kept in the tab alone. */
  async enters(browser) {
    const page = await tab(browser);
    await page.goto(`${admin}/`);
    await page.locator("#login").waitFor();
    equal(await page.evaluate(() => document.activeElement.id), "token", "where the focus is");
    assert(await page.locator("#all").isHidden(), "nothing is shown before");
    await accessible(page, "login");
    await page.keyboard.type("wrong");
    await page.keyboard.press("Enter");
    await until(page, "#login-note", "not the right one");
    await page.keyboard.type(process.env.TOKEN);
    await page.keyboard.press("Enter");
    await live(page);
    await until(page, "#origin .role", "primary: answers clients");
    const kept = () => page.evaluate(() => [JSON.stringify(sessionStorage).split(":").length - 1, window["local" + "Storage"].length, document.cookie, location.href]);
    equal(await kept(), [1, 0, "", `${admin}/`], "where the token is");
    await page.reload();
    await live(page);
    await page.locator("#leave").click();
    await page.locator("#login").waitFor();
    equal(await kept(), [0, 0, "", `${admin}/`], "where it is then");
    page.nothingWrong(/console error: Failed to load resource: the server responded with a status of 401/);
  },
};

async function main() {
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox", "--disable-dev-shm-usage"] });
  await scenes[process.argv[2]](browser).finally(() => browser.close());
  console.log("done");
}

main().then(() => process.exit(0), (error) => {
  console.error(error.stack);
  process.exit(1);
});
