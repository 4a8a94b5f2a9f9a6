// `npm run schema`: writes docs/tarmac.schema.json, the JSON schema of tarmac.toml, for editors.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { toJsonSchema } from '@valibot/to-json-schema'
import { projectSchema } from '../client/project.ts'

export function schemaText(): string {
  const schema = toJsonSchema(projectSchema, { target: 'draft-2020-12' })
  return `${JSON.stringify({ title: 'tarmac.toml', ...schema }, null, 2)}\n`
}

if (import.meta.main) writeFileSync(join(import.meta.dirname, 'tarmac.schema.json'), schemaText())
