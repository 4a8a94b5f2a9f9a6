import type { Context } from 'hono'
import type { Metrics } from '../watch/metrics.ts'

export async function answerScrape(metrics: Metrics, c: Context): Promise<Response> {
  const { text, type } = await metrics.scrape()
  return c.body(text, 200, { 'content-type': type })
}
