// Makes web/dist/ out of web/src/ and the contract: the same bytes from the same versions, on every machine.
//
// `--watch` builds again whenever a source changes, with readable names.
import { execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import * as esbuild from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
process.chdir(here);
const isWatching = process.argv.includes("--watch");

rmSync("gen", { recursive: true, force: true });
execFileSync(join("node_modules", ".bin", "buf"), ["generate", "--template", "buf.gen.yaml"], {
  stdio: "inherit",
  env: { ...process.env, PATH: join(here, "node_modules", ".bin") + ":" + process.env.PATH },
});
if (process.argv.includes("--generate")) process.exit(0);

mkdirSync("dist", { recursive: true });
for (const file of ["index.html", "favicon.svg"]) copyFileSync(join("static", file), join("dist", file));

// The licences of what is bundled ask for their text in every copy.
const licence = (name) => readFileSync(join("node_modules", name, "LICENSE"), "utf8").trim();
const banner = `/*!
The dashboard of haul. With it come, under Apache-2.0: @bufbuild/protobuf, @connectrpc/connect, @connectrpc/connect-web;
and under the licence that follows: preact, @preact/signals, @preact/signals-core.

${licence("preact").replaceAll("*/", "")}
*/`;

const options = {
  entryPoints: { app: "src/main.tsx" },
  outdir: "dist",
  bundle: true,
  format: "esm",
  target: "es2022",
  jsx: "automatic",
  jsxImportSource: "preact",
  minify: !isWatching,
  sourcemap: isWatching ? "inline" : false,
  legalComments: "none",
  banner: { js: banner },
  charset: "utf8",
  logLevel: "info",
};
if (isWatching) await (await esbuild.context(options)).watch();
else await esbuild.build(options);
