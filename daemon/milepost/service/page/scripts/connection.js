// Whether the daemon is there: told in the head of the page, and since when it is not.

const PATIENT_MS = 10_000;
const GONE = "This page goes on by itself when the daemon is back. "
  + "Its log, or `systemctl status milepost`, tells why it is away.";

const missing = new Set(); // of what it should give: "events", "answers"
let lostAt = null;

function reached(what) {
  missing.delete(what);
  if (missing.size === 0) lostAt = null;
  showConnection();
}

function lost(what) {
  missing.add(what);
  lostAt ??= now();
  showConnection();
}

/** Give since when the daemon is gone: longer than a restart takes; null where it is there. */
function goneSince() {
  return lostAt !== null && now() - lostAt > PATIENT_MS ? lostAt : null;
}

function showConnection() {
  const isGone = goneSince() !== null;
  const [tone, words] = lostAt === null ? ["done", "Live"]
    : isGone ? ["stopped", `Not reachable since ${clock(lostAt, { seconds: true })}`]
      : ["warning", "Reconnecting …"];
  mark(byId("connection"), tone);
  say(byId("connection").querySelector("span"), words);
  document.body.classList.toggle("stale", isGone);
  showNotice("connection", isGone ? GONE : null);
}
