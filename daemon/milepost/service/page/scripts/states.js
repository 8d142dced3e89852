// The vocabulary: the states of streams and the statuses of events, in words, each with its tone.

/** The states of a stream, those that need a person first. */
const STATES = {
  stopped: { words: "Needs you", tone: "stopped" },
  failed: { words: "Failed", tone: "warning" },
  interrupted: { words: "Interrupted", tone: "warning" },
  retrying: { words: "Retrying", tone: "warning" },
  complete_with_errors: { words: "Complete with errors", tone: "warning" },
  rate_limited: { words: "Rate limited", tone: "waiting" },
  paused: { words: "Between runs", tone: "waiting" },
  never_synced: { words: "Not synced yet", tone: "idle" },
  queued: { words: "Waiting for a slot", tone: "waiting" },
  syncing: { words: "Syncing", tone: "working" },
  on_hold: { words: "Paused", tone: "held" },
  complete: { words: "Up to date", tone: "done" },
};
const IN_ORDER_OF_STATE = Object.keys(STATES);
const UNKNOWN = { words: "Unknown", tone: "idle" };

/** Groups of states to filter by, in the order in which they are offered. */
const GROUPS = {
  "needs-you": { words: "Needs you", tone: "stopped", states: ["stopped"] },
  failing: { words: "Failing", tone: "warning", states: ["failed", "interrupted", "retrying"] },
  waiting: { words: "Waiting", tone: "waiting", states: ["rate_limited", "paused", "never_synced"] },
  queued: { words: "Queued", tone: "waiting", states: ["queued"] },
  syncing: { words: "Syncing", tone: "working", states: ["syncing"] },
  "up-to-date": { words: "Up to date", tone: "done", states: ["complete", "complete_with_errors"] },
  paused: { words: "Paused", tone: "held", states: ["on_hold"] },
  "not-configured": { words: "Not configured", tone: "idle", states: [] },
};

function groupOf(stream) {
  if (stream.is_configured === false) return "not-configured";
  return Object.keys(GROUPS).find((group) => GROUPS[group].states.includes(stream.state)) ?? "waiting";
}

function stateOf(stream) {
  if (stream.is_configured === false) return { words: "Not configured", tone: "idle" };
  return STATES[stream.state] ?? { ...UNKNOWN, words: capitalized(inWords(stream.state)) };
}

/** The statuses of events. */
const STATUSES = {
  started: { tone: "working" },
  progress: { tone: "working" },
  retrying: { tone: "warning", isProblem: true },
  db_retrying: { tone: "warning", isProblem: true },
  batch_failed: { tone: "stopped", isProblem: true },
  batch_db_failed: { tone: "stopped", isProblem: true },
  rate_limited: { tone: "waiting", isProblem: true },
  timeout_warning: { tone: "waiting" },
  batch_limit_warning: { tone: "waiting" },
  paused: { tone: "held" },
  stopped: { tone: "stopped", isProblem: true },
  complete: { tone: "done" },
  complete_with_errors: { tone: "warning", isProblem: true },
};

function statusOf(event) {
  return STATUSES[event.status] ?? UNKNOWN;
}
