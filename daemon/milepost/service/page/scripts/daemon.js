// The daemon: requests to it, and its events.

const TIMEOUT_MS = 15_000;
const ACTION_TIMEOUT_MS = 35_000; // the daemon answers after 30 s at most, and goes on in the background
const RECONNECT_MS = 3_000;
const LAST_EVENTS = 50;
const MAX_LAST_EVENTS = 500;
const HEADER_BYTES = 800; // of a request and its response, about

let aheadMs = 0; // of the daemon's clock, to this machine's
let bytesOnWire = 0; // of requests, events aside; so that a page that is left open all day costs little

function now() {
  return new Date(Date.now() + aheadMs);
}

/** A request that failed, with the reason in words for people. */
class RequestError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** Send a request to the daemon, a POST if there is a body. Throws a RequestError. */
async function request(path, body) {
  const init = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  let response;
  try {
    const timeoutMs = body === undefined ? TIMEOUT_MS : ACTION_TIMEOUT_MS;
    response = await fetch(path, { ...init, signal: AbortSignal.timeout(timeoutMs) });
  } catch (error) {
    const isLate = error.name === "TimeoutError";
    throw new RequestError(isLate ? "the daemon did not answer in time" : "the daemon is unreachable", 0);
  }
  bytesOnWire += HEADER_BYTES + Number(response.headers.get("Content-Length")); // as it was sent, compressed
  if (response.status === 401) location.reload(); // the daemon then shows the login page
  if (!response.ok) throw await errorOf(response);
  if (response.status === 204) return null;
  try {
    return await response.json();
  } catch { // the daemon has ended in the midst of it, or it took too long
    throw new RequestError("the daemon's answer was cut off", 0);
  }
}

/** Return the error of a response. If it is no problem document, a proxy answers in place of the daemon. */
async function errorOf(response) {
  const { status, headers } = response;
  const isOfDaemon = headers.get("Content-Type")?.startsWith("application/problem+json");
  const problem = isOfDaemon ? await response.json().catch(() => null) : null;
  if (problem === null) return new RequestError(`the daemon is unreachable (HTTP ${status})`, 0);
  return new RequestError(problem.detail ?? problem.title, status);
}

/**
 * Subscribe to a digest of all events, or to those of one stream, for good. After a broken connection the browser
 * reconnects by itself, with the id of the last event; if it has given up, because something else answered, this starts
 * anew and skips events that it has seen. Those of a database that was restored from a backup have lower ids again, and
 * are later. An event without a type is sent live only, and has no id of its own. A page that nobody sees does not stay
 * connected: a browser has six connections to a host, for all its pages together. Returns a function that ends it.
 */
function subscribe({ onEvent, onConnected = () => {}, onDisconnected = () => {}, last = LAST_EVENTS, stream = null }) {
  let lastId = 0;
  let latestAt = -Infinity;
  let source = null;
  let timer = null;
  const disconnect = () => {
    clearTimeout(timer);
    source?.close();
  };
  const connect = () => {
    disconnect();
    if (document.hidden) return;
    const filter = stream === null ? "&digest=true" : `&stream=${encodeURIComponent(stream)}`;
    source = new EventSource(`/api/events?last=${lastId ? MAX_LAST_EVENTS : last}${filter}`);
    source.onopen = onConnected;
    source.onmessage = ({ data, lastEventId }) => {
      const event = JSON.parse(data);
      const id = event.type === undefined ? null : Number(lastEventId);
      const at = Date.parse(event.at);
      if (id !== null && id <= lastId && at <= latestAt) return;
      if (id !== null) [lastId, latestAt] = [id, Math.max(at, latestAt)];
      onEvent(event, id);
    };
    source.onerror = () => {
      onDisconnected();
      if (source.readyState === EventSource.CLOSED) timer = setTimeout(connect, RECONNECT_MS);
    };
  };
  connect();
  document.addEventListener("visibilitychange", connect);
  return () => {
    document.removeEventListener("visibilitychange", connect);
    disconnect();
  };
}
