// Builds what is committed in dist/, and the gateway carries, from src/: `npm run build`. scripts/web compares the two.
import { copyFileSync, mkdirSync } from "node:fs";
import { build } from "esbuild";

const out = process.argv[2] ?? "dist";
mkdirSync(out, { recursive: true });
const common = { bundle: true, minify: true, target: "es2022", legalComments: "none", charset: "utf8", logLevel: "warning" };
const banner = "/* oxipush console, MIT OR Apache-2.0, with uPlot, MIT, (c) Leon Sorokin; built from web/console/src */";
await build({ ...common, banner: { js: banner }, entryPoints: ["src/main.ts"], format: "iife", outfile: `${out}/console.js` });
await build({ ...common, banner: { css: banner }, entryPoints: ["src/console.css"], outfile: `${out}/console.css` });
copyFileSync("src/console.html", `${out}/console.html`);
