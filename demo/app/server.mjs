import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'

const version = readFileSync(new URL('./VERSION', import.meta.url), 'utf8').trim()

createServer((request, response) => {
  response.end(request.url === '/health' ? 'ok\n' : `hello from version ${version}\n`)
}).listen(process.env.PORT, () => console.log(`version ${version} listens on port ${process.env.PORT}`))
