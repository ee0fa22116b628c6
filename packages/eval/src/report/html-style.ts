/** The report's style sheet: system fonts, light and dark, readable on paper and by keyboard. */
export const STYLE = `
:root { color-scheme: light dark; --page: #fdfdfc; --card: #ffffff; --ink: #1c2126; --ink-soft: #5a646e; --line: #d9dee3; --accent: #2159b8; --warn: #9a3412; --warn-back: #fff3ea;
  --series-0: #2f6fd0; --series-1: #d0690a; --series-2: #178254; --series-3: #c2334d; --series-4: #7b52c7; --series-5: #0b8296; --series-6: #8a6a00; --series-7: #b93a93; --series-8: #5e7d00; --series-9: #4a4f9e; --series-10: #a04a2a; --series-11: #5b6b78; }
@media (prefers-color-scheme: dark) { :root { --page: #14181c; --card: #1b2025; --ink: #e8ebee; --ink-soft: #9da8b3; --line: #333b43; --accent: #8ab4ff; --warn: #ffb38a; --warn-back: #33231a;
  --series-0: #79a8f5; --series-1: #f2a24d; --series-2: #5cc995; --series-3: #f0788c; --series-4: #b499f2; --series-5: #5cc7d9; --series-6: #e0c34a; --series-7: #ee86cc; --series-8: #b5d154; --series-9: #9aa0f0; --series-10: #e09a7a; --series-11: #a9b7c3; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 1260px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 18px; margin: 40px 0 4px; }
p { margin: 4px 0 12px; max-width: 78ch; }
.soft, figcaption, .facts dt { color: var(--ink-soft); }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 10px 24px; margin: 18px 0 8px; padding: 14px 18px; background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.facts dt { font-size: 12px; } .facts dd { margin: 0; overflow-wrap: anywhere; }
.banner { background: var(--warn-back); color: var(--warn); border: 1px solid currentColor; border-radius: 8px; padding: 10px 14px; margin: 16px 0; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 10px; background: var(--card); margin: 12px 0; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 9px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
tbody tr:last-child > * { border-bottom: 0; }
thead th { font-size: 12px; font-weight: 600; color: var(--ink-soft); vertical-align: bottom; }
thead tr:first-child th[colspan] { text-align: center; border-bottom: 0; padding-bottom: 0; }
th:first-child, td.left { text-align: left; }
tbody th { padding-left: 49px; text-indent: -40px; font-weight: 600; white-space: normal; min-width: 190px; overflow-wrap: anywhere; position: sticky; left: 0; background: var(--card); }
tbody tr:hover > * { background: color-mix(in srgb, var(--accent) 7%, var(--card)); }
tr.baseline > * { color: var(--ink-soft); }
.failed { color: var(--warn); white-space: normal; }
small { color: var(--ink-soft); font-size: 12px; }
.swatch { display: inline-flex; align-items: center; gap: 4px; min-width: 34px; padding-right: 6px; text-indent: 0; vertical-align: -1px; } .swatch .number { min-width: 1.1em; font-size: 12px; font-weight: 600; color: var(--ink-soft); font-variant-numeric: tabular-nums; }
.mark { display: block; flex: none; }
figure { margin: 12px 0 0; padding: 16px 18px 10px; background: var(--card); border: 1px solid var(--line); border-radius: 10px; --page: var(--card); }
figure .wide > svg, figure .narrow > svg { display: block; width: 100%; height: auto; max-width: 1100px; margin: 0 auto; color: var(--ink); }
figure svg [aria-label$="-grid"] { stroke: var(--ink); stroke-opacity: 0.1; }
figcaption { font-size: 13px; margin-top: 8px; max-width: 90ch; }
.narrow { display: none; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 0 0 10px; padding: 0; list-style: none; font-size: 13px; }
details { margin: 8px 0; border: 1px solid var(--line); border-radius: 8px; background: var(--card); padding: 8px 14px; }
summary { cursor: pointer; font-weight: 600; } summary:focus-visible, .scroll:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
pre { overflow-x: auto; font: 12px/1.5 ui-monospace, Menlo, Consolas, monospace; margin: 8px 0; }
dl.words dt { font-weight: 600; margin-top: 8px; } dl.words dd { margin: 0 0 0 0; max-width: 90ch; color: var(--ink-soft); }
@media (max-width: 640px) { main { padding: 20px 12px 48px; } .wide { display: none; } .narrow { display: block; } figure { padding: 12px 8px 8px; } .legend { flex-direction: column; gap: 2px; padding: 0 6px; } tbody th { min-width: 128px; max-width: 128px; padding-left: 8px; text-indent: 0; font-size: 13px; font-weight: 500; } tbody th .swatch { display: flex; } th, td { padding: 6px 7px; } pre { font-size: 11px; } }
@media print { main { max-width: none; padding: 0; } .scroll { overflow: visible; border: 0; } figure, details { break-inside: avoid; } }
`
