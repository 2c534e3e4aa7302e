// Builds the page into ../static; with --tests, the unit tests into build/.
import { build } from "esbuild";
import { cp, mkdir, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const common = { absWorkingDir: here, bundle: true, logLevel: "warning", target: ["chrome90", "safari15", "firefox90"] };

async function tests() {
  const out = join(here, "build");
  await rm(out, { recursive: true, force: true });
  const files = (await readdir(join(here, "tests"))).filter((name) => name.endsWith(".test.ts")).sort();
  await build({
    ...common,
    entryPoints: files.map((name) => join("tests", name)),
    outdir: out,
    outExtension: { ".js": ".mjs" },
    format: "esm",
    platform: "node",
    target: "node18",
  });
}

// The texts stand in the page itself, so that the notice is there before, and without, any script.
async function texts() {
  const { outputFiles } = await build({ ...common, entryPoints: ["src/texts.ts"], format: "esm", write: false });
  return (await import(`data:text/javascript;base64,${Buffer.from(outputFiles[0].contents).toString("base64")}`)).TEXTS;
}

function escape(text) {
  return text.replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);
}

async function page() {
  const out = join(here, "..", "static");
  await rm(out, { recursive: true, force: true });
  await mkdir(out, { recursive: true });
  await build({
    ...common,
    entryPoints: { page: "src/main.ts", style: "src/style.css" },
    outdir: out,
    format: "esm",
    minify: true,
    legalComments: "none",
  });
  await cp(join(here, "public"), out, { recursive: true });
  const fixed = (await texts()).fixed;
  const html = (await readFile(join(here, "src", "index.html"), "utf8")).replace(/\{\{(\w+)\}\}/g, (_, key) => {
    if (!(key in fixed)) throw new Error(`src/index.html uses {{${key}}}, which src/texts.ts does not have`);
    return escape(fixed[key]);
  });
  await writeFile(join(out, "index.html"), html);
}

await (process.argv.includes("--tests") ? tests() : page());
