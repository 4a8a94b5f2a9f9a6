import type { AppName } from '../../shared/names.ts'
import type { Note } from '../../shared/wire.ts'
import type { Ledger } from '../state/ledger.ts'

/** What the ledger has to say of itself, to whoever asks how the host is. */
export function ledgerNotes(ledger: Ledger, apps: readonly AppName[]): Note[] {
  const notes: Note[] = []
  if (ledger.trouble !== undefined) {
    const text = `the ledger cannot be written: ${ledger.trouble}`
    notes.push({ state: 'bad', text, hint: 'no change begins until it can be; see: tarmac doctor' })
  }
  const problems = ledger.lastReport()?.problems.length ?? 0
  if (problems > 0) {
    const text = `the ledger is not what the agent wrote, in ${problems} ${problems === 1 ? 'place' : 'places'}`
    notes.push({ state: 'bad', text, hint: 'see where: tarmac deploys --verify' })
  }
  for (const app of apps) {
    // The next change shows that somebody was here; from then on it stands in `deploys` alone.
    const [newest] = ledger.deploys(app, 1)
    if (newest?.kind !== 'rebuilt') continue
    const text = `${app}: the ledger was rebuilt at ${newest.startedAt}: ${newest.receipt?.reason ?? ''}`
    notes.push({ state: 'warn', text, hint: `what it knows: tarmac deploys --app ${app}` })
  }
  return notes
}
