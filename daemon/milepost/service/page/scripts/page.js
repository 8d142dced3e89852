// The start of the page: wires everything up.

function onEvent(event, id) {
  addEvent(event, id);
  refreshSoon({ deadLetters: ABOUT_DEAD_LETTERS.includes(event.type) });
}

/** After an outage anything may have changed, even the page itself. */
function onConnected() {
  markReachable("events");
  refreshSoon();
  checkForNewPage();
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

/** Update whatever is relative to the current time. */
function tick() {
  if (document.hidden) return;
  showConnection();
  if (streams.length > 0) showStreams();
  if (streams.length > 0 || outageSince() !== null) showVerdict();
}

function wire() {
  byId("theme").onclick = chooseNextTheme;
  byId("sign-out").onclick = signOut;
  byId("reload").onclick = () => location.reload();
  byId("streams-filter").onsubmit = (submitted) => submitted.preventDefault();
  byId("find").oninput = byId("of-state").onchange = filterStreams;
  byId("more-streams").onclick = showMoreStreams;
  byId("of-dead-letters").onchange = () => { maxDeadLetters = DEAD_LETTERS_AT_ONCE; refreshSoon(); };
  byId("more-dead-letters").onclick = showMoreDeadLetters;
  byId("discard-cancel").onclick = () => byId("discard").close();
  for (const choice of document.querySelectorAll("[name=which]")) choice.onchange = showWhichEvents;
  byId("chart").onpointermove = pointAt;
  byId("chart").onpointerleave = () => setText(byId("chart-point"), "");
  new ResizeObserver(drawChart).observe(byId("chart"));
  document.onvisibilitychange = () => refreshSoon();
  setInterval(tick, 1000);
}

showTheme(chosenTheme());
setText(byId("zone"), zoneInWords());
wire();
await refreshDaemon();
await refresh();
subscribe({ onEvent, onConnected, onDisconnected: () => markUnreachable("events") });
await Promise.all([refreshForever(), watchDaemonForever()]);
