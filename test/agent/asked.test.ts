import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Answered, createAsked } from '../../agent/deploy/asked.ts'
import { createOperations } from '../../agent/deploy/operations.ts'
import { parseAppName, type ReleaseId } from '../../shared/names.ts'

const app = parseAppName('shop')
const other = parseAppName('other')
/** What it holds is nobody's business here. */
const running = { release: {}, content: 'c', digest: 'd', whole: new Map([['ab', 1]]) } as unknown as NonNullable<
  Answered['running']
>

function stage() {
  const operations = createOperations()
  const asked = createAsked(operations)
  const push = () => operations.begin({ app, kind: 'push', who: 'ann' })
  return { operations, asked, push }
}

test('what runs is a proof for what comes if this agent has checked it', () => {
  const { asked } = stage()
  const release = { id: 'this one' } as unknown as NonNullable<typeof running>['release']
  const runs = { ...running, release }
  assert.equal(asked.proved(app, runs), undefined)
  asked.prove(app, 'another' as ReleaseId)
  assert.equal(asked.proved(app, runs), undefined)
  asked.prove(app, release.id)
  assert.equal(asked.proved(app, runs), release)
  assert.equal(asked.proved(other, runs), undefined)
  assert.equal(asked.proved(app, undefined), undefined)
})

test('what was looked up serves the next question and the push right behind it, once', () => {
  const { asked, push } = stage()
  asked.keep(app, { running }, asked.now(app))
  assert.deepEqual(asked.look(app)?.running, running)
  assert.equal(asked.look(other), undefined)
  push()
  assert.equal(asked.look(app), undefined, 'a question while something is under way')
  assert.deepEqual(asked.take(app)?.running, running)
  assert.equal(asked.take(app), undefined)
})

test('a change in between makes it worthless, also one that began while it was looked up', () => {
  const { asked, push } = stage()
  asked.keep(app, { running }, asked.now(app))
  push().end()
  assert.equal(asked.look(app), undefined)
  push()
  assert.equal(asked.take(app), undefined)

  const late = stage()
  const moment = late.asked.now(app)
  const { end } = late.push()
  late.asked.keep(app, { running }, moment)
  end()
  late.push()
  assert.equal(late.asked.take(app), undefined)
})

test('damage makes it worthless, also what was found while it was looked up', () => {
  const { asked, push } = stage()
  asked.keep(app, { running }, asked.now(app))
  asked.void(other)
  assert.deepEqual(asked.look(app)?.running, running)
  asked.void(app)
  assert.equal(asked.look(app), undefined)
  const moment = asked.now(app)
  asked.void(app)
  asked.keep(app, { running }, moment)
  push()
  assert.equal(asked.take(app), undefined)
})

test('after three seconds what runs is known still, and no more that it is whole', async () => {
  const { asked, push } = stage()
  asked.keep(app, { running }, asked.now(app))
  await sleep(3_100)
  assert.deepEqual(asked.look(app)?.running, { ...running, whole: undefined })
  push()
  assert.deepEqual(asked.take(app)?.running, { ...running, whole: undefined })
})
