import { readFileSync } from 'node:fs'

/** Put in by build.ts, so that a bundle copied alone has it; from source it does not exist. */
declare const __TARMAC_PRELOAD__: string | undefined

/** The text of listen-preload.cjs, which the app's own Node loads by its path on the host. */
export const preloadText: string =
  typeof __TARMAC_PRELOAD__ === 'string'
    ? __TARMAC_PRELOAD__
    : readFileSync(new URL('./listen-preload.cjs', import.meta.url), 'utf8')
