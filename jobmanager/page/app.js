// The status page: one document by server-sent events, drawn twice a second. Text only ever becomes text.

// ---- drawing -------------------------------------------------------------------------------------------------------

const SVG = "http://www.w3.org/2000/svg";

/** An element: h("p", { class: "soft" }, "text", child, ...). Null children are left out. */
function h(tag, attributes = {}, ...children) {
  const svg = tag === "svg" || tag === "path";
  const node = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "grow") node.style.flexGrow = String(value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined).map(toNode));
  return node;
}

function toNode(child) {
  return child instanceof Node ? child : document.createTextNode(String(child));
}

/** Makes `old` look like `fresh` without replacing what is the same: focus, selection and scrolling stay. */
function morph(old, fresh) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name) && name !== "style") old.removeAttribute(name);
  for (const { name, value } of [...fresh.attributes]) {
    if (name !== "style" && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  if (old.style.flexGrow !== fresh.style.flexGrow) old.style.flexGrow = fresh.style.flexGrow;
  const children = [...fresh.childNodes];
  children.forEach((child, index) => {
    const before = old.childNodes[index];
    if (!before) old.append(child);
    else if (before.nodeType === child.nodeType && before.nodeName === child.nodeName) morph(before, child);
    else before.replaceWith(child);
  });
  while (old.childNodes.length > children.length) old.lastChild.remove();
}

function draw(id, ...children) {
  const node = document.getElementById(id);
  const fresh = node.cloneNode(false);
  fresh.append(...children.flat(Infinity).filter(Boolean).map(toNode));
  morph(node, fresh);
}

// ---- words and numbers ---------------------------------------------------------------------------------------------

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });

const number = (n) => (n === null || n === undefined ? "–" : whole.format(n));
const compact = (n) => (n === null || n === undefined ? "–" : n < 100000 ? whole.format(n) : short.format(n));
const time = (ms) => (ms === null || ms === undefined ? "–" : clock.format(new Date(ms)));
const plural = (n, word) => `${number(n)} ${word}${n === 1 ? "" : "s"}`;

function bytes(n) {
  if (n === null || n === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (n >= 1024 && unit < units.length - 1) { n /= 1024; unit += 1; }
  return `${n >= 100 || unit === 0 ? n.toFixed(0) : n.toFixed(1)} ${units[unit]}`;
}

function milliseconds(us) {
  if (us === null || us === undefined) return "–";
  const ms = us / 1000;
  return ms >= 10000 ? `${(ms / 1000).toFixed(1)} s` : ms >= 100 ? `${ms.toFixed(0)} ms` : `${ms.toFixed(1)} ms`;
}

function span(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 1000) return `${Math.max(0, Math.round(ms))} ms`;
  const s = ms / 1000;
  if (s < 60) return `${s.toFixed(s < 10 ? 1 : 0)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d`;
}

// ---- rates: records read a second, from one document to the next ----------------------------------------------------

const HISTORY_MS = 120000;
const WINDOW_MS = 5000;
const history = new Map();

function remember(overview) {
  const known = new Set(overview.jobs.map((job) => job.id));
  for (const id of history.keys()) if (!known.has(id)) history.delete(id);
  for (const job of overview.jobs) {
    const points = history.get(job.id) ?? [];
    points.push({ at: overview.time_ms, read: job.conservation.read });
    while (points.length > 2 && points[0].at < overview.time_ms - HISTORY_MS) points.shift();
    history.set(job.id, points);
  }
}

function rateAt(points, index) {
  const end = points[index];
  let start = index;
  while (start > 0 && end.at - points[start].at < WINDOW_MS) start -= 1;
  const elapsed = end.at - points[start].at;
  return elapsed > 0 ? Math.max(0, ((end.read - points[start].read) * 1000) / elapsed) : null;
}

function rate(job) {
  const points = history.get(job.id) ?? [];
  return points.length > 1 ? rateAt(points, points.length - 1) : null;
}

function spark(job) {
  const points = history.get(job.id) ?? [];
  // The first point has none before it to be compared with.
  const values = points.slice(1).map((_, index) => rateAt(points, index + 1) ?? 0);
  const top = Math.max(1, ...values);
  const now = points.length ? points[points.length - 1].at : 0;
  const at = values.map((value, index) => {
    const x = 600 - ((now - points[index + 1].at) / HISTORY_MS) * 600;
    return `${x.toFixed(1)} ${(42 - (value / top) * 38).toFixed(1)}`;
  });
  const line = at.length > 1 ? `M${at.join("L")}` : "M0 42L600 42";
  const first = at.length > 1 ? at[0].split(" ")[0] : "0";
  const label = `Records read a second over two minutes, at most ${compact(top)}`;
  return h("svg", { class: "spark", viewBox: "0 0 600 44", preserveAspectRatio: "none", role: "img", "aria-label": label },
    h("path", { class: "area", d: `${line}L600 44L${first} 44Z` }), h("path", { d: line }));
}

