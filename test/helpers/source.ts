import { readFileSync } from 'node:fs'
import { join } from 'node:path'

// TypeScript read as tokens, for test/boundaries.test.ts: enough to tell code from comments and texts, and to find
// imports. The compiler's own API would do it too, but in TypeScript 7 that is a separate process and marked unstable.

export interface Import {
  /** As written: `../shared/names.ts`, `node:fs`, `hono`. */
  from: string
  /** A file of ours as a path from the checkout's root; else the package or built-in: `hono`, `node:fs`. */
  target: string
  /** The names taken out, as the other side calls them; `*` for all of it, empty for `import 'x'`. */
  names: string[]
  /** `import type`: gone when it runs. */
  typeOnly: boolean
  line: number
}

export interface Source {
  /** From the checkout's root, with slashes. */
  path: string
  /** The text with every comment, and the inside of every text and regular expression, blanked; lines and columns stay. */
  code: string
  imports: Import[]
  lines: number
}

export function readSource(root: string, path: string): Source {
  return sourceOf(path, readFileSync(join(root, path), 'utf8'))
}

export function sourceOf(path: string, text: string): Source {
  const code = blanked(text)
  return {
    path,
    code,
    imports: importsOf(path, text, code),
    lines: text.split('\n').length - (text.endsWith('\n') ? 1 : 0),
  }
}

/** The line, counted from 1, of a place in `code`. */
export function lineAt(code: string, index: number): number {
  return code.slice(0, index).split('\n').length
}

const TOKENS: [kind: 'comment' | 'text' | 'regex' | 'word' | 'other', pattern: RegExp][] = [
  ['comment', /\/\/.*|\/\*[\s\S]*?\*\//y],
  ['text', /'(?:\\[\s\S]|[^'\\\n])*'|"(?:\\[\s\S]|[^"\\\n])*"/y],
  ['regex', /\/(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n[])+\/[a-z]*/y],
  ['word', /[\w$#]+/y],
  ['other', /[\s\S]/y],
]
/** After one of these a slash begins a regular expression; after any other word, `)`, `]` or `}` it divides. */
const BEFORE_REGEX = /^(return|typeof|case|in|of|do|else|void|delete|throw|new|await|yield|[^\w$#)\]}])$/

function blanked(text: string): string {
  let out = ''
  let before = ';'
  /** Of each template we are in: how many braces are open inside its present `${}`. */
  const templates: number[] = []
  while (out.length < text.length) {
    const { kind, token } = tokenAt(text, out.length, before)
    const depth = templates.at(-1)
    if (kind === 'comment') {
      out += blank(token)
      continue
    }
    before = kind === 'other' && /\s/.test(token) ? before : token
    if (kind === 'text' || kind === 'regex') {
      out += token.charAt(0) + blank(token.slice(1, -1)) + token.charAt(0)
      before = ')' // a value: what follows divides it
    } else if (token === '`' || (token === '}' && depth === 0)) {
      if (token === '}') templates.pop()
      const end = templateEnd(text, out.length + 1)
      out += token + blank(text.slice(out.length + 1, end))
      if (text.startsWith('${', end)) {
        out += '${'
        templates.push(0)
        before = '{'
      } else if (end < text.length) {
        out += '`'
        before = ')'
      }
    } else {
      if (depth !== undefined && token === '{') templates[templates.length - 1] = depth + 1
      if (depth !== undefined && token === '}') templates[templates.length - 1] = depth - 1
      out += token
    }
  }
  return out
}

function tokenAt(text: string, index: number, before: string) {
  for (const [kind, pattern] of TOKENS) {
    if (kind === 'regex' && !BEFORE_REGEX.test(before)) continue
    pattern.lastIndex = index
    const token = pattern.exec(text)?.[0]
    if (token !== undefined) return { kind, token }
  }
  throw new Error(`no token at ${index}`) // cannot be: the last pattern takes anything
}

/** Where the template's text that begins at `index` ends: at its next `${`, its backtick, or the end of the file. */
function templateEnd(text: string, index: number): number {
  const pattern = /(?:\\[\s\S]|\$(?!\{)|[^\\`$])*/y
  pattern.lastIndex = index
  return index + (pattern.exec(text)?.[0].length ?? 0)
}

function blank(text: string): string {
  return text.replace(/[^\n]/g, ' ')
}

const IMPORT =
  /\b(?<keyword>import|export)\b(?<type>\s+type\b(?!\s+from\b|\s*,))?(?<clause>[\s\w$*,{}]*?)\bfrom\s*(?=['"])|\bimport\s*(?=['"])|\b(?:import|require|getBuiltinModule)\s*\(\s*(?=['"`])/g

function importsOf(path: string, text: string, code: string): Import[] {
  return [...code.matchAll(IMPORT)].map((match) => {
    const start = match.index + match[0].length + 1
    const quote = code.charAt(start - 1)
    const from = text.slice(start, code.indexOf(quote, start))
    const clause = match.groups?.clause
    const called = match[0].trimEnd().endsWith('(')
    return {
      from,
      target: targetOf(path, from),
      names: called ? ['*'] : clause === undefined ? [] : namesOf(clause),
      typeOnly: match.groups?.type !== undefined,
      line: lineAt(code, match.index),
    }
  })
}

function namesOf(clause: string): string[] {
  const [, outside = '', inside = '', more = ''] = /^([^{]*)(?:\{([^}]*)\})?(.*)$/s.exec(clause) ?? []
  const named = inside.split(',').map(
    (name) =>
      name
        .trim()
        .replace(/^type\s+/, '')
        .split(/\s+as\s+/)[0] ?? '',
  )
  const whole = `${outside},${more}`.split(',').map((name) => name.trim())
  return [
    ...whole.filter((name) => name !== '').map((name) => (name.startsWith('*') ? '*' : 'default')),
    ...named.filter(Boolean),
  ]
}

function targetOf(path: string, from: string): string {
  if (!from.startsWith('.')) return from
  return join(path, '..', from)
}
