// Stable top-k by radix select: the k-th largest key is found in four passes over bytes, then one pass in index order takes every larger key and the first of its equals.

/** Order of f32 as unsigned integers: negative numbers reversed, positive ones above them. */
// @ts-ignore: decorator
@inline
function sortable(bits: u32): u32 {
  return bits ^ ((<u32>(<i32>bits >> 31)) | 0x80000000)
}

/** scores f32 [heads, n], index int32 [heads, k], scratch 1024 bytes; 0 < k <= n. */
export function selectTop(scores: usize, heads: i32, n: i32, k: i32, index: usize, scratch: usize): void {
  for (let head = 0; head < heads; head++) {
    const row = scores + <usize>head * n * 4
    const output = index + <usize>head * k * 4
    let prefix: u32 = 0
    let known: u32 = 0
    let wanted = k
    for (let shift: u32 = 24; ; shift -= 8) {
      memory.fill(scratch, 0, 1024)
      for (let i = 0; i < n; i++) {
        const key = sortable(load<u32>(row + <usize>i * 4))
        if ((key & known) != prefix) continue
        const slot = scratch + <usize>(((key >> shift) & 255) << 2)
        store<i32>(slot, load<i32>(slot) + 1)
      }
      let byte: u32 = 255
      while (load<i32>(scratch + <usize>(byte << 2)) < wanted) {
        wanted -= load<i32>(scratch + <usize>(byte << 2))
        byte--
      }
      prefix |= byte << shift
      known |= <u32>255 << shift
      if (shift == 0) break
    }
    // `wanted` equals of the k-th largest key are left to take.
    let written: usize = 0
    for (let i = 0; i < n; i++) {
      const key = sortable(load<u32>(row + <usize>i * 4))
      if (key < prefix) continue
      if (key == prefix) {
        if (wanted == 0) continue
        wanted--
      }
      store<i32>(output + written, i)
      written += 4
    }
  }
}
