import { createCipheriv, createHash } from 'node:crypto'

/** Bytes that look random and are the same for the same seed, on every machine. */
export function bytesFromSeed(seed: number | string, length: number): Buffer {
  const key = createHash('sha256').update(String(seed)).digest()
  return createCipheriv('aes-256-ctr', key, Buffer.alloc(16)).update(Buffer.alloc(length))
}
