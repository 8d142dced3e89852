// Serves the route handlers of docs/supabase as Next.js does, for the tests: a web Request in, a web Response out.
// Who has signed in stands in the header X-Streams here, instead of a cookie that only Supabase could check.

import { AsyncLocalStorage } from "node:async_hooks";
import { createServer } from "node:http";
import { registerHooks } from "node:module";
import { Readable } from "node:stream";
import { pathToFileURL } from "node:url";

const recipe = process.argv[2];
const user = (globalThis.user = new AsyncLocalStorage());
const STREAMS = "data:text/javascript,export const streamsOfUser = async () => globalThis.user.getStore();";

registerHooks({
  resolve(specifier, context, next) {
    if (specifier === "@/lib/streams") return { url: STREAMS, shortCircuit: true };
    if (specifier === "@/lib/milepost") return next(pathToFileURL(`${recipe}/milepost.ts`).href, context);
    return next(specifier, context);
  },
});

const routes = {
  "/api/milepost/events": await import(pathToFileURL(`${recipe}/events.route.ts`).href),
  "/api/milepost/sync": await import(pathToFileURL(`${recipe}/sync.route.ts`).href),
};

const server = createServer(async (request, response) => {
  const url = new URL(request.url, `http://${request.headers.host}`);
  const handler = routes[url.pathname]?.[request.method];
  if (!handler) return response.writeHead(405).end();
  const gone = new AbortController();
  response.on("close", () => gone.abort());
  const body = request.method === "GET" ? undefined : Readable.toWeb(request);
  const headers = new Headers(Object.entries(request.headers));
  const asked = new Request(url, { method: request.method, headers, body, duplex: "half", signal: gone.signal });
  const answer = await user.run(JSON.parse(headers.get("X-Streams") ?? "null"), () => handler(asked));
  response.writeHead(answer.status, Object.fromEntries(answer.headers));
  try {
    for await (const piece of answer.body ?? []) response.write(piece);
  } catch (error) {
    if (!gone.signal.aborted) throw error;
  }
  response.end();
});
server.listen(0, "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}`));
