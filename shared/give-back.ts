import { CHUNK_BYTES } from './bundle.ts'

/**
 * The memory of what zstd gave, when nobody reads it any more. Node's streams of zstd fill one buffer after the other, and give
 * what they have of it in portions: the one that ends with its buffer is the last. Left to the garbage collector, half a
 * gigabyte of it makes V8 look through its whole heap some forty times: a quarter of what the agent computes while it unpacks.
 */
export function giveBack({ buffer, byteOffset, byteLength }: Buffer): void {
  // Of this size are the stream's own, and none that other buffers share.
  const isFull = buffer.byteLength === CHUNK_BYTES && byteOffset + byteLength === CHUNK_BYTES
  if (isFull && buffer instanceof ArrayBuffer) buffer.transfer(0)
}
