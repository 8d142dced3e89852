// The answer to the first question: is it working? In a sentence, and the figures beside it.

/** What can be said of all streams, the most serious first. The first that some stream is at is the verdict. */
const VERDICTS = [
  { states: ["stopped"], tone: "stopped", one: "needs you", many: "need you" },
  {
    states: ["failed", "interrupted", "retrying"],
    tone: "warning",
    one: "has trouble, and is tried again",
    many: "have trouble, and are tried again",
  },
  { states: ["rate_limited"], tone: "waiting", one: "waits for a rate limit", many: "wait for a rate limit" },
  { states: ["syncing", "never_synced", "paused"], tone: "working", one: "is syncing", many: "are syncing" },
  {
    states: ["complete_with_errors"],
    tone: "warning",
    one: "is complete with errors",
    many: "are complete with errors",
  },
  { states: ["on_hold"], tone: "held", one: "is on hold", many: "are on hold" },
  { states: ["complete"], tone: "done", one: "is up to date", many: "are up to date" },
];

function verdictOn(found) {
  const all = VERDICTS.map((verdict) => {
    return { ...verdict, count: found.filter(({ state }) => verdict.states.includes(state)).length };
  });
  const told = all.filter(({ count }) => count > 0);
  if (told.length === 0) return { tone: "idle", words: "There are no streams yet", more: "" };
  const [{ tone, count, one, many }, ...others] = told;
  const more = others.map((other) => `${other.count} ${other.count === 1 ? other.one : other.many}`).join(" · ");
  return { tone, words: `${ofAll(count, found.length)} ${count === 1 ? one : many}`, more };
}

function ofAll(count, all) {
  if (count < all) return `${count} of ${counted(all, "stream")}`;
  return all === 1 ? "The stream" : `All ${counted(all, "stream")}`;
}

/** Say that the daemon is gone, and what is known of before; null where it is there. */
function verdictOnDaemon({ words, more }) {
  const since = goneSince();
  if (since === null) return null;
  const before = streams.length > 0 ? `At ${clock(since)}: ${[words, more].filter(Boolean).join(" · ")}` : "";
  return { tone: "stopped", words: "The daemon is not reachable", more: before };
}

function showVerdict() {
  const onStreams = verdictOn(streams.filter((stream) => stream.is_configured !== false));
  const { tone, words, more } = verdictOnDaemon(onStreams) ?? onStreams;
  mark(byId("summary"), tone);
  say(byId("verdict"), words);
  say(byId("verdict-more"), more || "\u00a0");
  document.title = ["stopped", "warning"].includes(tone) ? `${words} · Milepost` : "Milepost";
  const letters = streams.reduce((sum, stream) => sum + stream.open_dead_letters, 0);
  say(byId("figure-letters"), letters.toLocaleString("en"));
  say(byId("letters-count"), letters > 0 ? `${letters.toLocaleString("en")} open` : "");
}
