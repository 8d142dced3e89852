// The drawer: all about one stream, beside the list.

const DRAWER_EVENTS = 15;
const DRAWER_LETTERS = 5;

let drawerKey = null;
let drawerOpener = null;
let runsShownOf = ""; // the run, as of which the runs are shown
let endEvents = () => {};

function drawerIsOf(key) {
  return drawerKey === key;
}

function openDrawer(key) {
  if (drawerKey === null) drawerOpener = document.activeElement;
  endEvents();
  drawerKey = key;
  runsShownOf = "";
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
}

function closeDrawer() {
  if (drawerKey === null) return;
  endEvents();
  const key = drawerKey;
  drawerKey = null;
  byId("drawer").hidden = true;
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
  const asOf = JSON.stringify([stream.last_success_at, stream.run, stream.open_dead_letters]);
  if (asOf !== runsShownOf) {
    runsShownOf = asOf;
    loadRuns(stream.stream);
    loadLetters(stream.stream);
  }
}

async function loadRuns(key) {
  await refreshPart("runs", async () => {
    const { runs } = await request(`/api/runs?stream=${encodeURIComponent(key)}&limit=${RUNS_SHOWN}`);
    if (drawerKey === key) showRuns(byId("drawer-runs"), runs);
  });
}

async function loadLetters(key) {
  await refreshPart("dead letters of the stream", async () => {
    const path = `/api/dead-letters?stream=${encodeURIComponent(key)}&limit=${DRAWER_LETTERS}`;
    const { dead_letters: found } = await request(path);
    if (drawerKey !== key) return;
    byId("drawer-letters").replaceChildren(...found.map((deadLetter) => {
      const row = document.createElement("li");
      row.append(element("p", deadLetterTitle(deadLetter)), element("p", deadLetter.reason, "lead"));
      return row;
    }));
    byId("drawer-letters-title").hidden = found.length === 0;
  });
}
