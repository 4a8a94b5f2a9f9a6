// The data types of RFC 4251 section 5 that keys and signatures are made of: lengths are big-endian uint32.

/**
 * These bytes do not follow their format. Whoever knows what was being read turns it into a Failure of its own code;
 * a malformed key is not the same news as a malformed signature.
 */
export class MalformedError extends Error {
  override readonly name = 'MalformedError'
}

/** Reads front to back. Every method throws MalformedError instead of reading past the end. */
export class SshReader {
  readonly #bytes: Buffer
  #at = 0

  constructor(bytes: Uint8Array) {
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }

  take(length: number): Buffer {
    const left = this.#bytes.length - this.#at
    if (length > left) throw new MalformedError(`${length} bytes announced, ${left} left`)
    this.#at += length
    return this.#bytes.subarray(this.#at - length, this.#at)
  }

  byte(): number {
    return this.take(1).readUInt8()
  }

  uint32(): number {
    return this.take(4).readUInt32BE()
  }

  string(): Buffer {
    return this.take(this.uint32())
  }

  /** A string that is a name: printable ASCII, so that it can be compared and shown without surprise. */
  name(): string {
    const text = this.string().toString('latin1')
    if (!/^[\x21-\x7e]+$/.test(text)) throw new MalformedError('a name is empty or not printable ASCII')
    return text
  }

  /** A positive mpint as `size` bytes, zeros in front. One number has one form: a needless zero byte is refused. */
  mpint(size: number): Buffer {
    const bytes = this.string()
    const [first = 0, second = 0] = bytes
    const signByte = first === 0 ? 1 : 0
    if (bytes.length <= signByte || first > 0x7f || (signByte === 1 && second < 0x80)) {
      throw new MalformedError('an mpint is not positive or not in its shortest form')
    }
    const digits = bytes.subarray(signByte)
    if (digits.length > size) throw new MalformedError(`an mpint has ${digits.length} bytes, not ${size}`)
    return Buffer.concat([Buffer.alloc(size - digits.length), digits])
  }

  end(): void {
    const left = this.#bytes.length - this.#at
    if (left > 0) throw new MalformedError(`${left} bytes too many`)
  }
}

export function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}

export function sshString(data: string | Uint8Array): Buffer {
  const bytes = typeof data === 'string' ? Buffer.from(data) : data
  return Buffer.concat([uint32(bytes.length), bytes])
}

/**
 * The bytes of padded base64, or undefined. Node's own decoder skips what it does not know and accepts a missing
 * end, so that many texts would stand for the same bytes: only the text that encoding gives back is taken.
 */
export function canonicalBase64(text: string): Buffer | undefined {
  const bytes = Buffer.from(text, 'base64')
  return bytes.toString('base64') === text ? bytes : undefined
}
