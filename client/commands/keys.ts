import { publicLineOf } from '../../shared/ssh-key.ts'
import type { Context } from '../context.ts'
import { chooseKey, findKeys } from '../ssh-keys.ts'

/** Which key would sign, and the line that lets it in on a host. */
export async function keys({ print, surroundings, options }: Context): Promise<number> {
  const found = await findKeys(surroundings, options.key)
  const chosen = await chooseKey(surroundings, options.key)
  if (print.json) {
    print.value({
      keys: found.map((key) => ({
        fingerprint: key.fingerprint,
        type: key.publicKey.type,
        from: key.from,
        publicKey: publicLineOf(key.publicKey),
        chosen: key === found[0],
      })),
    })
    return 0
  }
  await print.table(
    ['', 'key', 'type', 'from'],
    found.map((key) => [key === found[0] ? '→' : '', key.fingerprint, key.publicKey.type, key.from]),
  )
  const name = surroundings.env.USER ?? 'NAME'
  print.line('')
  print.line('let it in on a host:')
  print.line(`  tarmac-agent signers add ${name} '${publicLineOf(chosen.publicKey)}'`)
  return 0
}
