import type { Manifest, ServiceSpec } from '../../shared/manifest.ts'
import type { ReleaseId, ServiceName, Slot } from '../../shared/names.ts'
import type { Account, UnitSpec } from '../init/init-system.ts'
import type { Layout } from '../state/layout.ts'

/** What each service of a release needs to run in a slot. Pure. */
export function unitsOf(
  { id, manifest }: { id: ReleaseId; manifest: Manifest },
  place: { layout: Layout; account: Account; slot: Slot },
): UnitSpec[] {
  const { layout, account, slot } = place
  const { app } = manifest
  return servicesOf(manifest).map(([service, spec]) => ({
    app,
    service,
    slot,
    release: id,
    spec,
    account,
    treeDir: layout.treeDir(app, id),
    appsDir: layout.appsDir,
    env: ourEnv({ app, service, id, spec }),
    envFile: layout.slotEnv(app, service, slot),
    writableDirs: manifest.shared.map((path) => layout.sharedPath(app, path)),
  }))
}

export function servicesOf(manifest: Manifest): [ServiceName, ServiceSpec][] {
  return Object.entries(manifest.services) as [ServiceName, ServiceSpec][]
}

/** The variables every service finds, whatever else it is given. */
function ourEnv(of: { app: string; service: string; id: ReleaseId; spec: ServiceSpec }): Record<string, string> {
  return {
    TARMAC_APP: of.app,
    TARMAC_SERVICE: of.service,
    TARMAC_RELEASE: of.id,
    ...(of.spec.port === undefined ? {} : { PORT: String(of.spec.port) }),
  }
}