// ---- parts ---------------------------------------------------------------------------------------------------------

function tiles(list) {
  return h("dl", { class: "tiles" }, list.map(([name, value, note]) =>
    h("div", { class: "tile" }, h("dt", {}, name), h("dd", {}, value, note ? h("small", {}, note) : null))));
}

/** columns: [title, isNumber]; rows: arrays of cells, the first one is the row's header. */
function table(caption, columns, rows, empty) {
  if (rows.length === 0) return h("p", { class: "empty" }, empty);
  const cell = (content, index) => {
    const kind = columns[index][1] ? "number" : index === rows[0].length - 1 ? "wide" : null;
    return index === 0 ? h("th", { scope: "row", class: columns[0][1] ? "number" : null }, content) : h("td", { class: kind }, content);
  };
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {}, h("caption", {}, caption),
      h("thead", {}, h("tr", {}, columns.map(([title, right]) => h("th", { scope: "col", class: right ? "number" : null }, title)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map(cell))))));
}

const PARTS = [
  ["written", "written"], ["filtered", "filtered"], ["duplicates", "duplicate"],
  ["superseded", "superseded"], ["dead_letters", "dead letters"], ["in_flight", "in flight"],
];

function conservation(line) {
  const broken = line.adds_up === false;
  const verdict = broken
    ? "These do not add up: records were lost or counted twice. Please keep the control log and report it."
    : line.adds_up === null ? "Not all TaskManagers have counted yet."
    : line.in_flight === 0 ? "Adds up: every record that was read is accounted for." : "Adds up.";
  const term = (key, name, value, sign) => h("div", {},
    sign ? h("span", { class: "sign", "aria-hidden": "true" }, sign) : null,
    key ? h("span", { class: `key ${key}`, "aria-hidden": "true" }) : null,
    h("dt", {}, name), h("dd", {}, number(value)));
  return h("div", { class: broken ? "broken" : null },
    h("div", { class: "bar", "aria-hidden": "true" }, PARTS.map(([key]) => h("span", { class: key, grow: line[key] }))),
    h("dl", { class: "sum" },
      term(null, "read", line.read, null),
      PARTS.map(([key, name], index) => term(key, name, line[key], index === 0 ? "=" : "+"))),
    h("p", { class: "verdict" }, verdict, line.corrections ? ` Of the written, ${plural(line.corrections, "correction")}.` : "",
      line.late ? ` Too late for a window: ${number(line.late)}.` : ""));
}

const pill = (job) => h("span", { class: `pill ${job.status}` }, job.status);
/** What the attempt does, where the status does not say it already. */
const phase = (job) => (isActive(job) && job.phase !== job.status ? h("span", { class: "phase" }, job.phase) : null);
const isActive = (job) => job.status === "running" || job.status === "stopping";
const names = (overview) => new Map(overview.task_managers.map((tm) => [tm.id, tm.name]));
const nameOf = (known, id) => (id ? known.get(id) ?? `${id.slice(0, 8)} (gone)` : "–");
const jobLink = (job) => `#/job/${encodeURIComponent(job.id)}`;

function jobCard(overview, job) {
  const current = rate(job);
  return h("article", { class: "job" },
    h("h2", {}, h("a", { href: jobLink(job) }, job.name), pill(job), phase(job)),
    job.reason ? h("p", { class: "soft" }, job.reason) : null,
    isActive(job) ? spark(job) : null,
    h("p", { class: "soft" }, [
      isActive(job) && current !== null ? `${compact(current)} records/s` : null,
      job.lag !== null ? `lag ${compact(job.lag)}` : null,
      job.latency ? `p95 ${milliseconds(job.latency.p95_us)}` : null,
      `attempt ${job.attempt}`,
    ].filter(Boolean).join(" · ")),
    conservation(job.conservation));
}

function splitTable(overview, job) {
  const known = names(overview);
  return table(`${plural(job.splits.length, "split")} of the input`,
    [["Split", true], ["Position", true], ["End", true], ["Lag", true], ["Read", true], ["TaskManager", false]],
    job.splits.map((split) => [number(split.split), number(split.position), number(split.high_watermark), number(split.lag),
      number(split.records_read), [nameOf(known, split.owner), split.idle ? h("span", { class: "soft" }, " · idle") : null]]),
    "No splits yet.");
}

