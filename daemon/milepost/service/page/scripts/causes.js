// Causes that many streams share. Each is one sentence above the list, and not repeated at every stream.

const SHARED_BY = 3; // streams at least

const causesByKey = new Map(); // the cause of a stream, by the stream's key
let causes = [];

function findCauses(all) {
  const held = all.filter((stream) => stream.rate_limit_scope === "app");
  const shared = Map.groupBy(all.filter((stream) => sharedProblem(stream) !== null), sharedProblem);
  causes = [];
  if (held.length > 0) causes.push(appLimit(held, all.length));
  for (const [problem, some] of shared) {
    const pages = new Set(some.map((stream) => stream.page_id));
    if (some.length >= SHARED_BY && pages.size > 1) causes.push(sharedCause(problem, some));
  }
  causesByKey.clear();
  for (const cause of causes) for (const stream of cause.streams) causesByKey.set(stream.stream, cause);
}

/** Return a problem that may be that of other streams, too; null if there is none. */
function sharedProblem({ state, problem, reason, rate_limit_scope: scope, on_hold: hold }) {
  const isTrouble = ["failed", "retrying", "interrupted", "stopped", "paused"].includes(state);
  const isOfOnePage = reason === "authorization" || scope !== null; // a token each, whatever Meta says of them
  return isTrouble && !isOfOnePage && !hold ? problem : null;
}

function appLimit(held, all) {
  const until = held.map((stream) => stream.until).filter((instant) => instant !== null).sort().at(0) ?? null;
  const end = until === null ? "" : ` until ${clock(until)} (${ahead(until)})`;
  const [{ problem, advice }] = held;
  return {
    what: "the app's rate limit",
    tone: "waiting",
    words: `The app's rate limit holds up ${ofStreams(held.length, all)}${end}.`,
    more: inSentences(problem === null ? "" : `Meta says: ${problem}`, advice),
    streams: held,
  };
}

function sharedCause(problem, some) {
  const isStopped = some.some(({ state }) => state === "stopped");
  return {
    what: "what holds up others, too",
    tone: isStopped ? "stopped" : "warning",
    words: `${counted(some.length, "stream")} ${isStopped ? "have stopped" : "wait"} for one reason: ${shortened(problem, 100)}`,
    more: inSentences(problem, some[0].advice),
    streams: some,
  };
}

function ofStreams(count, all) {
  if (count < all) return `${NUMBER.format(count)} of ${counted(all, "stream")}`;
  return all === 1 ? "the stream" : `all ${counted(all, "stream")}`;
}

function causeOf(stream) {
  return causesByKey.get(stream.stream) ?? null;
}

function showCauses() {
  const list = byId("causes");
  list.hidden = causes.length === 0;
  if (!isNews(list, causes.map(({ words, more }) => [words, more]))) return;
  const open = [...list.querySelectorAll("details")].map((details) => details.open);
  list.replaceChildren(...causes.map(({ words, more, tone }, index) => {
    const row = fromTemplate("a-cause");
    setTone(row, tone);
    setText(row.querySelector(".words"), localized(words));
    setTextWithCode(row.querySelector("details p"), localized(more));
    row.querySelector("details").open = open[index] ?? false;
    return row;
  }));
}
