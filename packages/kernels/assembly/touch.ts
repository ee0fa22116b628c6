// Brings weights into the cache. A decode step reads every weight once, from main memory; between the sums of a matvec
// too few loads are under way to hide its latency, and wasm has no prefetch. Reading one word per cache line of the next
// panel in a tight loop keeps many under way: about twice the speed on weights larger than the cache.

/** Reads one word of every 64 bytes. The sum is meaningless; returning it keeps the loads. */
export function touch(pointer: usize, bytes: usize): i32 {
  let sum = 0
  const end = pointer + bytes
  for (; pointer + 256 <= end; pointer += 256) {
    sum += i32.load(pointer) + i32.load(pointer, 64) + i32.load(pointer, 128) + i32.load(pointer, 192)
  }
  for (; pointer < end; pointer += 64) sum += i32.load(pointer)
  return sum
}
