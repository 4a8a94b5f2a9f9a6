import Fastify from 'fastify'

const app = Fastify()
app.get('/', async () => `fastify, release ${process.env.TARMAC_RELEASE}\n`)
app.get('/health', async () => 'ok\n')
await app.listen({ port: Number(process.env.PORT ?? 3000) })
