// undici has types for the whole of it alone.

declare module 'undici/lib/dispatcher/client.js' {
  import { Client } from 'undici'
  export = Client
}

declare module 'undici/lib/api/api-request.js' {
  import type { Client, Dispatcher } from 'undici'

  function request(this: Client, options: Dispatcher.RequestOptions): Promise<Dispatcher.ResponseData>
  export = request
}
