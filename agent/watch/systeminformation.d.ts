// The package's one file about memory. Its main file loads all of them, which is 0.7 MB of source and 4 MB resident in
// an agent whose whole budget is 80.
declare module 'systeminformation/lib/memory.js' {
  import type { Systeminformation } from 'systeminformation'

  export function mem(): Promise<Systeminformation.MemData>
}
