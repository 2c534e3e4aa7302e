// The service worker: keeps the page itself, so that it opens at once and can say that the adapter is out of reach.
// What it may keep is this list. Live data, settings and accounts never pass through it: they are not on the list.

/** Filled in by the build: the page's own files, and a hash of them. */
declare const SHELL: readonly string[];
declare const VERSION: string;

interface Extendable extends Event {
  waitUntil(done: Promise<unknown>): void;
}
interface FetchLike extends Event {
  readonly request: Request;
  respondWith(answer: Promise<Response>): void;
}

const CACHE = `foldsight-${VERSION}`;
const worker = self as unknown as { skipWaiting(): Promise<void>; readonly registration: { readonly scope: string } };
const paths = new Set(SHELL.map((name) => new URL(name, worker.registration.scope).pathname));

addEventListener("install", (event) => {
  (event as Extendable).waitUntil(
    caches.open(CACHE).then(async (cache) => {
      await cache.addAll(SHELL.map((name) => new Request(name, { cache: "no-cache" })));
      await worker.skipWaiting();
    }),
  );
});

addEventListener("activate", (event) => {
  (event as Extendable).waitUntil(
    caches.keys().then((names) => Promise.all(names.filter((name) => name !== CACHE).map((name) => caches.delete(name)))),
  );
});

addEventListener("fetch", (event) => {
  const { request, respondWith } = event as FetchLike;
  const url = new URL(request.url);
  if (request.method !== "GET" || url.origin !== location.origin || url.search !== "" || !paths.has(url.pathname)) return;
  respondWith.call(event, fresh(request));
});

/** The adapter's own answer where there is one, so that an updated adapter never meets yesterday's page. */
async function fresh(request: Request): Promise<Response> {
  try {
    const response = await fetch(request);
    if (response.ok) return response;
  } catch {
    // out of reach
  }
  return (await caches.match(request)) ?? Response.error();
}
