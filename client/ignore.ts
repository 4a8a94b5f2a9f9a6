import ignore, { type Ignore } from 'ignore'

// What of a directory goes into a release. `.tarmacignore` has gitignore's syntax and its meaning in subdirectories:
// the last line that matches decides, a deeper file's lines come after a higher one's, and nothing inside an ignored
// directory can be taken back.

export const IGNORE_FILE = '.tarmacignore'
export const PROJECT_FILE = 'tarmac.toml'

/** Never in a release, wherever it lies: history, and what is meant for this tool alone, as is the project file at the top. */
const ALWAYS: ReadonlySet<string> = new Set(['.git', IGNORE_FILE])
/** Bundles that lie at the top, where `tarmac pack` put them. A line of a .tarmacignore can take them back. */
const BUNDLES = '.tarmac'
/** Secrets, as a rule. Only a line that says `.env` itself, as `!.env.example`, takes one back: `!*` meant other things. */
const SECRETS = ['.env*']

/** Of tarmac.toml: `[build] include` and `exclude` in gitignore's syntax, `shared` as plain paths. */
export interface Choice {
  /** Only what matches is taken; a directory with all that is in it, so take away from that with `exclude`, not with `!`. */
  include?: string[]
  /** Taken away, whatever a .tarmacignore says. */
  exclude?: string[]
  /** Directories that live on the host: what lies there here stays here. */
  shared?: string[]
}

/** The `name` is the last part of the path. */
export interface Asked {
  path: string
  name: string
  isDirectory: boolean
}

/** The rules that hold in one directory and below. Made once for the top, and anew where a .tarmacignore lies. */
export interface Rules {
  /** False: it is ignored, and when it is a directory nothing in it is looked at. */
  allows(entry: Asked): boolean
  /** True when no include is given, or one matches the path or a directory above it. */
  includes(path: string, isDirectory: boolean): boolean
  /** These rules and the lines of a .tarmacignore in the directory `dir` ('' for the top). */
  with(dir: string, ignoreFile: string): Rules
}

export function rulesOf(choice: Choice): Rules {
  const shared = (choice.shared ?? []).map((path) => `/${literal(path)}`)
  const chosen = listOf([...(choice.exclude ?? []), ...shared])
  const include = choice.include === undefined ? undefined : rules(choice.include)
  const includes: Rules['includes'] = (path, isDirectory) => include?.ignores(asked(path, isDirectory)) ?? true
  const under = (usual: Ignore | undefined, secrets: Ignore): Rules => ({
    // To ask the package takes a microsecond for each pattern; most of ours can be told by the name not to match.
    allows: ({ path, name, isDirectory }) => {
      const isHidden = name.startsWith('.')
      if ((isHidden && ALWAYS.has(name)) || path === PROJECT_FILE) return false
      if (usual === undefined ? name === path && name.endsWith(BUNDLES) : usual.ignores(asked(path, isDirectory)))
        return false
      if (chosen?.ignores(asked(path, isDirectory))) return false
      return !(isHidden && name.startsWith('.env') && secrets.ignores(asked(path, isDirectory)))
    },
    includes,
    with: (dir, ignoreFile) => {
      const lines = linesFor(dir, ignoreFile)
      const aboutSecrets = lines.filter((line) => line.startsWith('!') && line.includes('.env'))
      return under(rules(usual ?? [`/*${BUNDLES}`]).add(lines.join('\n')), rules(secrets).add(aboutSecrets.join('\n')))
    },
  })
  return under(undefined, rules(SECRETS))
}

function listOf(patterns: string[]): Ignore | undefined {
  return patterns.length === 0 ? undefined : rules(patterns)
}

/** Names on Linux differ by case, and so do git's patterns there; the package's default is the other way. */
function rules(patterns: string[] | Ignore): Ignore {
  return ignore({ ignorecase: false }).add(patterns)
}

/** The package knows a directory by the slash after it. */
function asked(path: string, isDirectory: boolean): string {
  return isDirectory ? `${path}/` : path
}

/**
 * A deeper file's lines, said from the top: `x` in `a/b` is `/a/b/**` + `/x`, `/x` and `x/y` are `/a/b/x` and `/a/b/x/y`.
 * One list for the whole tree gives git's order of precedence without asking several lists who decides.
 */
function linesFor(dir: string, ignoreFile: string): string[] {
  const prefix = `/${literal(dir)}/`
  const lines = ignoreFile.replace(/^\uFEFF/, '').split(/\r?\n/)
  if (dir === '') return lines
  return lines.flatMap((line) => {
    if (line.startsWith('#')) return []
    const negative = line.startsWith('!')
    // Blanks at the end do not count, unless escaped.
    const pattern = (negative ? line.slice(1) : line).replace(/(?<!\\) +$/, '')
    if (pattern === '') return []
    const anchored = pattern.slice(0, -1).includes('/')
    return [`${negative ? '!' : ''}${prefix}${anchored ? pattern.replace(/^\//, '') : `**/${pattern}`}`]
  })
}

function literal(path: string): string {
  return path.replace(/[\\*?[\]]/g, '\\$&')
}
