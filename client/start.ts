import { closeSync, fstatSync, openSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { constants, Script } from 'node:vm'
import { sha256 } from '../shared/names.ts'
import { writeCacheFile } from './cache-file.ts'
import { readSurroundings } from './config.ts'

// build.ts puts this before the program, which stands in the same file as one long comment. So V8 does not read the program
// to run this, and this hands V8 what it compiled when the same command ran last: half of what a quick command takes is
// the compiling. Each command has a file of its own, since V8 keeps only the functions that ran.

/** Put in by build.ts. */
declare const __TARMAC_BUILD__: string
declare const __TARMAC_PROGRAM_BEGINS__: string
declare const __TARMAC_COMMENT_END__: string

const COMMAND = /^[a-z]{1,16}$/
const WRONG_USAGE = 2
const WRITABLE_BY_OTHERS = 0o022
const COMMENT_END = '*/'

runProgram(process.argv.slice(2).find((argument) => COMMAND.test(argument)) ?? 'help')

function runProgram(command: string): void {
  const { cacheDir } = readSurroundings()
  const file = join(cacheDir, `code-${command}`)
  const cachedData = readCode(file)
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
  if (script.cachedDataRejected === false) return
  process.once('exit', (status) => {
    // A command there is not needs no file.
    if (status === WRONG_USAGE) return
    const code = script.createCachedData()
    writeCacheFile(cacheDir, file, [`${labelOf(code)}\n`, code])
  })
}

/** V8 looks at its own version and flags, but believes the rest. */
function labelOf(code: Buffer): string {
  return `${__TARMAC_BUILD__} ${process.version} ${process.arch} ${sha256(code)}`
}

/** Nothing that another user could have written: it will run with our rights. */
function readCode(file: string): Buffer | undefined {
  try {
    const descriptor = openSync(file, 'r')
    try {
      const { uid, mode } = fstatSync(descriptor)
      if (uid !== process.getuid?.() || (mode & WRITABLE_BY_OTHERS) !== 0) return undefined
      const bytes = readFileSync(descriptor)
      const labelEnd = bytes.indexOf('\n')
      const code = bytes.subarray(labelEnd + 1)
      return bytes.toString('latin1', 0, labelEnd) === labelOf(code) ? code : undefined
    } finally {
      closeSync(descriptor)
    }
  } catch {
    return undefined
  }
}
