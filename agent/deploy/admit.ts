import { setImmediate as breathe } from 'node:timers/promises'
import { type Signer, signerOf } from '../../shared/allowed-signers.ts'
import type { BundleEntry } from '../../shared/bundle-read.ts'
import { contentsOf } from '../../shared/contents.ts'
import { Failure } from '../../shared/failure.ts'
import { type FileEntry, parseManifestInTurns, type Signed } from '../../shared/manifest.ts'
import { type ChangedFile, parseManifestOn } from '../../shared/manifest-compare.ts'
import type { AppName, Sha256 } from '../../shared/names.ts'
import { parseSignature, verifySignature } from '../../shared/sshsig.ts'
import { whenDue } from '../../shared/turns.ts'
import { RELEASE_NAMESPACE } from '../../shared/wire.ts'
import { reach } from '../fault.ts'
import { rebuilt } from '../state/basis.ts'
import { syncAlong } from '../state/disk.ts'
import type { Layout } from '../state/layout.ts'
import { type IncomingObject, makeAppDirs, removeObjects, storeObject, WHOLE_BYTES } from '../state/objects.ts'
import { currentRelease, readReleaseText, releasesOn } from '../state/release-store.ts'
import { removeEmptyDirs, removeIfEmpty } from '../state/remove.ts'
import { keyOf, type Survey } from '../state/store-survey.ts'
import { asFailure } from '../state/trouble.ts'
import { beginTree, endTree } from './assemble.ts'
import type { GrowingTree } from './release-tree.ts'
import type { Spend } from './room.ts'

/** A manifest that known people signed for this app. Only `proveManifest` makes one. */
export interface Proved {
  readonly signed: Signed
  readonly signatures: string[]
  /** Distinct principals: one person with two keys is one. */
  readonly signers: string[]
}

/**
 * Reads the head of a bundle and proves it: every signature is checked over the exact bytes, before they are parsed
 * and before the first object byte is looked at. A signature that does not hold refuses the whole, however many
 * others do. Gives back what follows the head. `parsed`: what was parsed before, and is not again when the text is the same.
 * `older`: what runs; `changed` says in which files this differs from it, where that is all.
 */
export async function proveManifest(
  entries: AsyncIterator<BundleEntry>,
  policy: {
    app: AppName
    signers: readonly Signer[]
    now: Date
    parsed?: Signed | undefined
    older?: Signed | undefined
  },
): Promise<{ proved: Proved; first: IteratorResult<BundleEntry>; changed: ChangedFile[] | undefined }> {
  const head = await entries.next()
  if (head.done || head.value.kind !== 'manifest') {
    throw new Failure('bundle_malformed', 'read bundle: it does not begin with release.json')
  }
  const { text, bytes } = head.value
  const signatures: string[] = []
  let next = await entries.next()
  for (; !next.done && next.value.kind === 'signature'; next = await entries.next()) signatures.push(next.value.text)
  await breathe()
  const signers = provenSigners(bytes, signatures, policy)
  await breathe()
  const { signed, changed } = await parsedOf(text, policy)
  if (signed.manifest.app !== policy.app) {
    throw new Failure('app_mismatch', `push ${policy.app}: the bundle was signed for the app ${signed.manifest.app}`)
  }
  return { proved: { signed, signatures, signers }, first: next, changed }
}

async function parsedOf(
  text: string,
  { parsed, older }: { parsed?: Signed | undefined; older?: Signed | undefined },
): Promise<{ signed: Signed; changed?: ChangedFile[] | undefined }> {
  if (parsed?.text === text) return { signed: parsed }
  return (older && parseManifestOn(older, text)) ?? { signed: await parseManifestInTurns(text, breathe) }
}

/** Who signed these bytes, each principal once. Throws for a signature that does not hold. */
export function provenSigners(
  bytes: Uint8Array,
  signatures: string[],
  policy: { signers: readonly Signer[]; now: Date },
): string[] {
  if (signatures.length === 0) {
    throw new Failure('signature_missing', 'read bundle: release.json carries no signature', {
      hint: 'tarmac push and tarmac pack sign what they send',
    })
  }
  const principals = new Set<string>()
  for (const armored of signatures) {
    const signature = parseSignature(armored)
    const signer = signerOf(policy.signers, signature.publicKey, { namespace: RELEASE_NAMESPACE, now: policy.now })
    verifySignature(signature, RELEASE_NAMESPACE, bytes)
    principals.add(signer.principal)
  }
  return [...principals]
}

/** Of signatures that were proved before: throws when who made one of them may not sign any more. */
export function refuseSigners(signatures: string[], { signers, now }: { signers: readonly Signer[]; now: Date }): void {
  for (const armored of signatures) {
    signerOf(signers, parseSignature(armored).publicKey, { namespace: RELEASE_NAMESPACE, now })
  }
}

/** Of the objects that came. */
export interface Stored {
  /** That was made of them meanwhile. */
  tree: GrowingTree | undefined
  /** Of the writing that was begun meanwhile: to be awaited before they count as durable. Throws when it failed. */
  synced(): Promise<void>
}

interface Storing {
  survey: Pick<Survey, 'missing' | 'lacking'>
  spend: Spend
  /** Called when all has come. What it throws refuses the upload. */
  approve?: () => void
}

