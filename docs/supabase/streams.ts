// lib/streams.ts: the streams that the user of a request may see. They are those of the rows in `pages` that row-level
// security shows to this user.

import { createServerClient } from "@supabase/ssr";
import { cookies } from "next/headers";

export async function streamsOfUser(): Promise<string[] | null> {
  const jar = await cookies();
  const supabase = createServerClient(
    process.env.NEXT_PUBLIC_SUPABASE_URL!,
    process.env.NEXT_PUBLIC_SUPABASE_ANON_KEY!,
    { cookies: { getAll: () => jar.getAll(), setAll: () => {} } },
  );
  const { data: session } = await supabase.auth.getUser(); // asks Supabase: a cookie alone proves nothing
  if (session.user === null) return null;
  const { data, error } = await supabase.schema("milepost").from("pages").select("platform, page_id");
  if (error !== null) throw new Error(`the pages cannot be read: ${error.message}`);
  return data.map((page) => `${page.platform}:${page.page_id}`);
}
