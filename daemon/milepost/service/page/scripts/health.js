// What is wrong with the daemon as a whole: it comes before how the streams stand.

/** The kinds of issues. One that is `stopped` is the verdict: nothing is copied. */
const ISSUE_TONES = {
  store_away: "stopped",
  stalled: "stopped",
  runs_fail: "warning",
  nothing_to_do: "stopped",
  discovery_failed: "warning",
  getting_nowhere: "warning",
  reload_refused: "warning",
  restart_needed: "waiting",
  deliveries: "warning",
  webhooks: "warning",
  unsubscribed: "warning",
  notices: "warning",
  clocks_differ: "waiting",
  slowed_down: "waiting",
};

let issues = []; // the most serious first

function updateDaemon(status) {
  for (const issue of issues) showNotice(noticeOf(issue), null);
  ({ issues } = status);
  showDeliveries(status.deliveries);
  const worst = worstIssue();
  for (const issue of issues) if (issue !== worst) showNotice(noticeOf(issue), ...issueInWords(issue));
  showConnection();
  showWebhooks(status.webhooks);
  if (issues.length > 0 || streams.length > 0) showVerdict();
}

/** Show what has come by webhooks since the start, where the daemon takes them. */
function showWebhooks(webhooks) {
  byId("webhooks").hidden = webhooks === null;
  if (webhooks === null) return;
  const { taken, last_at: lastAt, missed } = webhooks;
  const last = lastAt === null ? "" : `, the last at ${clock(lastAt, { seconds: true })}`;
  const without = missed > 0 ? `; ${counted(missed, "message")} came without one` : "";
  setText(byId("webhooks"), `${counted(taken, "webhook")} since the daemon's start${last}${without}.`);
}

function issueOf(kind) {
  return issues.find((issue) => issue.kind === kind) ?? null;
}

/** Several issues may be of one kind. */
function noticeOf({ kind, what }) {
  return `${kind}: ${what}`;
}

/** Return the issue that is the verdict: the most serious one because of which nothing is copied. */
function worstIssue() {
  return issues.find(({ kind }) => ISSUE_TONES[kind] === "stopped");
}

/** Return an issue in a sentence, and why it is so with what a person can do. */
function issueInWords({ what, since, reason, advice }) {
  const begin = since === null ? "" : ` since ${clock(since)}`;
  return [`${capitalized(what)}${begin}.`, inSentences(reason, advice)];
}

function inSentences(...parts) {
  const said = parts.filter((part) => part !== null && part !== "");
  return said.map((part) => `${capitalized(localized(part)).replace(/\.$/, "")}.`).join(" ");
}

/** Return the verdict on what keeps everything from being copied, above that on the streams; null if nothing does. */
function verdictOnIssues({ words, more }) {
  const worst = worstIssue();
  if (worst === undefined) return null;
  const since = worst.since === null ? "" : `Since ${clock(worst.since)}`;
  const onStreams = streams.length > 0 ? [words, more] : [];
  const details = inSentences(worst.reason, worst.advice);
  return { tone: "stopped", words: capitalized(worst.what), more: [since, details, ...onStreams].filter(Boolean).join(" · ") };
}
