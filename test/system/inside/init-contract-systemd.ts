import { initContract } from '../../helpers/init-contract.ts'
import { makeSystemd } from './make-systemd.ts'

// Runs inside a machine that test/system/systemd-init.test.ts boots, under systemd as PID 1.
initContract('systemd', makeSystemd)
