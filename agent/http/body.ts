import type { IncomingMessage } from 'node:http'
import type { Context } from 'hono'
import * as v from 'valibot'
import { Failure } from '../../shared/failure.ts'

/** The whole of it, read by hand: Hono's own readers would hold whatever is sent. Throws `limit_exceeded`. */
export async function smallBody(c: Context, maxBytes: number): Promise<string> {
  const incoming = c.env.incoming as IncomingMessage
  const chunks: Buffer[] = []
  let bytes = 0
  // A refusal must still be answered: leaving the loop must not close the connection.
  for await (const chunk of incoming.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
    bytes += chunk.length
    if (bytes > maxBytes) {
      throw new Failure('limit_exceeded', `read request: a body of ${bytes} bytes or more; the limit is ${maxBytes}`)
    }
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString()
}

/** An object of these keys and no others. valibot takes an array for an object without keys: a `[]` would ask for the default. */
export const bodySchema = <T extends v.ObjectEntries>(entries: T) =>
  v.pipe(
    v.unknown(),
    v.check((value) => !Array.isArray(value)),
    v.strictObject(entries),
  )

/** Undefined, which no schema takes, for what is no JSON: garbage must not ask for the default. */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
