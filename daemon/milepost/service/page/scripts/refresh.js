// What is refreshed, and when: soon after an event, and from time to time without one.

const MIN_MS = 1_000;
const IDLE_MS = 10_000;
const SHARE = 20; // requests occupy the daemon for a twentieth of the time at most, however many streams there are
const MAX_MS = 30_000; // an answer that took long may have waited for a database that is unavailable
const DAEMON_MS = 3_000;
const ACTIVITY_MS = 5_000;
const ABOUT_DEAD_LETTERS = ["dead_letter_opened", "dead_letter_closed", "redrive_failed"];

let isDue = true;
let wake = () => {};
let deadLettersAreStale = true;
let activityAt = -Infinity;

function refreshSoon({ deadLetters = true } = {}) {
  deadLettersAreStale ||= deadLetters;
  isDue = true;
  wake();
}

function sleep(milliseconds) {
  return new Promise((done) => { setTimeout(done, milliseconds); });
}

async function refreshForever() {
  for (;;) {
    const began = performance.now();
    isDue = false;
    await refresh();
    await sleep(Math.min(MAX_MS, Math.max(MIN_MS, SHARE * (performance.now() - began))));
    if (!isDue) await Promise.race([sleep(IDLE_MS), new Promise((done) => { wake = done; })]);
  }
}

/** Ask the daemon how it is, apart from all else: it answers at once even while its database does not. */
async function watchDaemonForever() {
  for (;;) {
    await sleep(DAEMON_MS);
    if (!document.hidden) await refreshDaemon();
  }
}

async function refreshDaemon() {
  await refreshPart("state of the daemon", async () => updateDaemon(await request("/api/daemon")));
}

async function refresh() {
  if (document.hidden && streams.length > 0) return;
  await refreshPart("streams", async () => updateStreams(await requestAll("/api/streams", "streams")));
  if (deadLettersAreStale) {
    await refreshPart("dead letters", refreshDeadLetters, () => { deadLettersAreStale = false; });
  }
  if (performance.now() - activityAt > ACTIVITY_MS) {
    const load = async () => updateActivity(await request("/api/activity"));
    await refreshPart("last hour", load, () => { activityAt = performance.now(); });
  }
}

async function refreshPart(about, part, done = () => {}) {
  try {
    await part();
    done();
    markReachable("answers");
    showNotice(about, null);
  } catch (error) {
    if (error.status === 0) markUnreachable("answers");
    else showNotice(about, `Cannot load the ${about}: ${error.message}. Retrying.`);
  }
}
