// Whether the daemon is reachable, and if not, since when: shown at the top of the page.

const OUTAGE_AFTER_MS = 10_000;
const OUTAGE = "This page resumes by itself when the daemon is back. "
  + "Its log, or `systemctl status milepost`, says why it is down.";

const unreachable = new Map(); // which of "events" and "answers", and since when

function markReachable(what) {
  if (unreachable.delete(what)) showConnection();
}

function markUnreachable(what) {
  if (!unreachable.has(what)) unreachable.set(what, now());
  showConnection();
}

/** Whether the daemon answers no requests, so that no button would do anything. */
function isAway() {
  return unreachable.has("answers");
}

/**
 * Return since when the daemon is unreachable, if that is longer than a restart takes; otherwise null. While it answers
 * requests it is not, even if it has no events to send, because its database is unavailable.
 */
function outageSince() {
  const since = unreachable.get("answers");
  return since !== undefined && now() - since > OUTAGE_AFTER_MS ? since : null;
}

function showConnection() {
  const isOutage = outageSince() !== null;
  const [tone, words] = unreachable.size === 0 ? ["done", "Live"]
    : isOutage ? ["stopped", `Unreachable since ${clock(outageSince(), { seconds: true })}`]
      : ["warning", "Reconnecting …"];
  setTone(byId("connection"), tone);
  setText(byId("connection").querySelector("span"), words);
  document.body.classList.toggle("stale", isOutage || issueOf("store_away") !== null);
  for (const button of document.querySelectorAll("button.acts")) switchOff(button);
  showNotice("connection", isOutage ? OUTAGE : null);
}

/** Switch a button off while its action runs, or while the daemon is away. `disabled` would take the focus away. */
function switchOff(button, isBusy = button.dataset.busy !== undefined) {
  if (isBusy) button.dataset.busy = "";
  else delete button.dataset.busy;
  if (isBusy || isAway()) button.setAttribute("aria-disabled", "true");
  else button.removeAttribute("aria-disabled");
}
