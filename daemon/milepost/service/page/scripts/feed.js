// The feed of events, newest first, and the toasts that some of them make.

const MAX_EVENTS = 200;
const FRESH_MS = 10_000; // what is older was not seen to happen: it is caught up with after a break

const kinds = new Map(); // by status: the streams that its toast is about
let waitingRows = [];

function takeEvent(event, id) {
  const row = eventRow(event, id);
  if (waitingRows.length === 0) requestAnimationFrame(showEvents);
  waitingRows.push(row);
  if (waitingRows.length > MAX_EVENTS) waitingRows.shift();
  if (now() - new Date(event.at) < FRESH_MS) tellInPassing(event);
}

function eventRow(event, id) {
  const status = statusOf(event);
  const row = made("an-event");
  if (id !== null) row.dataset.seq = id;
  row.dataset.status = event.status;
  if (status.isProblem) row.dataset.problem = "";
  mark(row, status.tone);
  say(row.querySelector(".what"), event.message);
  say(row.querySelector(".which"), nameByKey(event.stream));
  const time = row.querySelector("time");
  time.dateTime = event.at;
  time.title = inFull(event.at);
  say(time, clock(event.at, { seconds: true }));
  return row;
}

/** Show what came since the last frame: a thousand streams tell more than can be shown one by one. */
function showEvents() {
  const feed = byId("feed");
  feed.prepend(...waitingRows.reverse());
  waitingRows = [];
  while (feed.children.length > MAX_EVENTS) feed.lastElementChild.remove();
  showWhichEvents();
}

function showWhichEvents() {
  const onlyProblems = document.querySelector("[name=which]:checked").value === "problems";
  const feed = byId("feed");
  feed.classList.toggle("problems", onlyProblems);
  byId("feed-empty").hidden = feed.querySelector(onlyProblems ? "[data-problem]" : "li") !== null;
  say(byId("feed-empty"), onlyProblems ? "No problems among the latest events." : "Nothing has happened yet.");
}

/** Tell of an event in a toast; of many of a kind in one. */
function tellInPassing(event) {
  const { tone, toast: title } = statusOf(event);
  if (title === undefined || event.type === "redrive_failed") return; // of that, whoever asked for it is told
  const about = toasts.has(event.status) ? kinds.get(event.status) : new Set();
  kinds.set(event.status, about.add(event.stream));
  const one = `${nameByKey(event.stream)}: ${event.message}`;
  toast(tone, about.size > 1 ? `${title}: ${counted(about.size, "stream")}` : one, event.status);
}