/**
 * Stores the objects that came and checks that the release is whole. What a
 * refused upload brought is removed again, also when it is the disk that refuses; what a cut connection brought stays,
 * each object proved, so that the next push need not send it.
 */
export async function storeObjects(
  layout: Layout,
  { signed }: Proved,
  { first, rest }: { first: IteratorResult<BundleEntry>; rest: AsyncIterator<BundleEntry> },
  { survey: { missing, lacking }, spend, approve }: Storing,
): Promise<Stored> {
  const { manifest } = signed
  // What was before this, this and what follows take 10 ms each for 25,000 files.
  await breathe()
  const contents = contentsOf(manifest)
  await breathe()
  const absent = new Set(lacking.objects.map(keyOf))
  const came = new Set<Sha256>()
  const syncing = syncAlong(layout.root)
  const take: Spend = (bytes) => {
    syncing.wrote(bytes)
    return spend(bytes)
  }
  makeAppDirs(layout, manifest.app)
  reach('upload.begun')
  const due = whenDue(breathe)
  let tree: GrowingTree | undefined
  try {
    tree = await beginTree(layout, signed)
    for (let next = first; !next.done; next = await rest.next()) {
      const entry = asObject(layout, manifest.app, next.value, contents)
      const mode = expectedMode(entry, { contents, came })
      came.add(entry.sha256)
      const isWhole = entry.size <= WHOLE_BYTES
      const looking = isWhole && take(entry.size)
      if (looking) await looking
      const content = isWhole ? entry.content : taken(entry.content, take)
      const isAbsent = absent.has(keyOf({ sha256: entry.sha256, mode }))
      await storeObject(layout, manifest.app, { ...entry, content, isAbsent }, mode)
      tree?.stored(entry.sha256)
      await due()
    }
    const left = missing.filter((digest) => !came.has(digest))
    if (left.length > 0) {
      throw new Failure(
        'object_missing',
        `push ${manifest.app}: ${left.length} objects are neither here nor in the bundle, the first ${left[0]}`,
        {
          hint: 'push again: what is missing is sent',
        },
      )
    }
    approve?.()
    return { tree, synced: syncing.end }
  } catch (error) {
    await endTree(layout, signed)
    const failure =
      asFailure(`push ${manifest.app}`, error, layout.root) ??
      // What stays of a cut upload must have come to the disk: another sync is not told that it did not.
      (await syncing.end().then(
        () => undefined,
        (failed: unknown) => asFailure(`push ${manifest.app}`, failed, layout.root),
      ))
    const brought = lacking.objects.filter(({ sha256 }) => came.has(sha256))
    if (failure) removeObjects(brought.map(({ sha256, mode }) => layout.object(manifest.app, sha256, mode)))
    throw failure ?? error
  }
}

/** What a recipe makes is an object like any other, of the size that was signed. */
function asObject(
  layout: Layout,
  app: AppName,
  entry: BundleEntry,
  contents: ReadonlyMap<Sha256, FileEntry>,
): IncomingObject {
  if (entry.kind === 'object') return entry
  if (entry.kind !== 'recipe')
    throw new Failure('bundle_malformed', `read bundle: a ${entry.kind} after the objects began`)
  const size = contents.get(entry.sha256)?.size ?? 0
  return { sha256: entry.sha256, size, content: rebuilt(layout, app, { recipe: entry, size }) }
}

async function* taken(content: AsyncIterable<Uint8Array>, take: Spend): AsyncGenerator<Uint8Array> {
  for await (const chunk of content) {
    await take(chunk.length)
    yield chunk
  }
}

/**
 * A release's name holds 32 bits of its digest: who looks for it finds two manifests of one name within a second, and
 * the services of one would then run in the tree of the other. Throws `manifest_invalid`.
 */
export function refuseNamesake(layout: Layout, { manifest, id, text }: Signed): void {
  if (!releasesOn(layout, manifest.app).includes(id) || readReleaseText(layout, manifest.app, id) === text) return
  throw new Failure('manifest_invalid', `push ${manifest.app}: another release is named ${id} already`, {
    hint: 'pack it again: the next second has another name',
  })
}

/**
 * Takes away the directories that a refused first push of an app left empty; those with anything in them stay. Named one
 * by one: in `shared`, where the app writes, nothing is ever looked for.
 */
export function tidyRefused(layout: Layout, app: AppName): void {
  if (currentRelease(layout, app) !== null || releasesOn(layout, app).length > 0) return
  for (const dir of [layout.objectsDir, layout.stagingDir, layout.envDir, layout.releasesDir]) removeEmptyDirs(dir(app))
  removeIfEmpty(layout.appDir(app))
}

function expectedMode(
  entry: { sha256: Sha256; size: number },
  known: { contents: ReadonlyMap<Sha256, FileEntry>; came: Set<Sha256> },
) {
  const { size, mode } = known.contents.get(entry.sha256) ?? {}
  if (size === undefined || mode === undefined) {
    throw new Failure('object_unexpected', `read bundle: object ${entry.sha256} is not in the signed release.json`)
  }
  if (size !== entry.size) {
    throw new Failure(
      'object_mismatch',
      `read bundle: object ${entry.sha256} has ${entry.size} bytes; the signed release.json says ${size}`,
    )
  }
  if (known.came.has(entry.sha256))
    throw new Failure('object_unexpected', `read bundle: object ${entry.sha256} came twice`)
  return mode
}
