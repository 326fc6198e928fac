// Comes in: client/client.ts. Goes out: dist/client.js, one file to read, without a hash in its name; and its types.
import ts from 'typescript';
import { defineConfig } from 'vite';

const ENTRY = 'client/client.ts';
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
        const compilerOptions = { isolatedDeclarations: true, declaration: true, stripInternal: true, strict: true };
        const { outputText } = ts.transpileDeclaration(ts.sys.readFile(ENTRY) ?? '', { compilerOptions });
        this.emitFile({ type: 'asset', fileName: 'client.d.ts', source: `${BANNER}\n${outputText}` });
      },
    },
  ],
});
