import manifest from '../package.json' with { type: 'json' }

/** Put in by build.ts, so that a bundle copied alone knows its version; from source it does not exist. */
declare const __TARMAC_VERSION__: string | undefined

/** This build's version, as package.json has it: client and agent tell it each other with every request. */
export const version: string = typeof __TARMAC_VERSION__ === 'string' ? __TARMAC_VERSION__ : manifest.version
