import { setFlagsFromString } from 'node:v8'

const NO_GROWTH = '--semi-space-growth-factor=1'

/**
 * From here on V8's space for new objects stays as big as it is. It grows to 56 MB while a big tree is hashed and sent, which
 * takes its time either way; a look at a tree that has not changed takes a tenth longer without that space.
 */
export function keepYoungSpaceSmall(): void {
  setFlagsFromString(NO_GROWTH)
}
