import { readFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { constants, Script } from 'node:vm'
import { sha256 } from '../shared/names.ts'
import { readCacheFile, writeCacheFile } from './cache-file.ts'
import { readSurroundings } from './config.ts'
import { letYoungSpaceGrow } from './young-space.ts'

// build.ts puts this before the program, which stands in the same file as one long comment. So V8 does not read the program
// to run this, and this hands V8 what it compiled when the same command ran last: half of what a quick command takes is
// the compiling.

/** Put in by build.ts. */
declare const __TARMAC_BUILD__: string
declare const __TARMAC_PROGRAM_BEGINS__: string
declare const __TARMAC_COMMENT_END__: string

/** V8 keeps only the functions that ran, so each command has a file of its own. */
const COMMANDS = [
  ...['push', 'rollback', 'prune', 'restart', 'stop', 'start', 'env'],
  ...['status', 'releases', 'deploys', 'doctor', 'logs', 'init', 'pack', 'keys', 'trust'],
]
const COMMENT_END = '*/'

runProgram(COMMANDS.find((command) => process.argv.includes(command)) ?? 'other')

function runProgram(command: string): void {
  const { cacheDir, isCi } = readSurroundings()
  const name = `code-${command}`
  // In CI a cache may come from another job.
  const cachedData = isCi ? undefined : codeIn(readCacheFile(cacheDir, name))
  const text = readFileSync(__filename, 'utf8')
  const begins = text.indexOf(__TARMAC_PROGRAM_BEGINS__) + __TARMAC_PROGRAM_BEGINS__.length
  const program = text.slice(begins, text.lastIndexOf(COMMENT_END)).replaceAll(__TARMAC_COMMENT_END__, COMMENT_END)
  const script = new Script(`(function (exports, require, module, __filename, __dirname) {${program}\n})`, {
    filename: __filename,
    lineOffset: text.slice(0, begins).split('\n').length - 1,
    ...(cachedData && { cachedData }),
    importModuleDynamically: constants.USE_MAIN_CONTEXT_DEFAULT_LOADER,
  })
  script.runInThisContext()(exports, require, module, __filename, dirname(__filename))
  if (isCi || script.cachedDataRejected === false) return
  process.once('exit', (status) => {
    // One that failed has not compiled what the next one needs.
    if (status !== 0) return
    letYoungSpaceGrow()
    writeCacheFile(cacheDir, name, () => {
      const code = script.createCachedData()
      return [`${labelOf(code)}\n`, code]
    })
  })
}

/** V8 looks at its own version, its flags and the length of the text, and believes the rest. */
function labelOf(code: Buffer): string {
  return `${__TARMAC_BUILD__} ${process.version} ${process.arch} ${sha256(code)}`
}

/** What this build kept, to the last bit. */
function codeIn(bytes: Buffer | undefined): Buffer | undefined {
  if (bytes === undefined) return undefined
  const labelEnd = bytes.indexOf('\n')
  const code = bytes.subarray(labelEnd + 1)
  return bytes.toString('latin1', 0, labelEnd) === labelOf(code) ? code : undefined
}
