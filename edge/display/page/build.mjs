// Builds the page into ../static; with --tests, the unit tests into build/.
import { build } from "esbuild";
import { createHash } from "node:crypto";
import { cp, mkdir, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { icon } from "./icon.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const common = { absWorkingDir: here, bundle: true, logLevel: "warning", target: ["chrome90", "safari15", "firefox90"] };
const minified = { ...common, format: "esm", minify: true, legalComments: "none" };

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

function manifest(words) {
  const own = (size, purpose) => ({ src: `icon-${purpose}-${size}.png`, sizes: `${size}x${size}`, type: "image/png", purpose });
  return {
    id: "./",
    name: words.product,
    short_name: words.product,
    description: words.notice,
    lang: "en",
    start_url: "./",
    scope: "./",
    display: "standalone",
    orientation: "any",
    background_color: "#0a0e13",
    theme_color: "#0a0e13",
    icons: [own(192, "any"), own(512, "any"), own(512, "maskable"), { src: "icon.svg", sizes: "any", type: "image/svg+xml" }],
  };
}

async function page() {
  const out = join(here, "..", "static");
  await rm(out, { recursive: true, force: true });
  await mkdir(out, { recursive: true });
  await build({ ...minified, entryPoints: { page: "src/main.ts", style: "src/style.css" }, outdir: out });
  await cp(join(here, "public"), out, { recursive: true });
  const fixed = (await texts()).fixed;
  const html = (await readFile(join(here, "src", "index.html"), "utf8")).replace(/\{\{(\w+)\}\}/g, (_, key) => {
    if (!(key in fixed)) throw new Error(`src/index.html uses {{${key}}}, which src/texts.ts does not have`);
    return escape(fixed[key]);
  });
  await writeFile(join(out, "index.html"), html);
  await writeFile(join(out, "manifest.webmanifest"), JSON.stringify(manifest(fixed)));
  for (const [size, purpose] of [[180, "maskable"], [192, "any"], [512, "any"], [512, "maskable"]]) {
    await writeFile(join(out, `icon-${purpose}-${size}.png`), icon(size, purpose === "maskable"));
  }
  // What the service worker may keep: all that was built, and nothing else.
  const files = (await readdir(out)).filter((name) => name !== "index.html").sort();
  const hash = createHash("sha256");
  for (const name of ["index.html", ...files]) hash.update(await readFile(join(out, name)));
  await build({
    ...minified,
    entryPoints: { worker: "src/worker.ts" },
    outdir: out,
    format: "iife",
    define: { SHELL: JSON.stringify(["./", ...files]), VERSION: JSON.stringify(hash.digest("hex").slice(0, 12)) },
  });
}

await (process.argv.includes("--tests") ? tests() : page());
