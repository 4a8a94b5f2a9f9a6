import { basename, matchesGlob } from 'node:path'
import { type Import, lineAt, type Source } from './source.ts'

// The parts test/boundaries.test.ts makes its rules of.

export interface Rule {
  /** True when the rule holds. */
  title: string
  why: string
  /** `path:line: what is wrong`, one for each breach. */
  breaches: (sources: Source[]) => string[]
  /** Path → text; the rule finds exactly one breach in each. */
  bad: Record<string, string>[]
}

/** One of each side by design; every other name is unique, but for a verb (see the rule). */
const NAMED_ALIKE = ['main.ts', 'config.ts', 'run.ts', 'print.ts']
const NAME = /^[a-z0-9]+(-[a-z0-9]+)*(?:\.d)?\.ts$/
const VAGUE = /(^|-)(index|utils?|helpers?|common|manager|base|service|handler|misc)\.ts$/

/** A breach for each import of which `wrong` says what is. */
export function eachImport(wrong: (imported: Import, source: Source) => string | undefined): Rule['breaches'] {
  return (sources) =>
    sources.flatMap((source) =>
      source.imports.flatMap((imported) => {
        const what = wrong(imported, source)
        return what === undefined ? [] : [`${source.path}:${imported.line}: ${what}`]
      }),
    )
}

/** An import that `is` so may be in `allowed` only. */
export function only(allowed: string[], is: (imported: Import) => boolean): Rule['breaches'] {
  return eachImport((imported, { path }) =>
    is(imported) && !allowed.some((glob) => matchesGlob(path, glob)) ? `imports ${imported.target}` : undefined,
  )
}

/** Code that matches so may be in `allowed` only. */
export function word(pattern: RegExp, allowed: string[] = []): Rule['breaches'] {
  return (sources) =>
    sources
      .filter(({ path }) => !allowed.some((glob) => matchesGlob(path, glob)))
      .flatMap(({ path, code }) =>
        [...code.matchAll(new RegExp(pattern, 'g'))].map(
          (match) => `${path}:${lineAt(code, match.index)}: ${match[0]}`,
        ),
      )
}

export function both(...parts: Rule['breaches'][]): Rule['breaches'] {
  return (sources) => parts.flatMap((breaches) => breaches(sources))
}

/** `let` and `var` outside every bracket. */
export function variables(sources: Source[]): string[] {
  return sources.flatMap(({ path, code }) =>
    [...topLevel(code).matchAll(/(?<=^|[;}])[ \t]*(export[ \t]+)?(let|var)\b/gm)].map(
      (match) => `${path}:${lineAt(code, match.index)}: ${match[0].trim()} outside a function`,
    ),
  )
}

/** The code outside all brackets; the rest is blanked. */
function topLevel(code: string): string {
  const closes: string[] = []
  return code.replace(/[\s\S]/g, (char) => {
    if ('([{'.includes(char)) closes.push(char)
    else if (')]}'.includes(char)) closes.pop()
    else if (closes.length > 0 && char !== '\n') return ' '
    return char
  })
}

/** Imports that run in a circle; those of types alone are gone when it runs, and may. */
export function circles(sources: Source[]): string[] {
  const byPath = new Map(sources.map((source) => [source.path, source]))
  const done = new Set<string>()
  const found: string[] = []
  const visit = (path: string, above: string[]): void => {
    if (above.includes(path)) found.push([...above.slice(above.indexOf(path)), path].join(' → '))
    if (above.includes(path) || done.has(path)) return
    for (const { target, typeOnly } of byPath.get(path)?.imports ?? [])
      if (!typeOnly && byPath.has(target)) visit(target, [...above, path])
    done.add(path)
  }
  for (const { path } of sources) visit(path, [])
  return found
}

/** Files whose name names nothing, and files that share one. */
export function names(sources: Source[]): string[] {
  const byName = Map.groupBy(
    sources.map(({ path }) => path),
    (path) => basename(path),
  )
  const odd = [...byName]
    .filter(([name]) => !NAME.test(name) || VAGUE.test(name))
    .map(([, paths]) => `${paths[0]}: names nothing`)
  const twice = [...byName].filter(([name, paths]) => paths.length > 1 && !NAMED_ALIKE.includes(name) && !isVerb(paths))
  return [...odd, ...twice.map(([, paths]) => `${paths.join(', ')}: share a name`)]
}

/** One verb, end to end: the command, the route and the file that does it on the agent, at most one of each. */
function isVerb(paths: string[]): boolean {
  const ends = paths.map((path) =>
    /^(client\/commands|agent\/http|agent\/(?:deploy|watch))\//.exec(path)?.[1]?.replace('watch', 'deploy'),
  )
  return !ends.includes(undefined) && new Set(ends).size === ends.length
}
