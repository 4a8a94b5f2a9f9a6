import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { askAhead } from '../../client/ahead.ts'
import { status } from '../../client/api.ts'
import { hostsFrom, readSurroundings } from '../../client/config.ts'
import { type Context, openSigning } from '../../client/context.ts'
import { parseAppName } from '../../shared/names.ts'
import { makeWorld, type World } from '../helpers/world.ts'

const app = parseAppName('shop')

async function asking({ dir, url, project }: World, at = url) {
  const surroundings = readSurroundings({ PATH: process.env.PATH, HOME: join(dir, 'home') })
  // Nothing is said and nobody is asked in what is tried here.
  const context = { options: {}, surroundings, print: {}, cwd: project } as unknown as Context
  const [host] = hostsFrom([{ url: at }])
  assert.ok(host)
  return { host, ahead: await askAhead(context, { host, app, signing: await openSigning(context) }) }
}

test('the host that was asked gives its connection once; another one has none, nor one nobody trusts yet', async (t) => {
  const world = await makeWorld(t)
  const { host, ahead } = await asking(world)
  assert.ok(ahead)
  const [other] = hostsFrom([{ url: 'https://127.0.0.1:1' }])
  assert.equal(other && (await ahead.take(other)), undefined)
  const connection = await ahead.take(host)
  assert.ok(connection && ahead.askedOn(connection))
  assert.equal((await status(connection, undefined)).agent.init, 'embedded')
  assert.equal(await ahead.take(host), undefined)
  ahead.close()
  assert.ok(connection.isOpen, 'whoever took it closes it')
  connection.close()

  assert.equal((await asking(world, 'https://127.0.0.1:1')).ahead, undefined)
  writeFileSync(join(world.dir, 'home/.config/tarmac/known_agents'), 'not a list\n')
  assert.equal((await asking(world)).ahead, undefined, 'what is wrong with it is told where it is needed')
})

test('a connection that the agent has left is not given; one that failed is, until the agent may be back', async (t) => {
  const world = await makeWorld(t)
  const left = await asking(world)
  await world.stopAgent()
  const down = await asking(world)
  assert.equal(await left.ahead?.take(left.host), undefined)
  await assert.rejects(async () => down.ahead?.take(down.host), { code: 'agent_unreachable' })
  const long = await asking(world)
  await sleep(2_100)
  assert.equal(await long.ahead?.take(long.host), undefined)
})
