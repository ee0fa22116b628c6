/** The frame of every HTML page: no scripts, nothing loaded from elsewhere. */
import { STYLE } from './html-style'
import { escapeHtml } from './html-tables'

/** A whole page. @param main what stands in its main element, as HTML */
export const htmlPage = (title: string, main: string): string => `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escapeHtml(title)}</title>
<style>${STYLE}</style>
</head>
<body>
<main>
${main}
</main>
</body>
</html>
`