function keyGroups(overview, job) {
  const known = names(overview);
  const owners = new Map();
  for (const group of job.key_groups) {
    const name = nameOf(known, group.owner);
    owners.set(name, [...(owners.get(name) ?? []), group]);
  }
  if (owners.size === 0) return h("p", { class: "empty" }, "Not placed yet.");
  const list = (groups) => h("ul", { class: "groups" }, groups.map((group) => {
    const behind = group.epoch < job.epochs.committed;
    return h("li", { class: behind ? "behind" : null, title: `key group ${group.key_group}, epoch ${group.epoch}` },
      group.key_group.replace(/^0\//, ""));
  }));
  return h("div", { class: "owners" }, [...owners].sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, groups]) =>
    h("div", {}, h("h3", {}, name, h("span", { class: "soft" }, ` · ${groups.length}`)), list(groups))));
}

function checkpointTable(overview, job) {
  return table("Newest first",
    [["Checkpoint", true], ["Epoch", true], ["Size", true], ["Taken", false]],
    job.checkpoints.slice(0, 20).map((checkpoint) => [number(checkpoint.id), number(checkpoint.epoch), bytes(checkpoint.bytes),
      [checkpoint.taken_ms === null ? "under way" : `${span(overview.time_ms - checkpoint.taken_ms)} ago`,
        checkpoint.pinned ? h("strong", {}, " · savepoint") : null]]),
    "None yet: the first one follows the first committed epochs.");
}

function attemptTable(job) {
  return table("Newest first",
    [["Attempt", true], ["Started", false], ["Ready after", true], ["Reason", false]],
    job.attempts.slice(0, 20).map((attempt) => [number(attempt.number), time(attempt.started_ms),
      attempt.ready_ms !== null && attempt.started_ms !== null ? span(attempt.ready_ms - attempt.started_ms) : "–", attempt.reason]),
    "None yet.");
}

function memberTable(overview) {
  return table(plural(overview.task_managers.length, "TaskManager"),
    [["Name", false], ["Splits", true], ["Key groups", true], ["Memory", true], ["Exchange", false]],
    overview.task_managers.map((tm) => [[tm.name, tm.leaving ? h("span", { class: "soft" }, " · leaving") : null],
      number(tm.splits), number(tm.key_groups),
      tm.memory_bytes === null ? "–" : `${bytes(tm.memory_bytes)}${tm.memory_limit_bytes ? ` of ${bytes(tm.memory_limit_bytes)}` : ""}`,
      h("code", {}, tm.exchange)]),
    "None has registered. Start one: taskmanager --jobmanager HOST:PORT --data-dir FOLDER");
}

// ---- pages: add one here and it has an address ----------------------------------------------------------------------

const section = (title, ...content) => h("section", {}, h("h2", {}, title), content);

function overviewPage(overview) {
  const active = overview.jobs.filter(isActive);
  const sum = (values) => (values.every((v) => v === null) ? null : values.reduce((a, b) => a + (b ?? 0), 0));
  const latencies = active.map((job) => job.latency?.p95_us).filter((us) => us !== undefined);
  return [
    h("h1", {}, "Cluster"),
    tiles([
      ["TaskManagers", number(overview.task_managers.length), overview.task_managers.some((tm) => tm.leaving) ? "one is leaving" : null],
      ["Jobs running", number(active.length), `${number(overview.jobs.length)} in all`],
      ["Records read", `${compact(sum(active.map(rate)))}/s`, null],
      ["Lag", compact(sum(active.map((job) => job.lag))), "records at the source"],
      ["Latency p95", latencies.length ? milliseconds(Math.max(...latencies)) : "–", "produced to committed"],
    ]),
    overview.jobs.length === 0
      ? section("Jobs", h("p", { class: "empty" }, "None yet. Submit one: ", h("code", {}, "healthctl submit job.toml")))
      : overview.jobs.map((job) => jobCard(overview, job)),
    section("TaskManagers", memberTable(overview)),
  ];
}

