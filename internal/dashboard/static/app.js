// What the pages do beyond HTML: times in the reader's zone, the theme, charts, and live updates. It builds
// nothing out of what strangers wrote: the server escapes all text, and scripts only put it in place.
"use strict";

const units = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
const relative = new Intl.RelativeTimeFormat(undefined, { numeric: "auto", style: "short" });
const today = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const dated = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit" });
const full = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" });

// localTime shows a time in the reader's zone. Its title keeps the exact one, in UTC.
function localTime(el) {
  const at = new Date(el.dateTime);
  if (isNaN(at)) return;
  const now = new Date();
  if (el.dataset.relative !== undefined) {
    const seconds = (at - now) / 1000;
    const [unit, size] = units.find(([, s]) => Math.abs(seconds) >= s) || units[3];
    el.textContent = relative.format(Math.round(seconds / size), unit);
    return;
  }
  const format = at.toDateString() === now.toDateString() ? today : at.getFullYear() === now.getFullYear() ? dated : full;
  el.textContent = format.format(at);
}

function prepare(root) {
  root.querySelectorAll("time[datetime]").forEach(localTime);
  root.querySelectorAll("[data-chart]").forEach(draw);
}

// Charts. The element holds its data: {"x": [seconds], "series": [{"label", "unit", "values"}]}.
const charts = new WeakMap();

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function valueText(v, unit) {
  if (v == null) return "–";
  if (unit === "ms") return v >= 1000 ? (v / 1000).toFixed(v >= 10000 ? 0 : 1) + " s" : Math.round(v) + " ms";
  if (unit === "%") return v.toFixed(v === 100 ? 0 : 2) + " %";
  return (v >= 100 ? Math.round(v) : Math.round(v * 10) / 10).toLocaleString();
}

