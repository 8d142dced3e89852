// lib/milepost.ts: Milepost's HTTP API for the server side of a front end. Its address and token are in the environment
// of the server (MILEPOST_URL, MILEPOST_TOKEN) and never reach a browser. `streams` are those that the user may see,
// such as "messenger:1234567890"; null means that nobody has signed in.

const PASSED_ON = ["Content-Type", "Retry-After"];

/** Follow the events of the user's streams, or of those of them that the page asks for, as server-sent events. */
export async function follow(request: Request, streams: string[] | null): Promise<Response> {
  if (streams === null) return problem(401, "sign in first");
  const asked = new URL(request.url).searchParams;
  const wanted = asked.has("stream") ? streams.filter((each) => asked.getAll("stream").includes(each)) : streams;
  if (wanted.length === 0) return new Response(null, { status: 204 }); // an EventSource does not reconnect
  const query = new URLSearchParams(wanted.map((each) => ["stream", each]));
  const last = asked.get("last");
  if (last !== null) query.set("last", last);
  const headers = new Headers();
  const lastEventId = request.headers.get("Last-Event-ID");
  if (lastEventId !== null) headers.set("Last-Event-ID", lastEventId);
  return ask(`/api/events?${query}`, { headers, signal: request.signal });
}

/** Sync a stream of the user now. The body is {"stream": "messenger:1234567890"}, and "full": true for all of it. */
export async function sync(request: Request, streams: string[] | null): Promise<Response> {
  if (streams === null) return problem(401, "sign in first");
  if (request.headers.get("Content-Type") !== "application/json") return problem(415, "send JSON");
  const { stream, full } = (await request.json().catch(() => null)) ?? {};
  if (!streams.includes(stream)) return problem(404, "there is no such stream, or it is not yours");
  return ask(`/api/streams/${encodeURIComponent(stream)}/sync`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ full: full === true }),
    signal: request.signal,
  });
}

async function ask(path: string, init: RequestInit): Promise<Response> {
  const headers = new Headers(init.headers);
  const token = process.env.MILEPOST_TOKEN;
  if (token) headers.set("Authorization", `Bearer ${token}`);
  let answer: Response;
  try {
    const url = new URL(path, process.env.MILEPOST_URL ?? "http://127.0.0.1:9464");
    answer = await fetch(url, { ...init, headers, cache: "no-store" });
  } catch {
    return problem(503, "Milepost does not answer");
  }
  if (answer.status === 401) return problem(502, "Milepost does not accept MILEPOST_TOKEN"); // not the user's fault
  // no-transform: what is compressed on the way is held back until there is enough of it.
  const passed = new Headers({ "Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no" });
  for (const name of PASSED_ON) {
    const value = answer.headers.get(name);
    if (value !== null) passed.set(name, value);
  }
  return new Response(answer.body, { status: answer.status, headers: passed });
}

function problem(status: number, detail: string): Response {
  const headers = { "Content-Type": "application/problem+json", "Cache-Control": "no-store" };
  return new Response(JSON.stringify({ type: "about:blank", status, detail }), { status, headers });
}
