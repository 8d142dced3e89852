// The chart of what was done: how fast, how late and with how many errors, of all streams together.

const BANDS = { // in the height of the chart
  rate: { top: 20, floor: 96 },
  delay: { top: 122, floor: 160 },
  errors: { top: 186, floor: 212 },
};
const CHART_HEIGHT = 232;
const LEFT = 46;
const RIGHT = 6;
const TICK_WIDTH = 72;
const TABLE_ROWS = 12;

/** The windows that can be chosen, in seconds. */
const WINDOWS = { 3600: "1 h", 21600: "6 h", 86400: "24 h" };
const HOUR = 3600; // longer ones are kept in longer steps
const SHORTEST = 300;
const LONGEST = 86400;
const AVERAGED = { 15: 4, 300: 3 }; // buckets in a moving average, by their length: a minute, a quarter of an hour

let hour = null;
let wholeDay = null;
let chosenWindow = null; // by the reader; until then as long as the daemon has been running
let daemonStartedAt = null;
let points = []; // what is drawn
let pointed = null; // the index of the point under the crosshair

async function refreshActivity() {
  hour = withAverages(await request("/api/activity"));
  if (windowShown() > HOUR) wholeDay = withAverages(await request("/api/activity?window=day"));
  showActivity();
}

/** Add to each bucket the moving average of the rate: the only source of rates on this page. */
function withAverages({ buckets, step_seconds: step }) {
  const whole = buckets.slice(0, -1); // the last one is not over yet
  const length = AVERAGED[step] ?? 1;
  let sum = 0;
  const found = whole.map((bucket, index) => {
    sum += bucket.conversations - (whole[index - length]?.conversations ?? 0);
    return { ...bucket, time: Date.parse(bucket.at) / 1000 + step, rate: sum / (step * Math.min(index + 1, length)) };
  });
  return { step, buckets: found, current: buckets.at(-1) };
}

/** Return how far back to look: as chosen, or back to when the daemon started, or to the first of what it has read. */
function windowShown() {
  return chosenWindow ?? Math.max(SHORTEST, Math.min(LONGEST, knownSeconds()));
}

/** Return for how long anything is known. */
function knownSeconds() {
  const first = hour?.buckets.find((bucket) => bucket.conversations + bucket.retries + bucket.failed_batches > 0);
  const begins = [daemonStartedAt, first?.at].filter(Boolean).map((instant) => Date.parse(instant));
  return begins.length === 0 ? 0 : (now() - Math.min(...begins)) / 1000;
}

function showActivity() {
  const seconds = windowShown();
  const source = seconds > HOUR ? wholeDay : hour;
  if (source === null || hour === null) return;
  points = source.buckets.slice(-Math.round(seconds / source.step));
  showFigures();
  const buckets = [...points, source.current];
  showSummary(seconds, buckets);
  showTable(seconds, buckets);
  const options = Object.entries(WINDOWS).map(([value, words]) => [value, words, "idle"]);
  showChips(byId("windows"), [["", "All", "idle"], ...options], String(chosenWindow ?? ""), chooseWindow);
  drawChart();
}

async function chooseWindow(seconds) {
  chosenWindow = seconds === "" ? null : Number(seconds);
  pointed = null;
  if (windowShown() > HOUR && wholeDay === null) await refreshPart("activity", refreshActivity);
  else showActivity();
}

function totalOf(buckets) {
  const sum = (name) => buckets.reduce((total, bucket) => total + bucket[name], 0);
  const delays = buckets.map((bucket) => bucket.delay_seconds).filter((delay) => delay !== null);
  return {
    conversations: sum("conversations"), retries: sum("retries"), failed: sum("failed_batches"),
    delay: delays.length > 0 ? Math.max(...delays) : null,
  };
}

function showFigures() {
  const { conversations, retries, failed, delay } = totalOf([...hour.buckets, hour.current]);
  setText(byId("figure-read"), NUMBER.format(conversations));
  setText(byId("figure-retries"), NUMBER.format(retries));
  setText(byId("figure-failed"), NUMBER.format(failed));
  setText(byId("figure-delay"), delay === null ? "–" : brief(delay));
  setText(byId("figure-rate"), perSecond(rateNow()));
}

