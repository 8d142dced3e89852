// The vocabulary: the states of streams and the statuses of events, in words, each with the tone that it is told in.

/** The states of a stream, the ones that need somebody first. */
const STATES = {
  stopped: { words: "Needs you", tone: "stopped" },
  failed: { words: "Failed", tone: "warning" },
  interrupted: { words: "Interrupted", tone: "warning" },
  retrying: { words: "Retrying", tone: "warning" },
  rate_limited: { words: "Waits for a limit", tone: "waiting" },
  syncing: { words: "Syncing", tone: "working" },
  paused: { words: "Paused", tone: "waiting" },
  on_hold: { words: "On hold", tone: "held" },
  never_synced: { words: "Not synced yet", tone: "idle" },
  complete_with_errors: { words: "Complete with errors", tone: "warning" },
  complete: { words: "Up to date", tone: "done" },
};
const UNKNOWN = { words: "Unknown", tone: "idle" };

function stateOf(stream) {
  if (stream.is_configured === false) return { words: "Not configured", tone: "idle" };
  return STATES[stream.state] ?? { ...UNKNOWN, words: capitalized(inWords(stream.state)) };
}

/** The statuses of events. Those with a `toast` are told when they happen: in few words, for many of a kind. */
const STATUSES = {
  started: { tone: "working" },
  progress: { tone: "working" },
  retrying: { tone: "warning", isProblem: true, toast: "Tried again" },
  db_retrying: { tone: "warning", isProblem: true, toast: "The database is away, and tried again" },
  batch_failed: { tone: "stopped", isProblem: true, toast: "Could not be read" },
  batch_db_failed: { tone: "stopped", isProblem: true, toast: "Could not be written" },
  rate_limited: { tone: "waiting", isProblem: true, toast: "Rate limit" },
  timeout_warning: { tone: "waiting", toast: "Time limit of a run" },
  batch_limit_warning: { tone: "waiting", toast: "Batch limit of a run" },
  paused: { tone: "held" },
  stopped: { tone: "stopped", isProblem: true, toast: "Stopped: somebody has to mend it" },
  complete: { tone: "done", toast: "Complete" },
  complete_with_errors: { tone: "warning", isProblem: true, toast: "Complete with errors" },
};

function statusOf(event) {
  return STATUSES[event.status] ?? UNKNOWN;
}