function jobPage(overview, id) {
  const job = overview.jobs.find((job) => job.id === id) ?? overview.jobs.find((job) => job.name === id);
  if (!job) return [h("h1", {}, "No such job"), h("p", {}, h("a", { href: "#/" }, "All jobs"))];
  const current = rate(job);
  const steps = [["open", job.epochs.open], ["sealed", job.epochs.sealed], ["committed", job.epochs.committed]];
  return [
    h("div", { class: "title" }, h("h1", {}, job.name), pill(job), phase(job),
      h("p", {}, h("a", { href: `/api/v1/jobs/${job.id}/job.toml` }, "job.toml"))),
    job.reason ? h("p", { class: "soft" }, job.reason) : null,
    tiles([
      ["Records read", current === null ? "–" : `${compact(current)}/s`, job.backpressured ? "waits for commits" : null],
      ["Lag", compact(job.lag), "records at the source"],
      ["Latency p95", milliseconds(job.latency?.p95_us), job.latency ? `p50 ${milliseconds(job.latency.p50_us)}, p99 ${milliseconds(job.latency.p99_us)}` : "produced to committed"],
      ["State", bytes(job.state_bytes), plural(job.key_groups.length, "key group")],
      ["Attempt", number(job.attempt), job.attempts[0]?.reason],
    ]),
    section("What became of the records", conservation(job.conservation)),
    section("Throughput", spark(job)),
    section("Epochs", h("dl", { class: "steps" }, steps.map(([name, epoch]) => h("div", {}, h("dt", {}, name), h("dd", {}, number(epoch)))),
      h("div", {}, h("dt", {}, "watermark"), h("dd", {}, job.watermark_ms === null ? "–" : time(job.watermark_ms))))),
    h("div", { class: "columns" },
      section("Splits", splitTable(overview, job)),
      section("Key groups", keyGroups(overview, job)),
      section("Checkpoints", checkpointTable(overview, job)),
      section("Attempts", attemptTable(job))),
  ];
}

function alarms(overview) {
  const list = [];
  const bad = (title, text) => list.push(h("p", { class: "alarm" }, h("strong", {}, `${title}. `), text));
  const waits = (title, text) => list.push(h("p", { class: "alarm waits" }, h("strong", {}, `${title}. `), text));
  if (!overview.leading) {
    waits("Standby", "This JobManager does not lead: another one does, or it still reads the control log.");
    return list;
  }
  const active = overview.jobs.filter(isActive);
  if (active.length > 0 && overview.task_managers.length === 0) {
    bad("No TaskManager", "Jobs wait until one registers; nothing is lost.");
  }
  for (const job of overview.jobs) {
    if (job.status === "failed") bad(`${job.name} failed`, `${job.reason ?? ""} Then: healthctl resume ${job.name}`);
    if (job.conservation.adds_up === false) bad(`${job.name} does not add up`, "See its conservation line.");
    for (const trouble of isActive(job) ? job.troubles : []) waits(`${job.name} waits`, trouble);
  }
  return list;
}

const PAGES = [
  [/^#\/job\/([0-9a-f-]+)$/, (overview, match) => jobPage(overview, match[1])],
  [/^/, (overview) => overviewPage(overview)],
];

// ---- life ----------------------------------------------------------------------------------------------------------

let latest = null;
let seen = 0;
// No figures for a while: those on the page are old.
let stale = false;

function staleAlarm() {
  return h("p", { class: "alarm" }, h("strong", {}, "Old figures. "), `The JobManager has said nothing since ${time(seen)}; this page tries again by itself.`);
}

function show() {
  if (!latest) return;
  const hash = location.hash || "#/";
  for (const [address, page] of PAGES) {
    const match = hash.match(address);
    if (match) { draw("content", page(latest, match)); break; }
  }
  draw("alarms", stale ? [staleAlarm()] : alarms(latest));
  document.getElementById("content").classList.toggle("stale", stale);
  const current = hash.startsWith("#/job/") ? hash.slice(6) : null;
  const entry = (title, href, here) => h("a", { href, "aria-current": here ? "page" : null }, title);
  draw("nav", entry("Cluster", "#/", current === null), latest.jobs.filter(isActive).slice(0, 8).map((job) => entry(job.name, jobLink(job), current === job.id)));
  draw("about", `Pulso ${latest.version}${latest.time_ms ? ` · ${time(latest.time_ms)}` : ""}`);
}

function state(text, live) {
  const node = document.getElementById("link");
  if (node.textContent !== text) node.textContent = text;
  node.className = live ? "link live" : "link";
}

function listen() {
  const source = new EventSource("/api/v1/events");
  source.addEventListener("overview", (event) => {
    latest = JSON.parse(event.data);
    seen = Date.now();
    stale = false;
    remember(latest);
    state("live", true);
    show();
  });
  source.addEventListener("error", () => {
    state("no connection to the JobManager, trying again", false);
    // A refused stream is closed for good by the browser, a broken one it opens again itself.
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 1000);
  });
}

setInterval(() => {
  if (stale || !seen || Date.now() - seen < 3000) return;
  stale = true;
  state("no connection to the JobManager", false);
  show();
}, 1000);
addEventListener("hashchange", () => { show(); document.getElementById("content").focus(); });
// The address says which page it is, so the link must not change it.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("content").focus();
});
listen();
