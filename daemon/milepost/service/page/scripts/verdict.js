// The verdict: the answer to "is it working?" in one sentence, and the figures beside it.

/** The possible verdicts, most serious first. The first one that applies to any stream counts. */
const VERDICTS = [
  { states: ["stopped"], tone: "stopped", one: "needs you", many: "need you" },
  {
    states: ["failed", "interrupted", "retrying"],
    tone: "warning",
    one: "is retrying after a failure",
    many: "are retrying after a failure",
  },
  { states: ["rate_limited"], tone: "waiting", one: "is rate limited", many: "are rate limited" },
  { states: ["syncing"], tone: "working", one: "is syncing", many: "are syncing" },
  { states: ["queued"], tone: "waiting", one: "is waiting for a slot", many: "are waiting for a slot" },
  { states: ["never_synced"], tone: "idle", one: "has not begun", many: "have not begun" },
  { states: ["paused"], tone: "waiting", one: "is between runs", many: "are between runs" },
  {
    states: ["complete_with_errors"],
    tone: "warning",
    one: "is complete with errors",
    many: "are complete with errors",
  },
  { states: ["on_hold"], tone: "held", one: "is paused", many: "are paused" },
  { states: ["complete"], tone: "done", one: "is up to date", many: "are up to date" },
];

function verdictOn(found) {
  const isTold = causes.some(({ streams: held }) => held.length === found.length); // why they wait
  const all = VERDICTS.map((verdict) => {
    const count = found.filter(({ state }) => verdict.states.includes(state)).length;
    return isTold && verdict.tone === "waiting" ? { ...verdict, count, one: "waits", many: "wait" } : { ...verdict, count };
  });
  const applicable = all.filter(({ count }) => count > 0);
  if (applicable.length === 0) return { tone: "idle", words: "There are no streams yet", more: "" };
  const [{ tone, count, one, many }, ...others] = applicable;
  const more = others.map((other) => `${other.count} ${other.count === 1 ? other.one : other.many}`).join(" · ");
  return { tone, words: `${capitalized(ofStreams(count, found.length))} ${count === 1 ? one : many}`, more };
}

/** Return the verdict on an unreachable daemon, with the last known one; null if it is reachable. */
function verdictOnDaemon({ words, more }) {
  const since = outageSince();
  if (since === null) return null;
  const before = streams.length > 0 ? `At ${clock(since)}: ${[words, more].filter(Boolean).join(" · ")}` : "";
  return { tone: "stopped", words: "The daemon is unreachable", more: before };
}

function showVerdict() {
  const onStreams = verdictOn(streams.filter((stream) => stream.is_configured !== false));
  const { tone, words, more } = verdictOnDaemon(onStreams) ?? verdictOnIssues(onStreams) ?? onStreams;
  setTone(byId("summary"), tone);
  setText(byId("verdict"), words);
  setText(byId("verdict-more"), more || "\u00a0");
  document.title = ["stopped", "warning"].includes(tone) ? `${words} · Milepost` : "Milepost";
  const deadLetters = streams.reduce((sum, stream) => sum + stream.open_dead_letters, 0);
  setText(byId("figure-dead-letters"), NUMBER.format(deadLetters));
  setText(byId("dead-letters-count"), deadLetters > 0 ? `${NUMBER.format(deadLetters)} open` : "");
}