function draw(el) {
  let data;
  try { data = JSON.parse(el.dataset.chart); } catch { return; }
  const values = [data.x, ...data.series.map(s => s.values)];
  const had = charts.get(el);
  if (had) {
    had.setData(values);
    return;
  }
  const axis = { stroke: color("--dim"), grid: { stroke: color("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
  const chart = new uPlot({
    width: Math.max(200, el.clientWidth), height: Number(el.dataset.height || 160),
    cursor: { y: false }, legend: { live: true },
    scales: { x: { time: true }, y: { range: (u, low, high) => [0, high > 0 ? high * 1.1 : 1] } },
    axes: [axis, { ...axis, size: 54, values: (u, ticks) => ticks.map(v => valueText(v, data.series[0].unit)) }],
    series: [{}, ...data.series.map((s, i) => ({
      label: s.label, stroke: color("--chart" + (s.color || i + 1)), width: 1.5, points: { show: data.x.length < 60, size: 4 }, spanGaps: false,
      value: (u, v) => valueText(v, s.unit),
    }))],
  }, values, el);
  charts.set(el, chart);
  new ResizeObserver(() => chart.setSize({ width: Math.max(200, el.clientWidth), height: chart.height })).observe(el);
}

function redraw() {
  document.querySelectorAll("[data-chart]").forEach(el => {
    const had = charts.get(el);
    if (had) { had.destroy(); charts.delete(el); }
    draw(el);
  });
}

// Live updates. An element with data-live names a stream of server-sent events: "part" replaces the element
// with an id, "rows" adds rows at the head of a table, "chart" gives a chart new data.
const maxRows = 100;

// listen keeps an element up to date. A browser gives an EventSource up for good when the server refuses it
// once, so it is made again after a while, and goes on behind the last message.
function listen(el) {
  const state = document.getElementById("live-state");
  const say = (text, tone) => { if (state) { state.textContent = text; state.className = "badge " + tone; } };
  let source, again, last = "", wait = 2000;
  const connect = () => {
    const url = new URL(el.dataset.live, location.href);
    if (last) url.searchParams.set("after", last);
    source = new EventSource(url);
    source.onopen = () => { wait = 2000; say("live", "ok"); };
    source.onerror = () => {
      if (source.readyState !== EventSource.CLOSED) { say("connecting", "off"); return; }
      say("not live; trying again", "off");
      again = setTimeout(connect, wait * (1 + Math.random()));
      wait = Math.min(2 * wait, 30000);
    };
    source.addEventListener("stale", e => say(e.data, "wait"));
    source.addEventListener("fresh", e => say(e.data, "ok"));
    receive(el, source, id => { last = id || last; });
  };
  connect();
  addEventListener("pagehide", () => { clearTimeout(again); source.close(); });
}

function hideOld() {
  document.querySelectorAll("[data-hide-when-live]").forEach(x => { x.hidden = true; });
}

// receive does what the messages of a stream say.
function receive(el, source, had) {
  source.addEventListener("part", e => {
    const split = e.data.indexOf("\n"), target = document.getElementById(e.data.slice(0, split));
    if (!target) return;
    if (target.contains(document.activeElement) && document.activeElement !== document.body) return; // the reader is in it
    target.innerHTML = e.data.slice(split + 1);
    prepare(target);
    hideOld();
  });
  source.addEventListener("chart", e => {
    const split = e.data.indexOf("\n"), target = document.getElementById(e.data.slice(0, split));
    if (!target) return;
    target.dataset.chart = e.data.slice(split + 1);
    draw(target);
  });
  source.addEventListener("rows", e => {
    had(e.lastEventId);
    if (paused) { held++; return; }
    const template = document.createElement("template");
    template.innerHTML = "<table><tbody>" + e.data + "</tbody></table>";
    const rows = template.content.querySelectorAll("tr");
    prepare(template.content);
    const body = el.querySelector("tbody");
    rows.forEach(row => {
      const old = row.id && document.getElementById(row.id);
      if (old) old.replaceWith(row); else body.prepend(row);
    });
    while (body.rows.length > maxRows) body.deleteRow(-1);
    hideOld();
  });
  source.addEventListener("skipped", e => {
    const target = document.getElementById("live-skipped");
    if (target) target.textContent = e.data;
  });
  source.addEventListener("signed-out", () => { source.close(); location.reload(); });
}

// A page that the browser has kept has no stream any more.
addEventListener("pageshow", e => { if (e.persisted) location.reload(); });

let paused = false, held = 0;

document.addEventListener("DOMContentLoaded", () => {
  prepare(document);
  document.querySelectorAll("[data-live]").forEach(listen);
  document.querySelectorAll(".side [aria-current]").forEach(a => { // on a phone the entries are in one line that scrolls
    const side = a.closest(".side");
    side.scrollLeft += a.getBoundingClientRect().left - side.getBoundingClientRect().left - 40;
  });
  document.querySelectorAll("[data-theme-toggle]").forEach(b => {
    b.hidden = false;
    b.addEventListener("click", () => {
      const root = document.documentElement;
      const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      root.dataset.theme = dark ? "light" : "dark";
      try { localStorage.setItem("kapsel-theme", root.dataset.theme); } catch { /* it holds for this page */ }
      redraw();
    });
  });
  document.querySelectorAll("[data-submit]").forEach(el => el.addEventListener("change", () => el.form.requestSubmit()));
  setInterval(() => document.querySelectorAll("time[data-relative]").forEach(localTime), 15000);
});

document.addEventListener("submit", e => {
  const ask = e.target.dataset.confirm || (e.submitter && e.submitter.dataset.confirm);
  if (ask && !confirm(ask)) e.preventDefault();
});

document.addEventListener("htmx:afterSwap", e => prepare(e.target));

document.addEventListener("click", async e => {
  const copy = e.target.closest("[data-copy]");
  if (copy) {
    const from = document.getElementById(copy.dataset.copy);
    const was = copy.textContent;
    try {
      await navigator.clipboard.writeText(from.textContent);
      copy.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(from);
      copy.textContent = "Selected";
    }
    setTimeout(() => { copy.textContent = was; }, 1500);
    return;
  }
  const pause = e.target.closest("[data-pause]");
  if (pause) {
    paused = !paused;
    pause.textContent = paused ? "Continue" : "Pause";
    pause.setAttribute("aria-pressed", String(paused));
    if (!paused && held > 0) { held = 0; location.reload(); }
  }
  const all = e.target.closest("[data-select-all]");
  if (all) all.closest("form").querySelectorAll("input[type=checkbox][name]").forEach(x => { x.checked = all.checked; });
});
