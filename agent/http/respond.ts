import type { IncomingMessage } from 'node:http'
import type { Context } from 'hono'
import type { ContentfulStatusCode } from 'hono/utils/http-status'
import { Failure, reasonOf } from '../../shared/failure.ts'
import type { Agent } from '../agent.ts'
import { asFailure } from '../state/trouble.ts'

/** The only place where a failure becomes a status. A bug is told as one, and its story stays in the log. */
export function respondTo(thrown: unknown, c: Context, { layout, log }: Pick<Agent, 'layout' | 'log'>): Response {
  const about = { method: c.req.method, path: c.req.path }
  const known = asFailure(`answer ${c.req.method} ${c.req.path}`, thrown, layout.root)
  if (known !== undefined) {
    log.info({ ...about, code: known.code }, known.message)
    return c.json(known.toRefusal(), known.status as ContentfulStatusCode)
  }
  // It is what ended the request itself; nobody reads the answer.
  if (thrown === (c.env.incoming as IncomingMessage).errored) log.info(about, 'the client hung up')
  else log.error({ ...about, err: thrown }, 'a bug in the agent')
  const failure = new Failure('internal', `a bug in the agent: ${reasonOf(thrown)}`, {
    hint: 'the agent log says more: journalctl -u tarmac-agent',
  })
  return c.json(failure.toRefusal(), 500)
}
