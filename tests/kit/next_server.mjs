// Serves the route handlers of docs/supabase as Next.js does, for the tests: a web Request in, a web Response out.
// Next.js and Supabase are stubs: the cookie `streams` says which rows of `pages` Supabase would show to the user.

import { AsyncLocalStorage } from "node:async_hooks";
import { createServer } from "node:http";
import { registerHooks } from "node:module";
import { Readable } from "node:stream";
import { pathToFileURL } from "node:url";

const recipe = process.argv[2];
const jar = new AsyncLocalStorage();

function createServerClient(url, key, { cookies }) {
  if (url !== "https://supabase.example" || key !== "public") throw new Error("not the variables of the environment");
  const streams = cookies.getAll().find((each) => each.name === "streams")?.value.split(".").filter(Boolean);
  const rows = streams?.map((each) => ({ platform: each.split(":")[0], page_id: each.split(":")[1] }));
  const tables = { "milepost.pages": { "platform, page_id": { data: rows, error: null } } };
  return {
    auth: { getUser: async () => ({ data: { user: rows ? { id: "1" } : null } }) },
    schema: (schema) => ({ from: (table) => ({ select: async (columns) => tables[`${schema}.${table}`][columns] }) }),
  };
}

globalThis.stubs = { createServerClient, cookies: async () => ({ getAll: () => jar.getStore() }) };
const STUBS = { "@supabase/ssr": "createServerClient", "next/headers": "cookies" };

registerHooks({
  resolve(specifier, context, next) {
    const name = STUBS[specifier];
    if (name) return { url: `data:text/javascript,export const ${name} = globalThis.stubs.${name};`, shortCircuit: true };
    if (!specifier.startsWith("@/lib/")) return next(specifier, context);
    return next(pathToFileURL(`${recipe}/${specifier.slice("@/lib/".length)}.ts`).href, context);
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
  const cookies = (headers.get("Cookie") ?? "").split("; ").filter(Boolean).map((each) => each.split("="));
  const answer = await jar.run(cookies.map(([name, value]) => ({ name, value })), () => handler(asked));
  response.writeHead(answer.status, Object.fromEntries(answer.headers));
  try {
    for await (const piece of answer.body ?? []) response.write(piece);
  } catch (error) {
    if (!gone.signal.aborted) throw error;
  }
  response.end();
});
server.listen(0, "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}`));
