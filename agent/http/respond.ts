import type { Context } from 'hono'
import type { ContentfulStatusCode } from 'hono/utils/http-status'
import { Failure, reasonOf } from '../../shared/failure.ts'
import type { Log } from '../log.ts'

/** The only place where a failure becomes a status. A bug is told as one, and its story stays in the log. */
export function respondTo(error: unknown, c: Context, log: Log): Response {
  const about = { method: c.req.method, path: c.req.path }
  if (error instanceof Failure) {
    log.info({ ...about, code: error.code }, error.message)
    return c.json(error.toRefusal(), error.status as ContentfulStatusCode)
  }
  log.error({ ...about, err: error }, 'a bug in the agent')
  const failure = new Failure('internal', `a bug in the agent: ${reasonOf(error)}`, {
    hint: 'the agent log says more: journalctl -u tarmac-agent',
  })
  return c.json(failure.toRefusal(), 500)
}
