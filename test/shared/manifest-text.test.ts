import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Entry, type Manifest, parseManifest } from '../../shared/manifest.ts'
import { comparingText, parsingText } from '../../shared/manifest-text.ts'
import { sha256 } from '../../shared/names.ts'
import { drained } from '../../shared/turns.ts'
import { manifestOf, randomFrom } from '../helpers/raw-release.ts'

/** Enough for several portions. */
const COUNT = 9_000

function filesOf(count: number): Entry[] {
  const entryOf = (index: number): Entry => {
    const path = `dir/${String(index).padStart(6, '0')} "},{"path":`
    if (index % 7 === 0) return { path, link: 'x' }
    return index % 11 === 0 ? { path, dir: true } : { path, mode: '0644', size: index, sha256: sha256(`${index}`) }
  }
  return Array.from({ length: count }, (_, index) => entryOf(index))
}

const TEXT = JSON.stringify(manifestOf(filesOf(COUNT)))

function turnsOf<T>(work: Generator<undefined, T>): { turns: number; value: T } {
  for (let turns = 0; ; turns++) {
    const step = work.next()
    if (step.done) return { turns, value: step.value }
  }
}

function outcomeOf(parse: () => unknown): unknown {
  try {
    return parse()
  } catch (error) {
    return (error as Error).name
  }
}

test('a big one is parsed and compared in portions, and is what JSON says', () => {
  const { turns, value } = turnsOf(parsingText(TEXT))
  assert.ok(turns >= 3, `${turns} turns`)
  assert.deepEqual(value, JSON.parse(TEXT))
  const compared = turnsOf(comparingText(value as Manifest, TEXT))
  assert.ok(compared.value && compared.turns >= 3, `${compared.turns} turns`)
  assert.equal(parseManifest(TEXT).text, TEXT)
})

test('a text that was changed anywhere is what JSON says of it, and told from the good one', {
  timeout: 120_000,
}, () => {
  const below = randomFrom(28)
  const bits = ['{"path":', '},{"path":', ']}', '[', '{', '"', '\\', ',"files":[', '],"more":[', '},', ' ', 'é', ',']
  const manifest = JSON.parse(TEXT) as Manifest
  for (let round = 0; round < 150; round++) {
    let text = TEXT
    for (let times = 1 + below(2); times > 0; times--) {
      const at = round % 3 === 0 ? text.length - below(40) : below(text.length)
      text = text.slice(0, at) + (bits[below(bits.length)] ?? '') + text.slice(at + below(3) * below(200))
    }
    assert.deepEqual(
      outcomeOf(() => drained(parsingText(text))),
      outcomeOf(() => JSON.parse(text)),
      `round ${round}`,
    )
    assert.equal(drained(comparingText(manifest, text)), text === TEXT, `round ${round}`)
  }
})

test('a portion may be empty, or full, or the last one of one file', () => {
  for (const count of [0, 1, 1_999, 2_000, 2_001, 4_000]) {
    const text = JSON.stringify(manifestOf(filesOf(count)))
    const manifest = drained(parsingText(text)) as Manifest
    assert.equal(manifest.files.length, count)
    assert.ok(drained(comparingText(manifest, text)), `${count}`)
    assert.equal(drained(comparingText(manifest, `${text} `)), false)
    assert.equal(drained(comparingText({ ...manifest, app: 'other' } as unknown as Manifest, text)), false)
    assert.equal(drained(comparingText({ ...manifest, files: manifest.files.slice(1) }, text)), count === 0)
  }
})
