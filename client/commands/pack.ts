import { createWriteStream, renameSync, rmSync } from 'node:fs'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import prettyBytes from 'pretty-bytes'
import { bundleBytes } from '../../shared/bundle-write.ts'
import { objectsOf } from '../../shared/contents.ts'
import type { Context } from '../context.ts'
import { prepare } from '../prepare.ts'

/** A whole bundle for offline use: `tarmac push FILE` sends it, `tar --zstd -tf` lists it. */
export async function pack(context: Context, path: string | undefined, options: { output?: string }): Promise<number> {
  const { print } = context
  const { app, release, source } = await prepare(context, path)
  const file = options.output ?? `${app}.tarmac`
  const temporary = `${file}.${process.pid}.tmp`
  try {
    const { signed, signatures } = await release()
    const objects = objectsOf(signed.manifest)
    const bundle = bundleBytes({ manifest: signed.text, signatures, objects: source.objects(new Set(objects.keys())) })
    let bytes = 0
    await pipeline(
      Readable.from(bundle),
      async function* (chunks: AsyncIterable<Buffer>) {
        for await (const chunk of chunks) {
          bytes += chunk.length
          yield chunk
        }
      },
      createWriteStream(temporary),
    )
    renameSync(temporary, file)
    if (print.json)
      print.value({
        file,
        release: signed.id,
        app,
        bytes,
        objects: objects.size,
        files: signed.manifest.files.length,
      })
    else print.line(`${file}  ${signed.id}, ${signed.manifest.files.length} files, ${prettyBytes(bytes)}`)
    return 0
  } finally {
    rmSync(temporary, { force: true })
    source.close()
  }
}