/** Return the moving average up to now: the bucket that is not over yet counts as far as it goes. */
function rateNow() {
  const { step, buckets, current } = hour;
  const recent = buckets.slice(1 - AVERAGED[step]);
  const seconds = recent.length * step + secondsSince(current.at);
  return totalOf([...recent, current]).conversations / Math.max(1, Math.min(seconds, knownSeconds()));
}

function showSummary(seconds, buckets) {
  const { conversations, retries, failed } = totalOf(buckets);
  const parts = [
    `${counted(conversations, "conversation")} read`,
    counted(retries, "retry", "retries"),
    counted(failed, "failed batch", "failed batches"),
  ];
  setText(byId("chart-summary"), `${parts.join(", ")} in the last ${lasting(seconds)}.`);
}

// --- drawing --------------------------------------------------------------------------------------------------------

function drawChart() {
  const svg = byId("chart");
  const width = svg.clientWidth || 600;
  if (points.length === 0) return;
  svg.setAttribute("viewBox", `0 0 ${width} ${CHART_HEIGHT}`);
  const from = points[0].time;
  const to = points.at(-1).time;
  const x = (time) => LEFT + ((time - from) * (width - LEFT - RIGHT)) / Math.max(1, to - from);
  const tops = { rate: roundTop(most("rate")), delay: topOfDelay(), errors: topOfErrors() };
  svg.replaceChildren(
    svg.querySelector("title"),
    ...timesOf(from, to, x, width),
    ...bandOf(BANDS.rate, "conversations/s", tops.rate, perSecond, width),
    areaOf(x, tops.rate),
    ...bandOf(BANDS.delay, "longest delay", tops.delay, brief, width),
    ...delaysOf(x, tops.delay),
    ...bandOf(BANDS.errors, "errors", tops.errors, NUMBER.format, width),
    ...errorsOf(x, tops.errors),
    shape("line", { class: "here", y1: BANDS.rate.top, y2: BANDS.errors.floor }),
  );
  showPoint(x);
}

function most(name) {
  return Math.max(0, ...points.map((point) => point[name] ?? 0));
}

/** Return a round number that is not below `value`, and at least 1. */
function roundTop(value) {
  const size = 10 ** Math.floor(Math.log10(Math.max(1, value)));
  return size * [1, 2, 5, 10].find((times) => size * times >= Math.max(1, value));
}

const ROUND_DELAYS = [10, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800, 43200, 86400];

function topOfDelay() {
  const longest = most("delay_seconds");
  return ROUND_DELAYS.find((seconds) => seconds >= longest) ?? 86400 * Math.ceil(longest / 86400);
}

function topOfErrors() {
  return roundTop(Math.max(...points.map((point) => point.retries + point.failed_batches)));
}

function yIn({ top, floor }, value, atMost) {
  return floor - (Math.min(value, atMost) / atMost) * (floor - top);
}

