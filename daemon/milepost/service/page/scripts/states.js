// The vocabulary: the states of streams and the statuses of events, in words, each with its tone.

/** The states of a stream, those that need a person first. */
const STATES = {
  stopped: { words: "Needs you", tone: "stopped" },
  failed: { words: "Failed", tone: "warning" },
  interrupted: { words: "Interrupted", tone: "warning" },
  retrying: { words: "Retrying", tone: "warning" },
  rate_limited: { words: "Rate limited", tone: "waiting" },
  queued: { words: "Waiting for a slot", tone: "waiting" },
  syncing: { words: "Syncing", tone: "working" },
  paused: { words: "Between runs", tone: "waiting" },
  on_hold: { words: "Paused", tone: "held" },
  never_synced: { words: "Not synced yet", tone: "idle" },
  complete_with_errors: { words: "Complete with errors", tone: "warning" },
  complete: { words: "Up to date", tone: "done" },
};
const UNKNOWN = { words: "Unknown", tone: "idle" };

function stateOf(stream) {
  if (stream.is_configured === false) return { words: "Not configured", tone: "idle" };
  return STATES[stream.state] ?? { ...UNKNOWN, words: capitalized(inWords(stream.state)) };
}

/** The statuses of events. Those with a `toast` are announced; its words stand for many of a kind. */
const STATUSES = {
  started: { tone: "working" },
  progress: { tone: "working" },
  retrying: { tone: "warning", isProblem: true, toast: "Retrying" },
  db_retrying: { tone: "warning", isProblem: true, toast: "Database unavailable, retrying" },
  batch_failed: { tone: "stopped", isProblem: true, toast: "Could not be read" },
  batch_db_failed: { tone: "stopped", isProblem: true, toast: "Could not be written" },
  rate_limited: { tone: "waiting", isProblem: true, toast: "Rate limit" },
  timeout_warning: { tone: "waiting", toast: "Run stopped at its time limit" },
  batch_limit_warning: { tone: "waiting", toast: "Run stopped at its batch limit" },
  paused: { tone: "held" },
  stopped: { tone: "stopped", isProblem: true, toast: "Stopped: needs you" },
  complete: { tone: "done", toast: "Complete" },
  complete_with_errors: { tone: "warning", isProblem: true, toast: "Complete with errors" },
};

function statusOf(event) {
  return STATUSES[event.status] ?? UNKNOWN;
}
