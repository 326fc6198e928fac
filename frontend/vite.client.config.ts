// Comes in: client/client.ts. Goes out: dist/client.js, one file to read, without a hash in its name; and its types.
import ts from 'typescript';
import { defineConfig } from 'vite';

const ENTRY = 'client/client.ts';
// Those whose types are the client's. A page gets them in one file: each module's declarations after the other's.
const TYPED = ['src/feed/websocket_like.ts', 'client/options.ts', 'client/connect.ts', 'client/rows.ts'];
const BANNER = '// The client of psqlisten2websocket: see "In your page" in its README. MIT License.';

export default defineConfig({
  publicDir: false,
  build: {
    target: 'es2022',
    emptyOutDir: false, // the dashboard is in it
    minify: false,
    modulePreload: { polyfill: false },
    lib: { entry: ENTRY, formats: ['es'], fileName: () => 'client.js' },
    rolldownOptions: { output: { banner: BANNER } },
  },
  plugins: [
    {
      name: 'types',
      generateBundle() {
        const types = TYPED.map(declarations).join('\n');
        this.emitFile({ type: 'asset', fileName: 'client.d.ts', source: `${BANNER}\n${types}` });
      },
    },
  ],
});

/** What the module exports, without what it marks as internal and without the imports that one file does not need. */
function declarations(module: string): string {
  const compilerOptions = { isolatedDeclarations: true, declaration: true, stripInternal: true, strict: true };
  const { outputText } = ts.transpileDeclaration(ts.sys.readFile(module) ?? '', { compilerOptions });
  return outputText.replaceAll(/^(import .*|\/\/ .*)\n/gm, '');
}