/** Draw the frame of a band: its name with the unit, and its scale. */
function bandOf(band, name, top, inUnits, width) {
  return [
    shape("text", { x: LEFT, y: band.top - 7, class: "name" }, name),
    ...[0, 1].flatMap((share) => {
      const y = yIn(band, share, 1);
      return [
        shape("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y, y2: y }),
        shape("text", { x: LEFT - 6, y: y + 4, "text-anchor": "end" }, inUnits(share * top)),
      ];
    }),
  ];
}

function areaOf(x, top) {
  const { floor } = BANDS.rate;
  const line = points.map(({ time, rate }) => `${x(time).toFixed(1)},${yIn(BANDS.rate, rate, top).toFixed(1)}`);
  return shape("path", { class: "reading", d: `M${x(points[0].time)},${floor} L${line.join(" L")} L${x(points.at(-1).time)},${floor}` });
}

function delaysOf(x, top) {
  const measured = points.filter((point) => point.delay_seconds !== null);
  const at = ({ time, delay_seconds: delay }) => [x(time).toFixed(1), yIn(BANDS.delay, delay, top).toFixed(1)];
  const line = shape("path", { class: "delay", d: measured.length > 1 ? `M${measured.map((point) => at(point).join(",")).join(" L")}` : "" });
  const dots = measured.length > 60 ? [] : measured.map((point) => {
    const [cx, cy] = at(point);
    return shape("circle", { class: "delay", cx, cy, r: 2 });
  });
  return [line, ...dots];
}

function errorsOf(x, top) {
  const { floor } = BANDS.errors;
  return points.flatMap(({ time, retries, failed_batches: failed }) => {
    const bar = (name, from, to) => {
      const y = yIn(BANDS.errors, to, top);
      const height = Math.max(2, yIn(BANDS.errors, from, top) - y);
      return shape("rect", { class: name, x: x(time) - 1.5, y: Math.min(y, floor - 2), width: 3, height });
    };
    return [
      ...(failed > 0 ? [bar("failed", 0, failed)] : []),
      ...(retries > 0 ? [bar("retries", failed, failed + retries)] : []),
    ];
  });
}

const TICKS = [60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 14400, 21600, 43200];

/** Mark round times of the reader's day. */
function timesOf(from, to, x, width) {
  const atMost = Math.max(2, Math.floor((width - LEFT) / TICK_WIDTH));
  const step = TICKS.find((seconds) => (to - from) / seconds <= atMost) ?? TICKS.at(-1);
  const offset = -60 * new Date(1000 * to).getTimezoneOffset();
  const marks = [];
  for (let time = Math.ceil((from + offset) / step) * step - offset; time <= to; time += step) {
    const at = x(time);
    marks.push(shape("line", { class: "grid", x1: at, x2: at, y1: BANDS.rate.top, y2: BANDS.errors.floor + 4 }));
    const isAtEdge = at < LEFT + 14 || at > width - 22;
    if (!isAtEdge) marks.push(shape("text", { x: at, y: CHART_HEIGHT - 4, "text-anchor": "middle" }, clock(1000 * time)));
  }
  return marks;
}

// --- the crosshair --------------------------------------------------------------------------------------------------

function wireChart() {
  const svg = byId("chart");
  new ResizeObserver(drawChart).observe(svg);
  svg.onpointermove = (event) => pointAt((event.offsetX - LEFT) / (svg.clientWidth - LEFT - RIGHT));
  svg.onpointerleave = svg.onblur = () => { pointed = null; drawChart(); };
  svg.onkeydown = ({ key }) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[key];
    if (move === undefined || points.length === 0) return;
    pointed = Math.max(0, Math.min(points.length - 1, (pointed ?? points.length) + move));
    drawChart();
  };
}

function pointAt(share) {
  if (points.length === 0) return;
  const found = Math.round(Math.max(0, Math.min(1, share)) * (points.length - 1));
  if (found === pointed) return;
  pointed = found;
  drawChart();
}

/** Show the crosshair and the numbers at the point it is on. */
function showPoint(x) {
  const point = pointed === null ? undefined : points[pointed];
  const line = byId("chart").querySelector(".here");
  const tip = byId("chart-point");
  tip.hidden = point === undefined;
  line.classList.toggle("unseen", point === undefined);
  if (point === undefined) return;
  const { time, at, rate, delay_seconds: delay, retries, failed_batches: failed } = point;
  line.setAttribute("x1", x(time));
  line.setAttribute("x2", x(time));
  const rows = [
    clock(at, { seconds: true }),
    `${perSecond(rate)} conversations/s`,
    delay === null ? "no sweep ended" : `delay up to ${brief(delay)}`,
    `${counted(retries, "retry", "retries")}, ${failed} failed`,
  ];
  tip.replaceChildren(...rows.map((row) => element("span", row)));
  const width = byId("chart").clientWidth;
  tip.classList.toggle("left", x(time) > width / 2);
  tip.style.left = `${x(time)}px`;
}

// --- the table ------------------------------------------------------------------------------------------------------

function showTable(seconds, buckets) {
  const size = Math.ceil(buckets.length / TABLE_ROWS);
  const rows = [];
  for (let end = buckets.length; end > 0; end -= size) {
    const some = buckets.slice(Math.max(0, end - size), end);
    const { conversations, retries, failed, delay } = totalOf(some);
    const row = document.createElement("tr");
    const head = element("th", clock(some[0].at, { seconds: seconds <= HOUR }));
    head.scope = "row";
    const numbers = [conversations, retries, failed].map((count) => element("td", NUMBER.format(count)));
    row.append(head, ...numbers, element("td", delay === null ? "–" : brief(delay)));
    rows.push(row);
  }
  byId("chart-table").tBodies[0].replaceChildren(...rows);
}
