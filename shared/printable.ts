// Bytes from outside (file names, logs, messages of the other side) could move the cursor, set the title, or write
// into the clipboard of whoever reads them. Everything that goes to a terminal passes here.

/** C0 but newline and tab, DEL, C1, and the marks that turn the direction of text (Unicode bidi controls). */
const DANGEROUS = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g

export function printable(text: string): string {
  return text.toWellFormed().replace(DANGEROUS, (char) => `\\u{${char.charCodeAt(0).toString(16)}}`)
}

/** JSON that means the same, with what JSON itself lets through (DEL, C1, bidi) written as escapes. */
export function printableJson(value: unknown): string {
  return JSON.stringify(value).replace(DANGEROUS, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`)
}

/** The same for what must stay on its line. */
export function printableLine(text: string): string {
  return printable(text).replace(/[\n\t]/g, (char) => (char === '\n' ? '\\n' : ' '))
}
