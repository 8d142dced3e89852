// What is asked for again, and when: soon after something happened, and now and then where nothing does.

const LEAST_MS = 1_000;
const IDLE_MS = 10_000;
const SHARE = 20; // answers take the daemon at most a twentieth of the time, however many streams there are
const ACTIVITY_MS = 5_000;
const ABOUT_LETTERS = ["dead_letter_opened", "dead_letter_closed", "redrive_failed"];

let isDue = true;
let wake = () => {};
let lettersAreStale = true;
let activityAt = -Infinity;

function refreshSoon({ letters = true } = {}) {
  lettersAreStale ||= letters;
  isDue = true;
  wake();
}

function passed(milliseconds) {
  return new Promise((done) => { setTimeout(done, milliseconds); });
}

async function keepFresh() {
  for (;;) {
    const began = performance.now();
    isDue = false;
    await refresh();
    await passed(Math.max(LEAST_MS, SHARE * (performance.now() - began)));
    if (!isDue) await Promise.race([passed(IDLE_MS), new Promise((done) => { wake = done; })]);
  }
}

async function refresh() {
  if (document.hidden && streams.length > 0) return;
  await refreshPart("streams", async () => takeStreams(await askForAll("/api/streams", "streams")));
  if (lettersAreStale) await refreshPart("dead letters", refreshLetters, () => { lettersAreStale = false; });
  if (performance.now() - activityAt > ACTIVITY_MS) {
    const take = async () => takeActivity(await ask("/api/activity"));
    await refreshPart("last hour", take, () => { activityAt = performance.now(); });
  }
}

async function refreshPart(about, part, done = () => {}) {
  try {
    await part();
    done();
    reached("answers");
    showNotice(about, null);
  } catch (error) {
    if (error.status === 0) lost("answers");
    else showNotice(about, `The ${about} cannot be shown: ${error.message}. This is tried again by itself.`);
  }
}
