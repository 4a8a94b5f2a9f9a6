import { readFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { constants, Script } from 'node:vm'
import { sha256 } from '../shared/names.ts'
import { readCacheFile, writeCacheFile } from './cache-file.ts'
import { readSurroundings } from './config.ts'
import { letYoungSpaceGrow } from './young-space.ts'

// build.ts puts this before the program, which stands in the same file as one long comment. So V8 does not read the program
// to run this, and this hands V8 what it compiled when the same command ran last: the compiling is a quarter of what
// `status` takes.

/** Put in by build.ts. */
declare const __TARMAC_PROGRAM_BEGINS__: string
declare const __TARMAC_PROGRAM_LENGTH__: number
declare const __TARMAC_COMMENT_END__: string

/** V8 keeps only the functions that ran, so each command has a file of its own. */
const COMMANDS = [
  ...['push', 'rollback', 'prune', 'restart', 'stop', 'start', 'env'],
  ...['status', 'releases', 'deploys', 'doctor', 'logs', 'init', 'pack', 'keys', 'trust'],
]
const HELP = ['--help', '-h', 'help']
const COMMENT_END = '*/'

runProgram(COMMANDS.find((command) => process.argv.includes(command)) ?? 'other')

function runProgram(command: string): void {
  const { cacheDir, isCi } = readSurroundings()
  const name = `code-${command}`
  const text = readFileSync(__filename, 'utf8')
  const { program, line } = programIn(text)
  // In CI a cache may come from another job.
  const cachedData = isCi ? undefined : codeIn(readCacheFile(cacheDir, name), text)
  const script = new Script(`(function (exports, require, module, __filename, __dirname) {${program}\n})`, {
    filename: __filename,
    lineOffset: line,
    ...(cachedData && { cachedData }),
    importModuleDynamically: constants.USE_MAIN_CONTEXT_DEFAULT_LOADER,
  })
  script.runInThisContext()(exports, require, module, __filename, dirname(__filename))
  if (isCi || script.cachedDataRejected === false) return
  process.once('exit', (status) => {
    // One that failed, or only helped, has not compiled what the next one needs.
    if (status !== 0 || HELP.some((word) => process.argv.includes(word))) return
    letYoungSpaceGrow()
    writeCacheFile(cacheDir, name, () => {
      const code = script.createCachedData()
      return [`${labelOf(code, text)}\n`, code]
    })
  })
}

/** And the line in which it begins, from 0. */
function programIn(text: string): { program: string; line: number } {
  const begins = text.indexOf(__TARMAC_PROGRAM_BEGINS__) + __TARMAC_PROGRAM_BEGINS__.length
  const ends = begins + __TARMAC_PROGRAM_LENGTH__
  if (begins < __TARMAC_PROGRAM_BEGINS__.length || text.slice(ends, ends + COMMENT_END.length) !== COMMENT_END)
    throw new Error(`${__filename} was changed since it was built: install it again`)
  const program = text.slice(begins, ends).replaceAll(__TARMAC_COMMENT_END__, COMMENT_END)
  return { program, line: text.slice(0, begins).split('\n').length - 1 }
}

/** V8 looks at its own version, its flags and the length of the text, and believes the rest. */
function labelOf(code: Buffer, text: string): string {
  return `${sha256(text)} ${process.version} ${process.arch} ${sha256(code)}`
}

/** What was compiled of this text, to the last bit. */
function codeIn(bytes: Buffer | undefined, text: string): Buffer | undefined {
  if (bytes === undefined) return undefined
  const labelEnd = bytes.indexOf('\n')
  const code = bytes.subarray(labelEnd + 1)
  return bytes.toString('latin1', 0, labelEnd) === labelOf(code, text) ? code : undefined
}
