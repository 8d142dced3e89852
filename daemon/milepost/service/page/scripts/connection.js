// Whether the daemon is reachable, and if not, since when: shown at the top of the page.

const OUTAGE_AFTER_MS = 10_000;
const OUTAGE = "This page resumes by itself when the daemon is back. "
  + "Its log, or `systemctl status milepost`, says why it is down.";

const unreachable = new Set(); // which of "events" and "answers"
let unreachableSince = null;

function markReachable(what) {
  unreachable.delete(what);
  if (unreachable.size === 0) unreachableSince = null;
  showConnection();
}

function markUnreachable(what) {
  unreachable.add(what);
  unreachableSince ??= now();
  showConnection();
}

/** Return since when the daemon is unreachable, if that is longer than a restart takes; otherwise null. */
function outageSince() {
  return unreachableSince !== null && now() - unreachableSince > OUTAGE_AFTER_MS ? unreachableSince : null;
}

function showConnection() {
  const isOutage = outageSince() !== null;
  const [tone, words] = unreachableSince === null ? ["done", "Live"]
    : isOutage ? ["stopped", `Unreachable since ${clock(unreachableSince, { seconds: true })}`]
      : ["warning", "Reconnecting …"];
  setTone(byId("connection"), tone);
  setText(byId("connection").querySelector("span"), words);
  document.body.classList.toggle("stale", isOutage || issueOf("store_away") !== null);
  showNotice("connection", isOutage ? OUTAGE : null);
}
