// `npm run bench`: how fast, how big and how steady. README.md here says what is compared, and how it is made fair.
//
//   npm run bench                  beside the peers; an hour or more
//   npm run bench -- --tree small --case push-5 --link loopback --rounds 3 --peer tarmac --peer rsync
//   npm run bench -- disk | idle [--minutes 10] | stream | switches | crash-loop | growth | all
import { parseArgs } from 'node:util'
import { compare } from './compare.ts'
import { crashLoop } from './crash-loop.ts'
import { disk } from './disk.ts'
import { growth } from './growth.ts'
import { idle } from './idle.ts'
import { stream } from './stream.ts'
import { switches } from './switches.ts'
import { DIST } from './tarmac.ts'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    tree: { type: 'string', multiple: true },
    link: { type: 'string', multiple: true },
    case: { type: 'string', multiple: true },
    peer: { type: 'string', multiple: true },
    rounds: { type: 'string' },
    add: { type: 'boolean', default: false },
    minutes: { type: 'string', default: '10' },
    out: { type: 'string' },
    programs: { type: 'string', default: DIST },
  },
})
const MEASURES: Record<string, () => Promise<void>> = {
  peers: () => compare(values),
  disk: () => disk(values),
  idle: () => idle(values),
  stream: () => stream(values),
  switches: () => switches(values),
  'crash-loop': () => crashLoop(),
  growth: () => growth(values),
}
const wanted = positionals[0] === 'all' ? Object.keys(MEASURES) : positionals.length === 0 ? ['peers'] : positionals
for (const name of wanted) {
  const measure = MEASURES[name]
  if (measure === undefined) throw new Error(`bench ${name}: is none of ${Object.keys(MEASURES).join(', ')}, all`)
  await measure()
}
