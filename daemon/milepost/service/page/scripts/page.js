// The start of the page: wires everything up.

function onEvent(event, id) {
  addEvent(event, id);
  refreshSoon({ deadLetters: ABOUT_DEAD_LETTERS.includes(event.type) });
}

/** After an outage anything may have changed, even the page itself. */
function onConnected() {
  markReachable("events");
  refreshSoon({ deadLetters: true });
  checkForNewPage();
}

/** Without events, whether the daemon answers at all is known only by asking. */
function onDisconnected() {
  markUnreachable("events");
  refreshSoon({ isUrgent: true });
}

let etag = null;

async function checkForNewPage() {
  try {
    const response = await fetch("/", { method: "HEAD" });
    const found = response.headers.get("ETag");
    byId("renewed").hidden = etag === null || found === etag;
    etag ??= found;
  } catch { /* the next reconnect tries again */ }
}

async function signOut() {
  try {
    await request("/logout", {});
    location.reload();
  } catch (error) {
    toast("stopped", `Signing out failed: ${error.message}`);
  }
}

function showWorld({ is_simulated: isOfSimulator, started_at: startedAt }) {
  isSimulated = isOfSimulator;
  byId("simulated").hidden = !isSimulated;
  daemonStartedAt = startedAt;
}

const TICKS_OF_TABLE = 5; // its words are as short as `4 min`

let ticks = 0;

/** Update whatever is relative to the current time. */
function tick() {
  if (document.hidden) return;
  ticks += 1;
  if (unreachable.size > 0) showConnection();
  if (streams.length === 0) {
    if (outageSince() !== null) showVerdict();
  } else if (!isTable || ticks % TICKS_OF_TABLE === 0) showAll();
}

function wire() {
  byId("theme").onclick = chooseNextTheme;
  byId("sign-out").onclick = signOut;
  byId("reload").onclick = () => location.reload();
  byId("streams-filter").onsubmit = (submitted) => submitted.preventDefault();
  byId("find").oninput = findStreams;
  byId("more-streams").onclick = showMoreStreams;
  byId("of-dead-letters").onchange = () => {
    maxDeadLetters = DEAD_LETTERS_AT_ONCE;
    refreshSoon({ deadLetters: true, isUrgent: true });
  };
  byId("more-dead-letters").querySelector("button").onclick = showMoreDeadLetters;
  byId("discard-cancel").onclick = () => byId("discard").close();
  byId("drawer-close").onclick = closeDrawer;
  wireButtons(byId("drawer"), () => streamByKey(drawerKey));
  document.onkeydown = ({ key }) => {
    if (key === "Escape" && !byId("discard").open) closeDrawer();
  };
  for (const choice of document.querySelectorAll("[name=which]")) choice.onchange = showWhichEvents;
  wireChart();
  document.onvisibilitychange = () => refreshSoon({ isUrgent: true });
  setInterval(tick, 1000);
}

showTheme(chosenTheme());
setText(byId("zone"), zoneInWords());
makeTableHead();
const opened = readFilter();
wire();
await refreshDaemon();
await refresh();
if (opened !== null && streamByKey(opened) !== undefined) openDrawer(opened);
subscribe({ onEvent, onConnected, onDisconnected });
await Promise.all([refreshForever(), watchDaemonForever()]);
