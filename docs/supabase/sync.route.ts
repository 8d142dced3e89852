// app/api/milepost/sync/route.ts

import { sync } from "@/lib/milepost";
import { streamsOfUser } from "@/lib/streams";

export async function POST(request: Request): Promise<Response> {
  return sync(request, await streamsOfUser());
}
