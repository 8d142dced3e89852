// The drawer: all about one stream, beside the list.

const DRAWER_EVENTS = 15;
const DRAWER_LETTERS = 5;
const OF_DRAWER = "runs and dead letters of the stream";

let drawerKey = null;
let drawerOpener = null;
let drawerAsOf = ""; // of the stream, when its runs and dead letters were loaded
let endEvents = () => {};

function drawerIsOf(key) {
  return drawerKey === key;
}

function openDrawer(key) {
  if (drawerKey === null) drawerOpener = document.activeElement;
  endEvents();
  drawerKey = key;
  drawerAsOf = "";
  byId("drawer-runs").hidden = byId("drawer-letters-title").hidden = true; // those of another stream
  const drawer = byId("drawer");
  drawer.hidden = false;
  byId("drawer-events").replaceChildren();
  endEvents = subscribe({ stream: key, last: DRAWER_EVENTS, onEvent: (event, id) => {
    byId("drawer-events").prepend(eventRow(event, id));
    while (byId("drawer-events").children.length > DRAWER_EVENTS) byId("drawer-events").lastElementChild.remove();
  } });
  showDrawer();
  showStreams();
  writeFilter();
  drawer.scrollTop = 0;
  byId("drawer-close").focus({ preventScroll: true });
  refreshSoon({ isUrgent: true });
}

function closeDrawer() {
  if (drawerKey === null) return;
  endEvents();
  const key = drawerKey;
  drawerKey = null;
  byId("drawer").hidden = true;
  showNotice(OF_DRAWER, null);
  showStreams();
  writeFilter();
  (shownByKey.get(key)?.querySelector(".opens") ?? drawerOpener)?.focus({ preventScroll: true });
}

function showDrawer() {
  if (drawerKey === null) return;
  const stream = streamByKey(drawerKey);
  if (stream === undefined) { // it was removed
    closeDrawer();
    return;
  }
  const drawer = byId("drawer");
  showState(drawer, stream, progressInWords(stream));
  setText(byId("drawer-title"), `${nameOf(stream)} · ${platformOf(stream)}`);
  showIssues(drawer.querySelector(".issues"), stream);
  showFacts(byId("drawer-facts"), [...factsOf(stream), ...furtherFactsOf(stream)]);
}

function asOf({ last_success_at: success, run, open_dead_letters: deadLetters }) {
  return JSON.stringify([success, run, deadLetters]);
}

function isDrawerStale() {
  return known.has(drawerKey) && asOf(streamByKey(drawerKey)) !== drawerAsOf;
}

async function refreshDrawer() {
  const [key, loadedAsOf] = [drawerKey, asOf(streamByKey(drawerKey))];
  const query = `stream=${encodeURIComponent(key)}&limit=`;
  const [{ runs }, { dead_letters: deadLetters }] = await Promise.all([
    request(`/api/runs?${query}${RUNS_SHOWN}`),
    request(`/api/dead-letters?${query}${DRAWER_LETTERS}`),
  ]);
  if (drawerKey !== key) return;
  drawerAsOf = loadedAsOf;
  byId("drawer-runs").hidden = false;
  showRuns(byId("drawer-runs"), runs);
  byId("drawer-letters-title").hidden = deadLetters.length === 0;
  byId("drawer-letters").replaceChildren(...deadLetters.map((deadLetter) => {
    const row = document.createElement("li");
    row.append(element("p", deadLetterTitle(deadLetter)), element("p", deadLetter.reason, "lead"));
    return row;
  }));
}
