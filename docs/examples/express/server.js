const express = require('express')

const app = express()
app.get('/', (_request, response) => response.type('text').send(`express, release ${process.env.TARMAC_RELEASE}\n`))
app.get('/health', (_request, response) => response.type('text').send('ok\n'))
app.listen(process.env.PORT ?? 3000)
