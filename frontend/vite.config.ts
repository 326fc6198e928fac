// Comes in: index.html, src/ and client/. Goes out: dist/, which is committed, so that users need no Node.
import { svelte } from '@sveltejs/vite-plugin-svelte';
import { build, type Plugin } from 'vite';
import { defineConfig } from 'vitest/config';

export default defineConfig({
  // Relative, so that the page also works behind a reverse proxy that adds a prefix.
  base: './',
  plugins: [svelte({ preprocess: { name: 'tight', markup: tight } }), client()],
  build: {
    target: ['chrome123', 'edge123', 'firefox128', 'safari17.5'],
    modulePreload: { polyfill: false },
    // One sheet: what is loaded later brings no style with it.
    cssCodeSplit: false,
    // The Content-Security-Policy is `default-src 'self'`: no data: URLs.
    assetsInlineLimit: 0,
  },
  server: {
    proxy: {
      '/api': 'http://127.0.0.1:8080',
      '/ws': { target: 'ws://127.0.0.1:8080', ws: true },
    },
  },
  test: { include: ['{src,client}/**/*.test.ts'] },
});

/**
 * Between two tags, a new line in the source is no space in the page: hundreds of nodes that nobody sees. Where one is
 * meant, its tags stand on one line.
 */
function tight({ content }: { content: string }): { code: string } {
  const code = content.replaceAll(/<(script|style)[^]*?<\/\1>|>\s*\n\s*(?=<)/g, (found, tag) => (tag ? found : '>'));
  return { code };
}

/** Builds the client for other pages beside the dashboard: a file of its own, which shares no chunk with it. */
function client(): Plugin {
  let outDir: string;
  return {
    name: 'client',
    apply: 'build',
    configResolved: (config) => {
      outDir = config.build.outDir;
    },
    closeBundle: async () => {
      await build({ configFile: 'vite.client.config.ts', build: { outDir } });
    },
  };
}
