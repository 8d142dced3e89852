// The last hour: conversations per second as an area, retries and failed batches as bars below it.

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 176;
const BARS = 44; // of the height, for the bars
const LEFT = 34;
const ROWS_OF = 20; // buckets, for the table

let activity = null;

function updateActivity(found) {
  activity = { ...found, buckets: found.buckets.slice(0, -1) }; // the last one is not over yet
  drawChart();
  const { conversations, retries, failed_batches: failed } = totalOf(found.buckets);
  const parts = [
    `${counted(conversations, "conversation")} read`,
    counted(retries, "retry", "retries"),
    counted(failed, "failed batch", "failed batches"),
  ];
  setText(byId("chart-summary"), `${parts.join(", ")} in the last hour.`);
  setText(byId("figure-read"), conversations.toLocaleString("en"));
  setText(byId("figure-retries"), retries.toLocaleString("en"));
  setText(byId("figure-failed"), failed.toLocaleString("en"));
  setText(byId("figure-rate"), perSecond((activity.buckets.at(-1)?.conversations ?? 0) / found.step_seconds));
  showTable(found.buckets);
}

function totalOf(buckets) {
  const sum = (name) => buckets.reduce((total, bucket) => total + bucket[name], 0);
  return { conversations: sum("conversations"), retries: sum("retries"), failed_batches: sum("failed_batches") };
}

// --- drawing --------------------------------------------------------------------------------------------------------

function drawChart() {
  if (activity === null) return;
  const svg = byId("chart");
  const width = svg.clientWidth || 600;
  svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  const { buckets, step_seconds: step } = activity;
  const x = (index) => LEFT + (index * (width - LEFT)) / Math.max(1, buckets.length - 1);
  const title = svg.querySelector("title");
  svg.replaceChildren(
    title,
    ...scaleOf(buckets, step, width),
    areaOf(buckets, step, x),
    ...barsOf(buckets, x),
    ...timesOf(buckets, x, width),
  );
}

function shape(name, attributes, text = "") {
  const created = document.createElementNS(SVG, name);
  for (const [attribute, value] of Object.entries(attributes)) created.setAttribute(attribute, value);
  created.textContent = text;
  return created;
}

const CEILING = 10;
const FLOOR = HEIGHT - BARS - 18; // of the area
const GROUND = HEIGHT - 16; // of the bars

function topOf(buckets, step) {
  const most = Math.max(1, ...buckets.map((bucket) => bucket.conversations / step));
  const size = 10 ** Math.floor(Math.log10(most));
  return size * [1, 2, 5, 10].find((times) => size * times >= most);
}

function scaleOf(buckets, step, width) {
  const top = topOf(buckets, step);
  return [0, 0.5, 1].flatMap((share) => {
    const y = FLOOR - share * (FLOOR - CEILING);
    return [
      shape("line", { class: "grid", x1: LEFT, x2: width, y1: y, y2: y }),
      shape("text", { x: LEFT - 5, y: y + 4, "text-anchor": "end" }, perSecond(top * share)),
    ];
  });
}

function areaOf(buckets, step, x) {
  const top = topOf(buckets, step);
  const height = (conversations) => (conversations / step / top) * (FLOOR - CEILING);
  const points = buckets.map(({ conversations }, index) => {
    return `${x(index).toFixed(1)},${(FLOOR - height(conversations)).toFixed(1)}`;
  });
  const path = `M${x(0)},${FLOOR} L${points.join(" L")} L${x(buckets.length - 1)},${FLOOR}`;
  return shape("path", { class: "reading", d: buckets.length ? path : "" });
}

function barsOf(buckets, x) {
  const most = Math.max(3, ...buckets.map((bucket) => bucket.retries + bucket.failed_batches));
  const height = (count) => (count === 0 ? 0 : Math.max(3, (count / most) * (BARS - 6)));
  return buckets.flatMap(({ retries, failed_batches: failed }, index) => {
    const bar = (name, count, ground) => {
      const size = { width: 3, height: height(count) };
      return shape("rect", { class: name, x: x(index) - 1.5, y: ground - height(count), ...size });
    };
    return [
      ...(failed > 0 ? [bar("failed", failed, GROUND)] : []),
      ...(retries > 0 ? [bar("retries", retries, GROUND - height(failed))] : []),
    ];
  });
}

function timesOf(buckets, x, width) {
  const every = width < 480 ? 80 : 40;
  const ground = shape("line", { class: "grid", x1: LEFT, x2: width, y1: GROUND, y2: GROUND });
  const marks = buckets.flatMap(({ at }, index) => {
    if (index % every !== 0 || index === 0) return [];
    return [shape("text", { x: x(index), y: HEIGHT - 3, "text-anchor": "middle" }, clock(at))];
  });
  return [ground, ...marks];
}

/** Show the numbers of the bucket under the pointer. */
function pointAt(event) {
  if (activity === null) return;
  const svg = byId("chart");
  const share = (event.offsetX - LEFT) / (svg.clientWidth - LEFT);
  const { buckets, step_seconds: step } = activity;
  const bucket = buckets[Math.round(share * (buckets.length - 1))];
  if (bucket === undefined) return;
  const { at, conversations, retries, failed_batches: failed } = bucket;
  const numbers = [`${perSecond(conversations / step)}/s`, counted(retries, "retry", "retries"), `${failed} failed`];
  setText(byId("chart-point"), `${clock(at, { seconds: true })}: ${numbers.join(", ")}`);
}

// --- the table ------------------------------------------------------------------------------------------------------

function showTable(buckets) {
  const rows = [];
  for (let first = 0; first < buckets.length; first += ROWS_OF) {
    const { conversations, retries, failed_batches: failed } = totalOf(buckets.slice(first, first + ROWS_OF));
    const row = document.createElement("tr");
    const head = element("th", clock(buckets[first].at));
    head.scope = "row";
    row.append(head, ...[conversations, retries, failed].map((count) => element("td", count.toLocaleString("en"))));
    rows.push(row);
  }
  byId("chart-table").tBodies[0].replaceChildren(...rows.reverse());
}
