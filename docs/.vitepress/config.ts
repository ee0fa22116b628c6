import { existsSync, readdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { defineConfig } from 'vitepress'

const docs = join(dirname(fileURLToPath(import.meta.url)), '..')

/** Links to every page of a folder; the first line of a page, `# Title`, stays in the page. */
function pagesOf(folder: string) {
  const path = join(docs, folder)
  if (!existsSync(path)) return []
  return readdirSync(path)
    .filter((name) => name.endsWith('.md') && name !== 'index.md' && name !== 'template.md')
    .sort()
    .map((name) => ({ text: name.replace(/\.md$/, ''), link: `/${folder}/${name.replace(/\.md$/, '')}` }))
}

export default defineConfig({
  title: 'kvloom',
  description: 'Composable KV-cache compressors for TypeScript: import, mix, measure.',
  cleanUrls: true,
  // The reference is made by typedoc and not in the repository; a link into it is no mistake.
  ignoreDeadLinks: [/^\/reference\//, /^\.?\.?\/.*reference\//],
  themeConfig: {
    search: { provider: 'local' },
    nav: [
      { text: 'Guide', link: '/guide/getting-started' },
      { text: 'Methods', link: '/methods' },
      { text: 'Reference', link: '/reference/' },
      { text: 'Decisions', link: '/decisions/' },
    ],
    sidebar: [
      {
        text: 'Guide',
        items: [
          { text: 'Getting started', link: '/guide/getting-started' },
          { text: 'Composing', link: '/guide/composing' },
          { text: 'Calibrating', link: '/guide/calibrating' },
          { text: 'Configuration', link: '/guide/configuration' },
          { text: 'Write a quantizer', link: '/guide/write-a-quantizer' },
          { text: 'Look into a cache', link: '/guide/look-into-a-cache' },
          { text: 'How a cache runs', link: '/guide/how-a-cache-runs' },
          { text: 'Words of the house', link: '/guide/words' },
          { text: 'Errors', link: '/guide/errors' },
          { text: 'What composes with what', link: '/matrix' },
          { text: 'Reference numbers', link: '/reference-numbers' },
          { text: 'At the same bits', link: '/same-bits' },
          { text: 'Resident bytes', link: '/resident-bytes' },
          { text: 'Training KV-Latent', link: '/kv-latent-training' },
          { text: 'Roadmap', link: '/roadmap' },
        ],
      },
      { text: 'Methods', items: [{ text: 'All methods', link: '/methods' }, ...pagesOf('methods')] },
      { text: 'Decisions', items: [{ text: 'Index', link: '/decisions/' }, ...pagesOf('decisions')] },
    ],
  },
})
