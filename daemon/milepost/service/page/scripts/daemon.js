// The daemon: asking it, hearing from it, and whether it is there.

const PATIENCE_MS = 15_000;
const BUSY_MS = 35_000; // for what the daemon does at once or, after 30 s, without us
const AGAIN_MS = 3_000;
const LAST_EVENTS = 50;
const MAX_LAST_EVENTS = 500;

let aheadMs = 0; // of this machine's clock, the daemon's

function now() {
  return new Date(Date.now() + aheadMs);
}

/** What the daemon says no with: in words, for people. */
class Refusal extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** Ask the daemon, or tell it to do something where there is a body. Throws a Refusal. */
async function ask(path, body) {
  const init = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  let response;
  try {
    response = await fetch(path, { ...init, signal: AbortSignal.timeout(body === undefined ? PATIENCE_MS : BUSY_MS) });
  } catch (error) {
    const isLate = error.name === "TimeoutError";
    throw new Refusal(isLate ? "the daemon did not answer in time" : "the daemon is not reachable", 0);
  }
  if (response.status === 401) location.reload(); // the daemon answers with the form to sign in
  if (!response.ok) throw new Refusal(await reasonOf(response), response.status);
  return response.status === 204 ? null : response.json();
}

async function reasonOf(response) {
  try {
    const problem = await response.json();
    return problem.detail ?? problem.title;
  } catch {
    return `the daemon answered ${response.status} ${response.statusText}`;
  }
}

/** Walk all pages of a list. */
async function askForAll(path, name) {
  const found = [];
  let answer = { next: null };
  do {
    const after = answer.next === null ? "" : `&after=${encodeURIComponent(answer.next)}`;
    answer = await ask(`${path}?limit=1000${after}`);
    found.push(...answer[name]);
  } while (answer.next !== null);
  if (answer.at) aheadMs = new Date(answer.at) - Date.now();
  return found;
}

/**
 * Listen to the events for good. The browser itself reconnects after a broken connection, with the id of the last
 * event; where it gave up, because somebody else answered, this begins anew and leaves out what was heard already.
 * What has no type is told live only, and has no id of its own.
 */
function listen({ heard, connected, broken }) {
  let lastId = 0;
  const connect = () => {
    const source = new EventSource(`/api/events?last=${lastId ? MAX_LAST_EVENTS : LAST_EVENTS}`);
    source.onopen = connected;
    source.onmessage = ({ data, lastEventId }) => {
      const event = JSON.parse(data);
      const id = event.type === undefined ? null : Number(lastEventId);
      if (id !== null && id <= lastId) return;
      lastId = id ?? lastId;
      heard(event, id);
    };
    source.onerror = () => {
      broken();
      if (source.readyState === EventSource.CLOSED) setTimeout(connect, AGAIN_MS);
    };
  };
  connect();
}
