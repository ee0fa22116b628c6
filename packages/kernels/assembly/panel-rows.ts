// Copies between panels or narrow tiles and plain rows.

/** Row `row` of a panel float32 [columns][8] to `columns` consecutive float32. */
export function takePanelRow(panel: usize, row: i32, columns: i32, target: usize): void {
  let from = panel + <usize>row * 4
  for (const end = target + <usize>columns * 4; target < end; target += 4, from += 32) f32.store(target, f32.load(from))
}

/** First `count` words of each row: source rows `sourceWidth` words apart, target rows `targetWidth` words apart. */
export function copyRowStarts(source: usize, sourceWidth: i32, target: usize, targetWidth: i32, count: i32, rows: i32): void {
  for (let row = 0; row < rows; row++) {
    for (let i: usize = 0; i < <usize>count * 4; i += 4) i32.store(target + i, i32.load(source + i))
    source += <usize>sourceWidth * 4
    target += <usize>targetWidth * 4
  }
}
