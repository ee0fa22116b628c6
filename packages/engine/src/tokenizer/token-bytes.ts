// How a token's text stands for bytes, in the two spellings of byte-level BPE and of sentencepiece.

/** GPT-2's spelling: printable Latin-1 characters stand for their own byte, U+0100 and up for the other bytes in order. */
export function byteLevelBytes(token: string): Uint8Array {
  const bytes: number[] = []
  for (const character of token) {
    const code = character.codePointAt(0) ?? 0
    const own = (code >= 0x21 && code <= 0x7e) || (code >= 0xa1 && code <= 0xac) || (code >= 0xae && code <= 0xff)
    const rest = code - 0x100
    if (own) bytes.push(code)
    else if (rest >= 0 && rest <= 0x20)
      bytes.push(rest) // 0x00–0x20
    else if (rest >= 0x21 && rest <= 0x42)
      bytes.push(0x7f + rest - 0x21) // 0x7f–0xa0
    else if (rest === 0x43) bytes.push(0xad)
    else bytes.push(...new TextEncoder().encode(character)) // not spelled: a token added as it is
  }
  return Uint8Array.from(bytes)
}

/** Sentencepiece's spelling: ▁ is a space, <0xAB> a byte. */
export function sentencepieceBytes(token: string): Uint8Array {
  const byte = /^<0x([0-9A-F]{2})>$/.exec(token)?.[1]
  return byte ? Uint8Array.of(parseInt(byte, 16)) : new TextEncoder().encode(token.replaceAll('▁', ' '))
}
