// What is refreshed, and when: soon after an event, and from time to time without one.

const MIN_MS = 1_000;
const IDLE_MS = 10_000;
const SHARE = 20; // requests occupy the daemon for a twentieth of the time at most, however many streams there are
const BYTES_PER_MS = 0.5; // 30 kB a minute, beside half as many for events: some people watch by telephone
const MAX_MS = 30_000; // an answer that took long may have waited for a database that is unavailable
const DAEMON_MS = 3_000;
const ACTIVITY_MS = 15_000; // the step of the chart
const ABOUT_DEAD_LETTERS = ["dead_letter_opened", "dead_letter_closed", "redrive_failed"];

let isDue = true;
let wake = () => {};
let hurry = () => {};
let deadLettersAreStale = true;
let activityAt = -Infinity;
let isAnswered = false; // the latest request about the streams

/** Refresh as soon as the budget allows, or at once if a person waits for it. */
function refreshSoon({ deadLetters = false, isUrgent = false } = {}) {
  deadLettersAreStale ||= deadLetters;
  isDue = true;
  wake();
  if (isUrgent) hurry();
}

function sleep(milliseconds) {
  return new Promise((done) => { setTimeout(done, milliseconds); });
}

async function refreshForever() {
  for (;;) {
    const [began, bytes] = [performance.now(), bytesOnWire];
    isDue = false;
    const hurried = new Promise((done) => { hurry = done; });
    await refresh();
    const took = SHARE * (performance.now() - began);
    const cost = (bytesOnWire - bytes) / BYTES_PER_MS;
    await Promise.race([sleep(Math.min(MAX_MS, Math.max(MIN_MS, took, cost))), hurried]);
    if (!isDue) await Promise.race([sleep(IDLE_MS), new Promise((done) => { wake = done; })]);
  }
}

/** Ask the daemon how it is while it says nothing else: it answers at once even while its database does not. */
async function watchDaemonForever() {
  for (;;) {
    await sleep(DAEMON_MS);
    const isNeeded = !isAnswered || issues.length > 0 || unreachable.size > 0;
    if (!document.hidden && isNeeded) await refreshDaemon();
  }
}

async function refreshDaemon() {
  await refreshPart("state of the daemon", async () => updateDaemon(await request("/api/daemon")));
}

async function refreshStreams() {
  isAnswered = false;
  const changes = await request(`/api/overview${tag === null ? "" : `?since=${tag}`}`);
  isAnswered = true;
  showWorld(changes);
  updateDaemon(changes.daemon);
  updateStreams(changes);
}

async function refresh() {
  if (document.hidden && streams.length > 0) return;
  await refreshPart("streams", refreshStreams);
  if (deadLettersAreStale) {
    deadLettersAreStale = false;
    await refreshPart("dead letters", refreshDeadLetters, () => { deadLettersAreStale = true; });
  }
  if (isDrawerStale()) await refreshPart(OF_DRAWER, refreshDrawer);
  if (performance.now() - activityAt > ACTIVITY_MS) {
    activityAt = performance.now();
    await refreshPart("activity", refreshActivity, () => { activityAt = -Infinity; });
  }
}

async function refreshPart(about, part, onError = () => {}) {
  try {
    await part();
    markReachable("answers");
    showNotice(about, null);
  } catch (error) {
    onError();
    if (!(error instanceof RequestError)) {
      console.error(error);
      showNotice(about, `This page failed to show the ${about}. Reload it; if it persists, report this bug.`, String(error));
    } else if (error.status === 0) {
      markUnreachable("answers");
    } else {
      markReachable("answers");
      showNotice(about, `Cannot load the ${about}. Retrying.`, `${capitalized(error.message)}.`);
    }
  }
}
