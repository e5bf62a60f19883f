// Builds what is committed in dist/ from src/: `npm run build`. scripts/web compares the two.
import { execFileSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import { build } from "esbuild";

const out = process.argv[2] ?? "dist";
mkdirSync(out, { recursive: true });
const common = { bundle: true, minify: true, target: "es2022", legalComments: "none", charset: "utf8", logLevel: "warning" };
const banner = { js: "/* oxipush, MIT OR Apache-2.0 */" };
await build({ ...common, banner, entryPoints: ["src/index.ts"], format: "esm", outfile: `${out}/oxipush.mjs` });
await build({ ...common, banner, entryPoints: ["src/classic.ts"], format: "iife", outfile: `${out}/oxipush.js` });
const types = ["dts-bundle-generator", "--no-banner", "--silent", "--project", "tsconfig.json", "-o", `${out}/oxipush.d.ts`, "src/index.ts"];
execFileSync("npx", ["--no-install", ...types], { stdio: "inherit" });
