import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { existsSync, readdirSync, statSync, utimesSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { zstdCompressSync } from 'node:zlib'
import { type Sha256, sha256 } from '../../shared/names.ts'
import { recipeHead, type Step } from '../../shared/recipe.ts'
import { rawConnect, rawRequest } from '../helpers/raw-client.ts'
import {
  fileEntry,
  groundOf,
  headEntries,
  type Json,
  MISSING,
  manifestOf,
  objectEntry,
  RELEASES,
  releaseOf,
  signedBy,
  type TarEntry,
  tarOf,
} from '../helpers/raw-release.ts'
import { type HandKey, makeHandKey } from '../helpers/ssh.ts'
import { makeWorld, type World } from '../helpers/world.ts'

// Someone who may push sends recipes that no client makes. What comes out has the digest that was signed, or nothing
// of it is left.

const KIB = 1024
const OLD = randomBytes(2 * KIB * KIB)
const NEW = Buffer.concat([OLD.subarray(0, 1000 * KIB), Buffer.from('a little'), OLD.subarray(1000 * KIB)])
const ADDED = NEW.subarray(1000 * KIB, 1000 * KIB + 8)
const STEPS: Step[] = [
  { offset: 0, copied: 1000 * KIB, added: 8 },
  { offset: 1000 * KIB, copied: OLD.length - 1000 * KIB, added: 0 },
]
const MOST = 2 ** 48 - 1

function recipeOf(over: { steps?: Step[]; added?: Buffer; basis?: Sha256 } = {}): Buffer {
  const { steps = STEPS, added = ADDED, basis = sha256(OLD) } = over
  return Buffer.concat([recipeHead({ basis, steps }), added])
}

function entryOf(recipe: Buffer, object: Buffer = NEW): TarEntry {
  return [`recipes/${sha256(object)}`, recipe]
}

interface Stage {
  world: World
  eve: HandKey
  /** A release whose one file is that, of what stands in these entries. */
  bundle(entries: TarEntry[], file?: Buffer): Buffer
  /** Sends it; it must be refused, and all be as it was. */
  refused(bundle: Buffer, code: string): Promise<void>
}

/** OLD runs already. */
async function stageOf(t: TestContext): Promise<Stage> {
  const world = await makeWorld(t)
  const eve = makeHandKey('ssh-ed25519')
  assert.equal((await world.agentCommand('signers', 'add', 'eve', eve.publicLine)).exit, 0)
  await taken(world, eve, releaseOf(eve, manifestOf([fileEntry('big.bin', OLD)]), [OLD]))
  return {
    world,
    eve,
    bundle(entries, file = NEW) {
      const manifest = manifestOf([fileEntry('big.bin', file)], { created: '2026-11-22T23:38:59Z' })
      const text = JSON.stringify(manifest)
      return zstdCompressSync(tarOf([...headEntries(text, [signedBy(eve, text)]), ...entries]))
    },
    async refused(bundle, code) {
      const before = groundOf(world.root)
      const answer = await rawRequest(world, eve, { method: 'POST', target: RELEASES, body: bundle })
      assert.equal(answer.code, code, answer.body.slice(0, 500))
      assert.deepEqual(groundOf(world.root), before)
    },
  }
}

async function taken(world: World, key: HandKey, body: Buffer, target = RELEASES): Promise<void> {
  const answer = await rawRequest(world, key, { method: 'POST', target, body })
  assert.equal(answer.lines.at(-1)?.step, 'done', answer.body.slice(0, 500))
}

test('refused: recipes that make anything else than was signed, of anything else than the app has', async (t) => {
  const { world, eve, bundle, refused } = await stageOf(t)
  const other = randomBytes(2 * KIB * KIB)
  const small = Buffer.alloc(1000, 'small')
  const manifest: Json = manifestOf([fileEntry('big.bin', other)], { app: 'other' })
  await taken(world, eve, releaseOf(eve, manifest, [other]), RELEASES.replace('shop', 'other'))
  const [first, second] = STEPS as [Step, Step]
  const withSteps = (steps: Step[]) => bundle([entryOf(recipeOf({ steps }))])
  const counted = (count: number) => {
    const recipe = recipeOf()
    recipe.writeUInt32BE(count, 32)
    return bundle([entryOf(recipe)])
  }
  const cases: Record<string, [Buffer, string]> = {
    'bytes beyond the end of the basis': [
      withSteps([{ ...first, offset: OLD.length - 10 }, second]),
      'bundle_malformed',
    ],
    'bytes far beyond it': [withSteps([{ ...first, offset: MOST }, second]), 'bundle_malformed'],
    'more of it than there is': [withSteps([{ ...first, copied: MOST }, second]), 'bundle_malformed'],
    'a byte more than was signed': [withSteps([{ ...first, copied: first.copied + 1 }, second]), 'bundle_malformed'],
    'a byte less than was signed': [withSteps([{ ...first, copied: first.copied - 1 }, second]), 'bundle_malformed'],
    'nothing at all': [withSteps([]), 'bundle_malformed'],
    'the same bytes twice, for the right size': [
      withSteps([first, { ...second, offset: 999 * KIB }]),
      'object_mismatch',
    ],
    'other new bytes': [bundle([entryOf(recipeOf({ added: Buffer.from('A little') }))]), 'object_mismatch'],
    'fewer new bytes than it uses': [bundle([entryOf(recipeOf({ added: ADDED.subarray(1) }))]), 'bundle_malformed'],
    'more new bytes than it uses': [bundle([entryOf(recipeOf({ added: Buffer.alloc(9) }))]), 'bundle_malformed'],
    'numbers that add up beyond what is exact': [
      withSteps(Array.from({ length: 100 }, () => ({ offset: 0, copied: 0, added: MOST }))),
      'bundle_malformed',
    ],
    'more steps than there are': [counted(3), 'bundle_malformed'],
    'fewer steps than there are': [counted(1), 'bundle_malformed'],
    'four billion steps': [counted(2 ** 32 - 1), 'bundle_malformed'],
    'a million tiny steps': [
      withSteps(Array.from({ length: 1_000_000 }, () => ({ offset: 0, copied: 1, added: 0 }))),
      'bundle_malformed',
    ],
    'no head': [bundle([entryOf(Buffer.alloc(35))]), 'bundle_malformed'],
    'no byte': [bundle([entryOf(Buffer.alloc(0))]), 'bundle_malformed'],
    'a basis that is not here': [bundle([entryOf(recipeOf({ basis: sha256('none') }))]), 'basis_missing'],
    'itself as its basis': [bundle([entryOf(recipeOf({ basis: sha256(NEW) }))]), 'basis_missing'],
    'a basis of another app': [bundle([entryOf(recipeOf({ basis: sha256(other) }))]), 'basis_missing'],
    'an object that was not signed': [bundle([entryOf(recipeOf(), other)]), 'object_unexpected'],
    'the same object twice': [bundle([entryOf(recipeOf()), entryOf(recipeOf())]), 'bundle_malformed'],
    'an object that came whole': [bundle([objectEntry(NEW), entryOf(recipeOf())]), 'bundle_malformed'],
    'an object that then comes whole': [bundle([entryOf(recipeOf()), objectEntry(NEW)]), 'bundle_malformed'],
    'an object so small that it comes whole': [
      bundle([entryOf(recipeOf({ steps: [{ offset: 0, copied: 1000, added: 0 }] }), small)], small),
      'bundle_malformed',
    ],
  }
  for (const [name, [body, code]] of Object.entries(cases)) await t.test(name, () => refused(body, code))

  await t.test('a basis that was written to', async () => {
    const digest = sha256(OLD)
    const path = join(world.root, 'apps/shop/objects', digest.slice(0, 2), digest.slice(2))
    const { mtime } = statSync(path)
    writeFileSync(path, Buffer.alloc(OLD.length))
    await refused(bundle([entryOf(recipeOf())]), 'basis_missing')
    writeFileSync(path, OLD)
    utimesSync(path, mtime, mtime)
  })
  await t.test('what the agent is only asked about', async () => {
    const answer = await rawRequest(world, eve, {
      method: 'POST',
      target: MISSING,
      body: bundle([entryOf(recipeOf())]),
    })
    assert.equal(answer.code, 'bundle_malformed')
  })
  await t.test('a bundle that is to stand alone', async () => {
    const file = join(world.dir, 'evil.tarmac')
    writeFileSync(file, bundle([entryOf(recipeOf())]))
    const { exit, stderr } = await world.tarmac('push', file)
    assert.equal(exit, 3)
    assert.match(stderr, /recipe/)
  })
  await t.test('and a good one is taken', () => taken(world, eve, bundle([entryOf(recipeOf())])))
})

test('an upload that is cut in the middle of a recipe leaves nothing of it', async (t) => {
  const { world, eve, bundle } = await stageOf(t)
  const before = groundOf(world.root)
  const added = randomBytes(3 * KIB * KIB)
  const whole = Buffer.concat([OLD, added])
  const recipe = recipeOf({ steps: [{ offset: 0, copied: OLD.length, added: added.length }], added })
  const body = bundle([entryOf(recipe, whole)], whole)
  const connection = await rawConnect(world)
  const head = [`POST ${RELEASES} HTTP/1.1`, 'Host: agent', `Authorization: ${connection.authorization(eve)}`]
  connection.write(`${head.join('\r\n')}\r\nContent-Length: ${body.length}\r\n\r\n`)
  connection.write(body.subarray(0, body.length / 2))
  const part = join(world.root, 'apps/shop/staging', `${sha256(whole)}.part`)
  // More than the basis has: some of what came is written.
  await until(() => existsSync(part) && statSync(part).size > OLD.length)
  connection.close()
  await until(() => readdirSync(join(world.root, 'apps/shop/staging')).length === 0)
  assert.deepEqual(groundOf(world.root), before)
})

/** Ended by the time limit of the test alone. */
async function until(isSo: () => boolean): Promise<void> {
  while (!isSo()) await sleep(10)
}
