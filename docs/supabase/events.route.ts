// app/api/milepost/events/route.ts

import { follow } from "@/lib/milepost";
import { streamsOfUser } from "@/lib/streams";

export const dynamic = "force-dynamic";

export async function GET(request: Request): Promise<Response> {
  return follow(request, await streamsOfUser());
}
