import { setFlagsFromString } from 'node:v8'

const GROWTH = '--semi-space-growth-factor'
/** V8's own, 13 to 14. */
const USUAL_FACTOR = 2

/**
 * From here on V8's space for new objects stays as big as it is. It grows to 56 MB while a big tree is hashed and sent: 40 MB
 * more for a twentieth of the client's time. A look at a tree that has not changed takes a tenth longer without that space.
 */
export function keepYoungSpaceSmall(): void {
  setFlagsFromString(`${GROWTH}=1`)
}

/** As it was: what V8 compiled is good for the flags alone under which it is kept. */
export function letYoungSpaceGrow(): void {
  setFlagsFromString(`${GROWTH}=${USUAL_FACTOR}`)
}
